package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// systemctl makes a program of that name say that the system is in the state.
func systemctl(t *testing.T, says string) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$*\" = is-system-running ] && echo " + says + "\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
}

// leaving is a departure, whose db announces one address until forget is called.
func leaving(release func() error) (d departure, forget func()) {
	db, w := state.New()
	row := state.Announcement{Addr: address(211), Interface: "eth1"}
	w.Update(func(tx *state.Tx) { db.Announcements.Put(tx, row) })
	return departure{db: db, writer: w, node: "n", within: 10 * time.Second, log: slog.New(slog.DiscardHandler),
			release: func(context.Context) error { return release() }},
		func() { w.Update(func(tx *state.Tx) { db.Announcements.Delete(tx, row.RowKey()) }) }
}

func TestDeparture(t *testing.T) {
	t.Run("of the daemon alone", func(t *testing.T) {
		systemctl(t, "degraded")
		d, _ := leaving(func() error { t.Error("addresses were released"); return nil })
		ctx, stop := context.WithCancel(t.Context())
		work, end := d.outlast(ctx)
		defer end()
		if work.Err() != nil {
			t.Fatal("it has ended before anybody asked")
		}
		stop()
		next(t, "the daemon ends", work.Done())
	})
	t.Run("with the machine", func(t *testing.T) {
		systemctl(t, "stopping")
		released := make(chan struct{})
		d, forget := leaving(func() error { close(released); return nil })
		ctx, stop := context.WithCancel(t.Context())
		work, end := d.outlast(ctx)
		defer end()
		stop()
		next(t, "addresses are released", released)
		if work.Err() != nil {
			t.Error("it ended while an address was announced")
		}
		forget()
		next(t, "the daemon ends", work.Done())
	})
	t.Run("with the machine, and routes", func(t *testing.T) {
		systemctl(t, "stopping")
		d, _ := leaving(func() error { return errors.New("the store is down") })
		route := state.BGPRoute{Instance: "tor", Prefix: netip.PrefixFrom(address(211), 32), Addrs: []netip.Addr{address(211)}}
		d.writer.Update(func(tx *state.Tx) {
			d.db.BGPRoutes.Put(tx, route)
			d.db.BGPRoutes.Put(tx, state.BGPRoute{Instance: "tor", Prefix: netip.MustParsePrefix("172.20.1.0/24")}) // which stays
		})
		snap := d.db.Snapshot()
		ctx, stop := context.WithCancel(t.Context())
		work, end := d.outlast(ctx)
		defer end()
		stop()
		next(t, "the node is said to leave", d.db.MarksChanged(snap))
		if work.Err() != nil {
			t.Error("it ended while a route was advertised")
		}
		d.writer.Update(func(tx *state.Tx) { d.db.BGPRoutes.Delete(tx, route.RowKey()) })
		next(t, "the daemon ends", work.Done())
	})
	t.Run("with the machine, as its kubelet says", func(t *testing.T) {
		systemctl(t, "running")
		db, w := state.New()
		d := departure{db: db, node: "n"}
		if d.machineStops(t.Context()) {
			t.Error("a restart is taken for a shutdown")
		}
		w.Update(func(tx *state.Tx) { db.Nodes.Put(tx, state.Node{Name: "n", Stopping: true}) })
		if !d.machineStops(t.Context()) {
			t.Error("it is taken for a restart")
		}
	})
	t.Run("without the store", func(t *testing.T) {
		systemctl(t, "stopping")
		d, _ := leaving(func() error { return errors.New("the store is down") })
		ctx, stop := context.WithCancel(t.Context())
		work, end := d.outlast(ctx)
		defer end()
		stop()
		next(t, "the daemon ends", work.Done())
	})
	t.Run("nobody takes the addresses", func(t *testing.T) {
		systemctl(t, "stopping")
		d, _ := leaving(func() error { return nil })
		d.within = 500 * time.Millisecond
		ctx, stop := context.WithCancel(t.Context())
		work, end := d.outlast(ctx)
		defer end()
		stop()
		next(t, "the daemon ends", work.Done())
	})
}
