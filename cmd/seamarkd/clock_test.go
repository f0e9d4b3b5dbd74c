package main

import (
	"path/filepath"
	"testing"
	"time"
)

func TestSteppedClock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offset")
	off := func() time.Duration { return time.Until(steppedClock{file: file}.Wall()).Round(time.Minute) }
	if got := off(); got != 0 {
		t.Errorf("without a file the clock is off by %v", got)
	}
	for text, want := range map[string]time.Duration{"1h\n": time.Hour, "-1h": -time.Hour, "0": 0, "later": 0} {
		write(t, file, text, 0o600)
		if got := off(); got != want {
			t.Errorf("%q: off by %v, want %v", text, got, want)
		}
	}
	before := steppedClock{file: file}.Boottime()
	write(t, file, "1h", 0o600)
	if after := (steppedClock{file: file}).Boottime(); after-before > time.Minute {
		t.Errorf("CLOCK_BOOTTIME went from %v to %v", before, after)
	}
}
