package coexist

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// cni reads the network configurations, in the order of their names: of the
// files with these endings, runtimes take the first (libcni.ConfFiles).
func (h Host) cni(f *Findings) error {
	entries, err := os.ReadDir(h.CNIDir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list network configurations: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(h.CNIDir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return fmt.Errorf("read network configuration: %w", err)
		}
		config := CNIConfig{File: e.Name()}
		if config.Plugins, err = pluginsOf(data); err != nil {
			config.Err = err.Error()
		}
		f.CNI = append(f.CNI, config)
	}
	return nil
}

// pluginsOf returns the types of the plugins in a network configuration: one
// plugin's, or a list (CNI specification, section 1).
func pluginsOf(config []byte) ([]string, error) {
	type plugin struct {
		Type string `json:"type"`
	}
	var c struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	if c.Plugins == nil {
		c.Plugins = []plugin{c.plugin}
	}
	var types []string
	for _, p := range c.Plugins {
		if p.Type == "" {
			return nil, errors.New("a plugin has no type")
		}
		types = append(types, p.Type)
	}
	if types == nil {
		return nil, errors.New("the list of plugins is empty")
	}
	return types, nil
}
