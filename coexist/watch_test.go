package coexist

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// within bounds what is awaited.
const within = 20 * time.Second

// buffer is a log that may be read meanwhile.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), what)
}

// TestWatcher: the first findings are reported, and then those that differ; an
// error is logged once for as long as it stays.
func TestWatcher(t *testing.T) {
	dir, proc := t.TempDir(), t.TempDir()
	settings(t, proc, nil)
	found := make(chan Findings, 100)
	var log buffer
	w := &Watcher{Host: Host{CNIDir: dir, Proc: proc}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Report: func(f Findings) { found <- f }, Every: time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	next := func(what string, right func(Findings) bool) {
		t.Helper()
		select {
		case f := <-found:
			if !right(f) {
				t.Fatalf("%s: found %+v", what, f)
			}
		case <-time.After(within):
			t.Fatalf("%s: nothing was reported", what)
		}
	}
	next("at first", func(f Findings) bool { return f.CNI == nil && len(f.AnyARP) == 2 })

	// Whole at once, as installers do.
	file := filepath.Join(proc, "new.conf")
	write(t, proc, map[string]string{"new.conf": `{"type": "bridge"}`})
	if err := os.Rename(file, filepath.Join(dir, "10-new.conf")); err != nil {
		t.Fatal(err)
	}
	next("a new configuration", func(f Findings) bool { return len(f.CNI) == 1 && f.CNI[0].Plugins[0] == "bridge" })

	if err := os.Rename(filepath.Join(proc, "sys/net/ipv4/ip_forward"), filepath.Join(proc, "away")); err != nil {
		t.Fatal(err)
	}
	next("a setting that cannot be read", func(f Findings) bool { return len(f.CNI) == 1 && f.AnyARP == nil })
	if err := os.Rename(filepath.Join(proc, "away"), filepath.Join(proc, "sys/net/ipv4/ip_forward")); err != nil {
		t.Fatal(err)
	}
	next("it can again", func(f Findings) bool { return len(f.AnyARP) == 2 })
	if n := log.count("ip_forward"); n != 1 {
		t.Errorf("the error was logged %d times", n)
	}

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(within):
		t.Error("Run did not end")
	}
	if len(found) > 0 {
		t.Errorf("what had not changed was reported: %+v", <-found)
	}
}
