package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
)

// cniPlugin is the plugin's program, and its type in network configurations.
const cniPlugin = "seamark-cni"

// cniConfFile is the network configuration's name: runtimes take the first by name.
const cniConfFile = "10-seamark.conflist"

// cniConf is the network configuration. Runtimes that know CNI 1.1 choose it
// from cniVersions; older ones read cniVersion alone and refuse what they do not
// know. For the capability they tell the plugin the host ports of pods.
const cniConf = `{
  "cniVersion": "1.0.0",
  "cniVersions": ["1.0.0", "1.1.0"],
  "name": "seamark",
  "plugins": [{"type": "` + cniPlugin + `", "capabilities": {"portMappings": true}}]
}
`

// newInstallCNICommand is what the chart's init container runs with cni.enabled.
func newInstallCNICommand() *cobra.Command {
	var plugin, binDir, confDir string
	cmd := &cobra.Command{
		Use:   "install-cni",
		Short: "Install seamark-cni and its network configuration: this node's pods are then Seamark's",
		Long: "Install seamark-cni and its network configuration where the container runtime looks for\n" +
			"them. Pods that start after that get their network from Seamark. What is there already\n" +
			"and the same is left alone. It refuses when another CNI's configuration would win.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if plugin == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find %s (or give --plugin): %w", cniPlugin, err)
				}
				plugin = filepath.Join(filepath.Dir(self), cniPlugin)
			}
			changed, err := installCNI(plugin, binDir, confDir)
			for _, path := range changed {
				fmt.Fprintln(cmd.OutOrStdout(), path, "installed")
			}
			if err != nil {
				return fmt.Errorf("install CNI plugin: %w", err)
			}
			if len(changed) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "everything is installed already")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&plugin, "plugin", "", "the "+cniPlugin+" to install (default: the one beside this program)")
	cmd.Flags().StringVar(&binDir, "bin-dir", "/opt/cni/bin", "where the runtime looks for plugins")
	cmd.Flags().StringVar(&confDir, "conf-dir", "/etc/cni/net.d", "where the runtime looks for network configurations")
	return cmd
}

// installCNI returns the paths of the files it wrote. The plugin is there
// before the configuration that names it.
func installCNI(plugin, binDir, confDir string) (changed []string, err error) {
	program, err := os.ReadFile(plugin)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(binDir, 0o755), os.MkdirAll(confDir, 0o755)); err != nil {
		return nil, err
	}
	if err := checkFirstConf(confDir); err != nil {
		return nil, err
	}
	for _, file := range []struct {
		path    string
		content []byte
		mode    fs.FileMode
	}{
		{filepath.Join(binDir, cniPlugin), program, 0o755},
		{filepath.Join(confDir, cniConfFile), []byte(cniConf), 0o644},
	} {
		did, err := replaceFile(file.path, file.content, file.mode)
		if err != nil {
			return changed, err
		}
		if did {
			changed = append(changed, file.path)
		}
	}
	return changed, nil
}

// checkFirstConf refuses a directory in which a runtime would take another
// configuration than ours: it takes the first by name (containerd, CRI-O).
func checkFirstConf(dir string) error {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return err
	}
	for _, e := range entries {
		isConf := slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name()))
		if isConf && e.Name() < cniConfFile {
			return fmt.Errorf("%s is another CNI's and comes before %s: the runtime would go on using it; remove it when that CNI is gone, or leave the pods to it (cni.enabled=false)",
				filepath.Join(dir, e.Name()), cniConfFile)
		}
	}
	return nil
}

// replaceFile makes the file at path have the content and mode, and says
// whether that took anything. At every moment the old or the new one is there,
// whole; a program that runs keeps the one it was started from.
func replaceFile(path string, content []byte, mode fs.FileMode) (changed bool, err error) {
	if info, err := os.Lstat(path); err == nil && info.Mode() == mode {
		if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, content) {
			return false, nil
		}
	}
	// No runtime takes a file without an extension of its own for a configuration.
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+cniPlugin+"-*")
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(tmp.Name(), path)
}
