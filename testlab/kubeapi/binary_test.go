package kubeapi

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cacheOf makes a user's cache folder of the test's own.
func cacheOf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	return filepath.Join(dir, "seamark")
}

func TestBinaryIsKeyedByItsSources(t *testing.T) {
	cache := cacheOf(t)
	b, err := newBuild()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.path, filepath.Join(cache, "kube-")) || !strings.HasPrefix(b.version, "v1.") ||
		!strings.Contains(b.ldflags, "version.gitVersion="+b.version+" ") {
		t.Errorf("the build is %+v", b)
	}
	if _, ok := Binary(); ok {
		t.Error("an empty cache has the binary")
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if path, ok := Binary(); !ok || path != b.path {
		t.Errorf("in the cache, and found is %q, %v", path, ok)
	}
	if path, err := Build(t.Context(), io.Discard); err != nil || path != b.path {
		t.Errorf("in the cache, and built is %q, %v", path, err)
	}

	root := checkoutOf(t, "require k8s.io/kubernetes v1.35.4\n")
	t.Chdir(root)
	other, err := newBuild()
	if err != nil {
		t.Fatal(err)
	}
	if other.path == b.path {
		t.Error("other sources have the same key")
	}
}

// checkoutOf is a checkout with a testlab/kube that has this in its go.mod.
func checkoutOf(t *testing.T, gomod string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, sourceDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": "module kube\n" + gomod, "go.sum": "", "main.go": "package main\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBuildRefuses(t *testing.T) {
	cache := cacheOf(t)
	for _, tc := range []struct {
		name, dir, want string
	}{
		{"no checkout", t.TempDir(), "no testlab/kube around this program or the working directory: run it in a checkout"},
		{"no Kubernetes", checkoutOf(t, ""), "go.mod requires no k8s.io/kubernetes"},
		{"what does not build", checkoutOf(t, "\nrequire k8s.io/kubernetes v1.35.4\n"), "run go build in"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Chdir(tc.dir)
			_, err := Build(t.Context(), io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if left, _ := filepath.Glob(filepath.Join(cache, "building-*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestOldBuildsGo(t *testing.T) {
	cache := t.TempDir()
	then := time.Now().Add(-time.Hour)
	for name, used := range map[string]time.Time{
		"kube-old": then.Add(-time.Second), "building-old": then.Add(-time.Second), "kube-new": then.Add(time.Second), "else": then.Add(-time.Second),
	} {
		dir := filepath.Join(cache, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(dir, used, used); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeOld(cache, then); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != "else kube-new" {
		t.Errorf("left are %s, want else and kube-new", got)
	}
}
