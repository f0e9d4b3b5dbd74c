package coexist

import (
	"context"
	"log/slog"
	"reflect"
	"time"
)

// Watcher looks at a host again and again.
type Watcher struct {
	Host Host
	Log  *slog.Logger
	// Report is called with the first Findings, and with every one that differs
	// from the last.
	Report func(Findings)
	// Every is the time between looks; 30 s when 0.
	Every time.Duration
}

// Run looks at the host until ctx ends. What cannot be read is logged, once.
func (w *Watcher) Run(ctx context.Context) error {
	every := w.Every
	if every == 0 {
		every = 30 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last *Findings
	var failed string
	for {
		found, err := w.Host.Look()
		switch {
		case err == nil:
			failed = ""
		case err.Error() != failed:
			failed = err.Error()
			w.Log.Warn("look for other network programs on this node", "retry", every, "err", err)
		}
		if last == nil || !reflect.DeepEqual(found, *last) {
			last = &found
			w.Report(found)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
