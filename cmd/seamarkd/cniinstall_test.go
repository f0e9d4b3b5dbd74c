package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

// cniDirs is a plugin to install and two directories that are not there yet.
func cniDirs(t *testing.T) (plugin, binDir, confDir string) {
	dir := t.TempDir()
	plugin = filepath.Join(dir, "seamark-cni")
	write(t, plugin, "the plugin", 0o755)
	return plugin, filepath.Join(dir, "opt/bin"), filepath.Join(dir, "etc/net.d")
}

func write(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// holds is what a directory has, by name; temporary files would be seen.
func holds(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(content)
	}
	return files
}

func install(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var stdout output
	cmd := newInstallCNICommand()
	cmd.SetArgs(args)
	cmd.SetOut(&stdout)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	return stdout.String(), err
}

func TestInstallCNI(t *testing.T) {
	plugin, binDir, confDir := cniDirs(t)
	args := []string{"--plugin", plugin, "--bin-dir", binDir, "--conf-dir", confDir}
	bin, conf := filepath.Join(binDir, "seamark-cni"), filepath.Join(confDir, "10-seamark.conflist")

	out, err := install(t, args...)
	if want := bin + " installed\n" + conf + " installed\n"; err != nil || out != want {
		t.Fatalf("first: %q, %v; want %q", out, err, want)
	}
	if files := holds(t, binDir); len(files) != 1 || files["seamark-cni"] != "the plugin" {
		t.Errorf("%s holds %v", binDir, files)
	}
	for path, mode := range map[string]fs.FileMode{bin: 0o755, conf: 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	// What a runtime makes of it.
	list, err := libcni.LoadConfList(confDir, "seamark")
	if err != nil {
		t.Fatal(err)
	}
	if list.CNIVersion != "1.1.0" || len(list.Plugins) != 1 || list.Plugins[0].Network.Type != "seamark-cni" ||
		!list.Plugins[0].Network.Capabilities["portMappings"] {
		t.Errorf("configuration %+v", list)
	}

	before, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := install(t, args...); err != nil || out != "everything is installed already\n" {
		t.Errorf("again: %q, %v", out, err)
	}
	if after, err := os.Stat(bin); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same plugin was written again (%v)", err)
	}

	// An upgrade, while the plugin runs: that one keeps its file.
	running, err := os.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	write(t, plugin, "the new plugin", 0o755)
	if out, err := install(t, args...); err != nil || out != bin+" installed\n" {
		t.Errorf("upgrade: %q, %v", out, err)
	}
	if files := holds(t, binDir); len(files) != 1 || files["seamark-cni"] != "the new plugin" {
		t.Errorf("%s holds %v", binDir, files)
	}
	old := make([]byte, 20)
	if n, err := running.Read(old); err != nil || string(old[:n]) != "the plugin" {
		t.Errorf("the running plugin's file became %q, %v", old[:n], err)
	}
	if err := os.Chmod(bin, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := install(t, args...); err != nil || out != bin+" installed\n" {
		t.Errorf("a plugin that cannot be run: %q, %v", out, err)
	}
}

func TestInstallCNIRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, plugin, binDir, confDir string)
		want    []string
	}{
		"no plugin": {func(t *testing.T, plugin, _, _ string) { os.Remove(plugin) },
			[]string{"install CNI plugin", "seamark-cni: no such file"}},
		"another CNI first": {func(t *testing.T, _, _, confDir string) {
			os.MkdirAll(confDir, 0o755)
			write(t, filepath.Join(confDir, "05-other.conflist"), "{}", 0o644)
		}, []string{"05-other.conflist is another CNI's and comes before 10-seamark.conflist", "remove it", "cni.enabled=false"}},
		"a directory in the way": {func(t *testing.T, _, binDir, _ string) { os.MkdirAll(filepath.Join(binDir, "seamark-cni"), 0o755) },
			[]string{"install CNI plugin", "seamark-cni: file exists"}},
		"a file for a directory": {func(t *testing.T, _, binDir, _ string) {
			os.MkdirAll(filepath.Dir(binDir), 0o755)
			write(t, binDir, "", 0o644)
		}, []string{"bin: not a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			plugin, binDir, confDir := cniDirs(t)
			tc.prepare(t, plugin, binDir, confDir)
			_, err := install(t, "--plugin", plugin, "--bin-dir", binDir, "--conf-dir", confDir)
			if err == nil {
				t.Fatal("installed")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			// Nothing half done: no configuration, no temporary file.
			for _, dir := range []string{binDir, confDir} {
				entries, _ := os.ReadDir(dir)
				if slices.ContainsFunc(entries, func(e os.DirEntry) bool {
					return strings.HasPrefix(e.Name(), ".") || e.Name() == cniConfFile
				}) {
					t.Errorf("%s holds %v", dir, entries)
				}
			}
		})
	}
}

// What others put after ours does not matter.
func TestInstallCNIBeforeOthers(t *testing.T) {
	plugin, binDir, confDir := cniDirs(t)
	if err := os.MkdirAll(confDir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(confDir, "87-podman.conflist"), "{}", 0o644)
	write(t, filepath.Join(confDir, "00-readme.txt"), "", 0o644)
	if _, err := install(t, "--plugin", plugin, "--bin-dir", binDir, "--conf-dir", confDir); err != nil {
		t.Error(err)
	}
}
