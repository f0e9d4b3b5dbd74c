package main

import (
	"bytes"
	"context"
	"log/slog"
	"os/exec"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// releaseWithin bounds how long a daemon goes on when its machine shuts down: well
// within the 15 s that systemd's unit and the DaemonSet have it stop in.
const releaseWithin = 8 * time.Second

// maxShutdownDelay is how long routers have at most, within that, to find other
// paths before the routes of a machine that shuts down are withdrawn.
const maxShutdownDelay = 5 * time.Second

// departure is the difference between a daemon that stops, whose addresses wait
// for the next one (--restart-grace), and one that stops with its machine, whose
// addresses are to be other nodes' first.
type departure struct {
	db     *state.DB
	writer *state.Writer
	node   string
	// release has the coordinator move this node's addresses (announce.Announcer's).
	release func(context.Context) error
	within  time.Duration
	log     *slog.Logger
}

// outlast returns a context that ends with ctx or, when the machine shuts down
// then, once this node answers for no address any more and advertises none. end ends it in any case.
func (d departure) outlast(ctx context.Context) (work context.Context, end func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		defer cancel()
		d.leave(work)
	})
	return work, func() { stop(); cancel() }
}

func (d departure) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.within)
	defer cancel()
	if !d.machineStops(ctx) {
		return
	}
	d.log.Info("the machine shuts down: this node's addresses go to others")
	d.writer.Update(func(tx *state.Tx) { tx.Mark(leavingMark) })
	err := d.release(ctx)
	if err != nil {
		d.log.Warn("release addresses: they go to others when the lease ends", "err", err)
	}
	for {
		snap := d.db.Snapshot()
		left := 0
		for r := range d.db.BGPRoutes.All(snap) {
			if !r.OfPods() {
				left++
			}
		}
		if err == nil { // else nobody takes them
			left += len(d.db.Announcements.Rows(snap))
		}
		if left == 0 {
			return
		}
		if state.Wait(ctx, snap, d.within, d.db.Announcements.Watch(), d.db.BGPRoutes.Watch()) != nil {
			d.log.Warn("release addresses: not all have gone over in time", "left", left, "waited", d.within)
			return
		}
	}
}

// machineStops says whether the machine shuts down: systemd says so or, from
// inside a pod, this node's kubelet does.
func (d departure) machineStops(ctx context.Context) bool {
	if node, _ := d.db.Nodes.Get(d.db.Snapshot(), d.node); node.Stopping {
		return true
	}
	// It exits with another code than 0 for every state but "running".
	said, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	return string(bytes.TrimSpace(said)) == "stopping"
}
