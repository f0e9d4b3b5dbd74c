package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
)

// drainer has nodes give their addresses up.
type drainer struct {
	source source.Source
	inputs func() (announce.Inputs, bool) // as of explainer
	log    *slog.Logger
}

// drain is control.Server's Drain.
func (d drainer) drain(ctx context.Context, node string, drained, force bool) error {
	if drained && !force {
		in, known := d.inputs()
		if !known {
			return fmt.Errorf("drain %s: %w", node, errNotKnown)
		}
		if rows := announce.Stranded(in, node); len(rows) > 0 {
			const most = 5
			var addrs []string
			for _, row := range rows[:min(len(rows), most)] {
				addrs = append(addrs, fmt.Sprintf("%s (%s)", row.Addr, row.Service))
			}
			if more := len(rows) - most; more > 0 {
				addrs = append(addrs, fmt.Sprintf("%d more", more))
			}
			return fmt.Errorf("drain %s: %w: %s", node, control.ErrStranded, strings.Join(addrs, ", "))
		}
	}
	if err := d.source.SetDrained(ctx, node, drained); err != nil {
		return err
	}
	d.log.Info("node drained, or no longer, as asked for on the control socket", "node", node, "drained", drained)
	return nil
}
