package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// Each peer has the password of the Secret or of the file that it names, and
// nobody else's.
func TestReadPasswords(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tor := state.ObjectName{Namespace: "seamark-system", Name: "tor"}
	elsewhere := state.ObjectName{Namespace: "network", Name: "tor"}
	passwords, unread, problems := readPasswords([]state.BGPPeer{
		{Name: "none"},
		{Name: "secret", PasswordSecret: tor},
		{Name: "same", PasswordSecret: tor},
		{Name: "elsewhere", PasswordSecret: elsewhere},
		{Name: "gone", PasswordSecret: state.ObjectName{Namespace: "seamark-system", Name: "gone"}},
		{Name: "unread", PasswordSecret: state.ObjectName{Namespace: "seamark-system", Name: "unread"}},
		{Name: "file", PasswordFile: file("tor", "of the file\n")},
		{Name: "long", PasswordFile: file("long", strings.Repeat("x", 81))},
		{Name: "missing", PasswordFile: filepath.Join(dir, "missing")},
	}, []state.Secret{
		{Name: tor, Password: "first"},
		{Name: elsewhere, Password: "other"},
		{Name: state.ObjectName{Namespace: "seamark-system", Name: "gone"}, Password: "last", Invalid: "is not there"},
		{Name: state.ObjectName{Namespace: "seamark-system", Name: "unread"}, Invalid: "is not there", Cure: "create it"},
	})
	want := map[string]string{"secret": "first", "same": "first", "elsewhere": "other", "gone": "last", "file": "of the file"}
	if !maps.Equal(passwords, want) {
		t.Errorf("passwords %v, want %v", passwords, want)
	}
	if len(problems) != 2 {
		t.Errorf("problems %v", problems)
	}
	if len(unread) != 3 || unread["unread"] != "Secret seamark-system/unread is not there: create it" ||
		!strings.Contains(unread["long"], "81 bytes") || !strings.Contains(unread["missing"], "no such file") {
		t.Errorf("unread %v", unread)
	}
}

// speaking is a node with a session that is established, and two that cannot be.
func speaking(db *state.DB, w *state.Writer) {
	w.Update(func(tx *state.Tx) {
		for _, s := range []state.BGPSession{{Instance: "tor", Peer: "up", Remote: address(200)}, {Instance: "tor", Peer: "barred", Bar: "it has no password"},
			{Instance: "other", Peer: "up"}, {Instance: "tor", Peer: "gone", Status: state.Status{Phase: state.Deleting}}} {
			db.BGPSessions.Put(tx, s)
		}
		db.BGPSpeakers.Put(tx, state.BGPSpeaker{Instance: "other", Status: state.Status{Phase: state.Failed, Err: "port 179 is in use"}})
		db.BGPSessionStates.Put(tx, state.BGPSessionState{Instance: "tor", Peer: "up", Remote: address(200), State: state.BGPEstablished, Flaps: 2,
			Received: 3, Advertised: 4, UpdatesReceived: 5, UpdatesSent: 6})
	})
}

// Each session that there is to be has its series, also one that cannot be had.
func TestBGPMetrics(t *testing.T) {
	db, w := state.New()
	speaking(db, w)
	m := newMetrics(t, counter.services)
	m.more = append(m.more, bgpMetrics{db})
	lines := scrape(t, m)
	for _, want := range []string{
		`seamark_bgp_session_established{instance="tor",peer="up"} 1`,
		`seamark_bgp_session_established{instance="tor",peer="barred"} 0`,
		`seamark_bgp_session_established{instance="other",peer="up"} 0`,
		`seamark_bgp_session_flaps_total{instance="tor",peer="up"} 2`,
		`seamark_bgp_prefixes_received{instance="tor",peer="up"} 3`,
		`seamark_bgp_prefixes_advertised{instance="tor",peer="up"} 4`,
		`seamark_bgp_updates_total{direction="received",instance="tor",peer="up"} 5`,
		`seamark_bgp_updates_total{direction="sent",instance="tor",peer="up"} 6`,
		`seamark_bgp_updates_total{direction="sent",instance="tor",peer="barred"} 0`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no series %s in\n%v", want, lines)
		}
	}
	for _, line := range lines {
		if strings.Contains(line, "gone") {
			t.Errorf("a session that is to be none has %s", line)
		}
	}
}

// A peer is known by its name or address, and no other.
func TestKnownPeer(t *testing.T) {
	db, w := state.New()
	d := &deciders{db: db}
	if err := d.knownPeer(db.Snapshot(), ""); err != nil {
		t.Error(err)
	}
	if err := d.knownPeer(db.Snapshot(), "up"); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("without sessions: %v", err)
	}
	speaking(db, w)
	for peer, known := range map[string]bool{"": true, "up": true, "barred": true, "192.168.10.200": true, "typo": false, "192.168.10.201": false, "tor": false} {
		err := d.knownPeer(db.Snapshot(), peer)
		if known != (err == nil) || err != nil && (!errors.Is(err, source.ErrNotFound) || !strings.HasSuffix(err.Error(), "there are barred, gone, up")) {
			t.Errorf("%q: %v", peer, err)
		}
	}
}

// A node that is drained, or has the label of KEP-1143, does not advertise Services, and its
// pods as before.
func TestLeavingNode(t *testing.T) {
	db, w := state.New()
	d := &deciders{db: db, writer: w, node: "n1", log: slog.New(slog.DiscardHandler), bgpDrainDelay: 10 * time.Millisecond}
	name := state.ObjectName{Namespace: "default", Name: "webpod"}
	node := state.Node{Name: "n1", Addrs: []netip.Addr{address(101)}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("172.20.1.0/24")}}
	w.Update(func(tx *state.Tx) {
		db.Nodes.Put(tx, node)
		db.BGPInstances.Put(tx, state.BGPInstance{Name: "tor", BGPIdentity: state.BGPIdentity{ASN: 65001}})
		db.BGPPeers.Put(tx, state.BGPPeer{Name: "router", Remote: address(200), ASN: state.BGPPeerASN{Number: 65000}})
		db.BGPAdvertisements.Put(tx, state.BGPAdvertisement{Name: "all", Addresses: []state.BGPAddresses{{Kind: state.KindLoadBalancer}, {}}})
		db.Services.Put(tx, state.Service{Name: name, Type: "LoadBalancer", Ingress: []netip.Addr{address(211)}})
		db.Frontends.Put(tx, state.Frontend{Addr: address(211), Port: 80, Protocol: state.TCP, Service: name, Kind: state.KindLoadBalancer,
			Backends: []state.Backend{{Addr: netip.MustParseAddr("172.20.1.1"), Port: 80, Node: "n1", Ready: true}}})
		db.Nodes.MarkSynced(tx)
		db.NodeLeases.MarkSynced(tx)
		db.BGPInstances.MarkSynced(tx)
		db.BGPPeers.MarkSynced(tx)
		db.BGPAdvertisements.MarkSynced(tx)
		db.BFDProfiles.MarkSynced(tx)
		db.Services.MarkSynced(tx)
		db.EndpointSlices.MarkSynced(tx)
		db.Pools.MarkSynced(tx)
		db.Agents.MarkSynced(tx)
		db.Devices.MarkSynced(tx)
		db.Endpoints.MarkSynced(tx)
		tx.Mark(decidedMark(db.Attachments.Name()))
		tx.Mark(decidedMark(db.Frontends.Name()))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	done := make(chan error, 1)
	go func() { done <- d.bgp(ctx) }()
	advertises := func(want ...string) {
		t.Helper()
		for {
			snap := db.Snapshot()
			var got []string
			for r := range db.BGPRoutes.All(snap) {
				if r.Status.Wanted() {
					got = append(got, r.Prefix.String())
				}
			}
			slices.Sort(got)
			if slices.Equal(got, want) {
				return
			}
			if err := state.Wait(ctx, snap, time.Minute, db.BGPRoutes.Watch()); err != nil {
				t.Fatalf("it advertises %v, want %v", got, want)
			}
		}
	}
	label := func(labels map[string]string) {
		node.Labels = labels
		w.Update(func(tx *state.Tx) { db.Nodes.Put(tx, node) })
	}
	advertises("172.20.1.0/24", "192.168.10.211/32")
	label(map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": "false"}) // of any value
	advertises("172.20.1.0/24")
	label(nil)
	advertises("172.20.1.0/24", "192.168.10.211/32")
	w.Update(func(tx *state.Tx) { db.NodeLeases.Put(tx, state.NodeLease{Node: "n1", Drained: true}) })
	advertises("172.20.1.0/24")
	cancel()
	must(t, <-done)
}
