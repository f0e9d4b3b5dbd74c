package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountBPFFS(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("needs root and no -short: it mounts")
	}
	dir := filepath.Join(t.TempDir(), "bpf")
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	for i, want := range []bool{true, false} {
		if mounted, err := mountBPFFS(dir); err != nil || mounted != want {
			t.Fatalf("time %d: mounted %v, %v; want %v", i+1, mounted, err, want)
		}
	}
	// A second mount on top would hide what is pinned in the first.
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); err != unix.EINVAL {
		t.Errorf("unmount of what is not mounted: %v, want %v", err, unix.EINVAL)
	}
	if _, err := mountBPFFS(filepath.Join(dir, "a/b")); err == nil {
		t.Error("mounted on a directory whose parent is not there")
	}
}
