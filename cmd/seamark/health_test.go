package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A daemon that accepts and never answers is not alive.
func TestHealthOfHangingDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "sm") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	root := newRoot()
	root.SetArgs([]string{"health", "--live", "--timeout", "100ms", "--socket", socket})
	err = root.ExecuteContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "seamarkd hangs: no answer on "+socket+" within 100ms") {
		t.Errorf("error %v", err)
	}
}
