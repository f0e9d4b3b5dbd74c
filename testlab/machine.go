package testlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// What of the machine itself the labs use: its neighbour table limits, which
// no namespace has of its own, and its cgroup tree.

const (
	neighbourDir = "/proc/sys/net/ipv4/neigh/default/"
	// neighbourFile keeps the machine's own limits while labs are up.
	neighbourFile = stateRoot + "/neighbour-limits.json"
)

// neighbourLimits are enough for the thousands of addresses that tests announce.
var neighbourLimits = map[string]int{"gc_thresh1": 8192, "gc_thresh2": 32768, "gc_thresh3": 65536}

// raiseNeighbourLimits raises the machine's limits where they are lower, and
// notes what they were.
func raiseNeighbourLimits() error {
	before := map[string]int{}
	for name, want := range neighbourLimits {
		data, err := os.ReadFile(neighbourDir + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // in a container: the limits are not ours to raise
		}
		if err != nil {
			return fmt.Errorf("raise neighbour limits: %w", err)
		}
		have, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			return fmt.Errorf("raise neighbour limits: %s: %w", name, err)
		}
		if have < want {
			before[name] = have
		}
	}
	if len(before) == 0 {
		return nil
	}
	data, err := json.Marshal(before)
	if err != nil {
		return fmt.Errorf("raise neighbour limits: %w", err)
	}
	if err := os.WriteFile(neighbourFile, data, 0o600); err != nil {
		return fmt.Errorf("raise neighbour limits: %w", err)
	}
	for name := range before {
		if err := os.WriteFile(neighbourDir+name, []byte(strconv.Itoa(neighbourLimits[name])), 0); err != nil {
			return fmt.Errorf("raise neighbour limits: %w", err)
		}
	}
	return nil
}

// restoreNeighbourLimits puts the machine's limits back when no lab is left.
func restoreNeighbourLimits() error {
	entries, err := os.ReadDir(stateRoot)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list labs: %w", err)
	}
	if slices.ContainsFunc(entries, os.DirEntry.IsDir) {
		return nil
	}
	before := map[string]int{}
	data, err := os.ReadFile(neighbourFile)
	if err == nil {
		err = json.Unmarshal(data, &before)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore neighbour limits: %w", err)
	}
	for name, value := range before {
		if err := os.WriteFile(neighbourDir+name, []byte(strconv.Itoa(value)), 0); err != nil {
			return fmt.Errorf("restore neighbour limits: %w", err)
		}
	}
	os.Remove(neighbourFile)
	os.Remove(stateRoot) // stays when another lab has begun meanwhile
	return nil
}

// cgroupDir is the directory of a host's cgroup, <cgroup2>/testlab/LAB/HOST,
// or "" on a machine without cgroup2.
func cgroupDir(lab, host string) string {
	root := cgroupRoot()
	if root == "" {
		return ""
	}
	return filepath.Join(root, "testlab", lab, host)
}

// cgroupRoot is where cgroup2 is mounted, or "".
func cgroupRoot() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		mount, super, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); len(fields) >= 5 && strings.HasPrefix(super, "cgroup2 ") {
			return fields[4]
		}
	}
	return ""
}

// removeCgroups removes the cgroups of a lab, deepest first. Their processes
// are gone, but the kernel may take a moment to notice.
func removeCgroups(ctx context.Context, lab string) error {
	root := cgroupDir(lab, "")
	if root == "" {
		return nil
	}
	return poll(ctx, "the lab's cgroups to empty", func() error {
		var dirs []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("list cgroups: %w", err)
		}
		for _, dir := range slices.Backward(dirs) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		os.Remove(filepath.Dir(root)) // stays while another lab is up
		return nil
	})
}
