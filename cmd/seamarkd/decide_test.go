package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/probe"
	"github.com/seamark-lb/seamark/state"
)

func TestHoldWhileAnnouncedOn(t *testing.T) {
	db, w := state.New()
	w.Update(func(tx *state.Tx) {
		db.Announcements.Put(tx, state.Announcement{Addr: address(211), Interface: "eth1"})
	})
	hold := holdWhileAnnouncedOn(db)
	for _, tc := range []struct {
		device string
		phase  state.Phase
		want   state.Reason
	}{
		{"eth1", state.Deleting, state.ReasonStillAnnounced},
		{"eth1", state.Pending, ""},
		{"eth2", state.Deleting, ""},
	} {
		row := state.Attachment{Device: tc.device, Status: state.Status{Phase: tc.phase}}
		if got := hold(db.Snapshot(), row); got != tc.want {
			t.Errorf("%s %s: held for %q, want %q", tc.device, tc.phase, got, tc.want)
		}
	}
}

// A device without programs answers no ARP: it is none that a policy without
// interfaces announces on. One that is down keeps its subnet known.
func TestOutside(t *testing.T) {
	node := state.Node{Name: "n", Addrs: []netip.Addr{address(100)}}
	on := func(name, prefix string, up bool) state.Device {
		return state.Device{Name: name, MAC: "02:00:00:00:00:01", Up: up, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	}
	for _, tc := range []struct {
		device state.Device
		want   bool
	}{
		{on("eth1", "192.168.10.100/24", true), true},
		{on("eth1", "192.168.10.100/24", false), true},
		{on("docker0", "172.17.0.1/16", true), false},
	} {
		if got := (&deciders{}).outside(node, tc.device); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.device, got, tc.want)
		}
	}
}

// An appliance is itself without being registered: it has the programs on the
// device of its address. What is registered counts, and a node must be.
func TestSelf(t *testing.T) {
	eth0 := state.Device{Name: "eth0", Index: 2, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.10.9/24")}}
	eth1 := state.Device{Name: "eth1", Index: 3, Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.10.100/24")}}
	for _, tc := range []struct {
		name                  string
		appliance, registered bool
		on                    string
		problems              int
	}{
		{"node", false, true, "eth1", 0},
		{"node that is not registered", false, false, "", 1},
		{"appliance", true, false, "eth0", 0},
		{"appliance that is registered", true, true, "eth1", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			db, w := state.New()
			d := &deciders{db: db, writer: w, node: "n", log: slog.New(slog.DiscardHandler)}
			if tc.appliance {
				d.appliance = address(9)
			}
			w.Update(func(tx *state.Tx) {
				if tc.registered {
					db.Nodes.Put(tx, state.Node{Name: "n", Addrs: []netip.Addr{address(100)}})
				}
				db.Nodes.Put(tx, state.Node{Name: "m", Addrs: []netip.Addr{address(101)}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("172.20.1.0/24")}})
				db.Devices.Put(tx, eth0)
				eth1.Up = true
				db.Devices.Put(tx, eth1)
				for _, mark := range []func(*state.Tx){db.Nodes.MarkSynced, db.L2Policies.MarkSynced, db.Devices.MarkSynced, db.Endpoints.MarkSynced} {
					mark(tx)
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // each decides once
			must(t, d.attachments(ctx))
			must(t, d.routes(ctx))
			on := ""
			for _, row := range db.Attachments.Rows(db.Snapshot()) {
				on += row.Device
			}
			if problems := db.NodeProblems.Rows(db.Snapshot()); on != tc.on || len(problems) != tc.problems {
				t.Errorf("on %q, problems %v; want on %q, %d", on, problems, tc.on, tc.problems)
			}
			if node, _ := db.Nodes.Get(db.Snapshot(), "n"); d.outside(node, eth1) != (tc.on == "eth1") {
				t.Errorf("%s faces outside: %v", eth1.Name, tc.on != "eth1")
			}
			if n := len(db.Routes.Rows(db.Snapshot())); n != map[bool]int{false: 1, true: 0}[tc.appliance] {
				t.Errorf("%d routes to pods", n)
			}
		})
	}
}

// Beside another CNI, whose pods kube-proxy forwards to, the ways to pods are its.
func TestRoutesPods(t *testing.T) {
	for _, tc := range []struct {
		forwarding state.Forwarding
		appliance  netip.Addr
		pods       int
		want       bool
	}{
		{state.ForwardDSR, netip.Addr{}, 0, true}, {state.ForwardDSR, address(9), 0, false},
		{state.ForwardKubeProxy, netip.Addr{}, 0, false}, {state.ForwardKubeProxy, netip.Addr{}, 1, true},
	} {
		db, w := state.New()
		d := &deciders{db: db, appliance: tc.appliance, defaults: datapath.Defaults{Forwarding: tc.forwarding}}
		w.Update(func(tx *state.Tx) {
			for i := range tc.pods {
				db.Endpoints.Put(tx, state.Endpoint{ContainerID: fmt.Sprint(i), Interface: "eth0"})
			}
		})
		if got := d.routesPods(db.Snapshot()); got != tc.want {
			t.Errorf("%s, appliance %v, %d pods: %v", tc.forwarding, tc.appliance, tc.pods, got)
		}
	}
}

// Frontends are decided by all there is, or not at all.
func TestFrontendsKnown(t *testing.T) {
	db, w := state.New()
	d := &deciders{db: db, writer: w}
	marks := map[string]func(*state.Tx){
		"services": db.Services.MarkSynced, "slices": db.EndpointSlices.MarkSynced, "nodes": db.Nodes.MarkSynced, "pools": db.Pools.MarkSynced,
		"agents": db.Agents.MarkSynced, "devices": db.Devices.MarkSynced, "pods": db.Endpoints.MarkSynced,
		"advertisements": db.BGPAdvertisements.MarkSynced, "instances": db.BGPInstances.MarkSynced, // of ClusterIPs
		"attachments": func(tx *state.Tx) { tx.Mark(decidedMark(db.Attachments.Name())) },
		"checks":      func(tx *state.Tx) { tx.Mark(probe.Checked) },
	}
	for missing := range marks {
		db, w := state.New()
		for name, mark := range marks {
			if name != missing {
				w.Update(mark)
			}
		}
		if d := (&deciders{db: db, writer: w}); d.frontendsKnown(db.Snapshot()) {
			t.Errorf("decided without %s", missing)
		}
	}
	for _, mark := range marks {
		w.Update(mark)
	}
	if !d.frontendsKnown(db.Snapshot()) {
		t.Error("not decided, though all is known")
	}
}

// The rows follow what they are decided by, and others stay as they are in the kernel.
func TestDecideFrontends(t *testing.T) {
	db, w := state.New()
	d := &deciders{db: db, writer: w, node: "n1", log: slog.New(slog.DiscardHandler)}
	slice := func(i int, ready bool) state.EndpointSlice {
		name := state.ObjectName{Namespace: "d", Name: fmt.Sprint("web", i)}
		return state.EndpointSlice{Name: name, Service: name, Ports: []state.EndpointPort{{Protocol: state.TCP, Port: 8080}},
			Endpoints: []state.Backend{{Addr: address(byte(i)), Node: "n1", Ready: ready}}}
	}
	w.Update(func(tx *state.Tx) {
		for i := range 2 {
			db.Services.Put(tx, state.Service{Name: slice(i, true).Name, Type: "LoadBalancer", Ingress: []netip.Addr{address(211 + byte(i))},
				Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}})
			db.EndpointSlices.Put(tx, slice(i, true))
		}
		for _, mark := range []func(*state.Tx){db.Services.MarkSynced, db.EndpointSlices.MarkSynced, db.Nodes.MarkSynced, db.Pools.MarkSynced,
			db.Agents.MarkSynced, db.Devices.MarkSynced, db.Endpoints.MarkSynced, db.BGPAdvertisements.MarkSynced, db.BGPInstances.MarkSynced} {
			mark(tx)
		}
		tx.Mark(decidedMark(db.Attachments.Name()))
		tx.Mark(probe.Checked)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	done := make(chan error, 1)
	go func() { done <- d.frontends(ctx) }()
	defer func() { cancel(); <-done }()
	wait := func(what string, cond func(rows []state.Frontend) bool) {
		t.Helper()
		for {
			snap := db.Snapshot()
			if cond(db.Frontends.Rows(snap)) {
				return
			}
			if err := state.Wait(ctx, snap, time.Second, db.Frontends.Watch()); err != nil {
				t.Fatalf("waited in vain: %s; rows %+v", what, db.Frontends.Rows(snap))
			}
		}
	}
	wait("both rows", func(rows []state.Frontend) bool { return len(rows) == 2 && len(rows[0].Backends) == 1 })
	w.Update(func(tx *state.Tx) { // as the reconciler does
		for _, row := range db.Frontends.Rows(tx) {
			db.Frontends.Put(tx, row.WithStatus(state.Status{Phase: state.Done}))
		}
	})
	w.Update(func(tx *state.Tx) { db.EndpointSlices.Put(tx, slice(1, false)) })
	wait("the change of one", func(rows []state.Frontend) bool {
		return len(rows[1].Backends) == 0 && rows[1].Status.Phase == state.Pending && rows[0].Status.Phase == state.Done
	})
	w.Update(func(tx *state.Tx) { db.Services.Delete(tx, slice(0, true).Name.String()) })
	wait("one to go", func(rows []state.Frontend) bool { return !rows[0].Status.Wanted() && rows[1].Status.Wanted() })
}
