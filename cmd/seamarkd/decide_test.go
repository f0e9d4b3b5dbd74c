package main

import (
	"net/netip"
	"testing"

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
		if got := outside(node, tc.device); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.device, got, tc.want)
		}
	}
}
