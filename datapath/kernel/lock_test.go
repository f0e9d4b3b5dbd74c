package kernel

import (
	"strings"
	"testing"
)

// A run directory of its own, as every container has, does not make a second
// daemon welcome to the first one's maps.
func TestSecondDaemonWithAnotherRunDir(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	other := h
	other.runDir = t.TempDir()
	for name, try := range map[string]func() error{
		"Open":    func() error { _, err := Open(other.config()); return err },
		"Cleanup": func() error { return Cleanup(other.bpffs, other.runDir) },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), "lock pins "+pinDir(h.bpffs)+": another seamarkd") {
			t.Errorf("%s beside a daemon = %v", name, err)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	other.open(t)
}
