package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/bgp"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// kernelRoutes decides what BGP and the node's own pod CIDRs put into the kernel.
func (d *deciders) kernelRoutes(ctx context.Context) error {
	db := d.db
	return db.Follow(ctx, redecide, func(snap state.Snapshot) {
		known := state.Marked(snap, decidedMark(db.BGPRoutes.Name())) && state.Marked(snap, decidedMark(db.Routes.Name())) && db.Agents.Synced(snap)
		if !known {
			return
		}
		rows := append(d.imports(snap).Routes, bgp.Blackholes(db.BGPRoutes.Rows(snap))...)
		want(d, db.KernelRoutes, append(rows, d.unreachable(snap)...))
	}, db.BGPReceived.Watch(), db.BGPPeers.Watch(), db.BGPSpeakers.Watch(), db.BGPRoutes.Watch(), db.Frontends.Watch(), db.Pools.Watch(),
		db.Nodes.Watch(), db.Devices.Watch(), db.Routes.Watch(), db.Agents.Watch(), db.MarksChanged)
}

// imports are the routes of peers that this node takes.
func (d *deciders) imports(snap state.Snapshot) bgp.Imports {
	db := d.db
	received := db.BGPReceived.Rows(snap)
	if len(received) == 0 {
		return bgp.Imports{}
	}
	var frontends []state.Frontend // at what was received, and not all: there may be thousands
	for _, r := range received {
		if r.Prefix.IsSingleIP() {
			frontends = slices.AppendSeq(frontends, db.Frontends.By(snap, state.IndexAddr, r.Prefix.Addr().String()))
		}
	}
	node, _ := d.self(snap)
	return bgp.Import(bgp.ImportInputs{Node: node, Devices: db.Devices.Rows(snap), Direct: db.Routes.Rows(snap),
		Speakers: db.BGPSpeakers.Rows(snap), Peers: db.BGPPeers.Rows(snap), Received: received,
		Advertised: db.BGPRoutes.Rows(snap), Frontends: frontends, Pools: db.Pools.Rows(snap)})
}

// unreachable are the node's own pod CIDRs: without them, a packet to an address
// that no pod has would take the default route, to a router that sends it back.
// Where another CNI wires the pods up, the addresses are its business.
func (d *deciders) unreachable(snap state.Snapshot) (rows []state.KernelRoute) {
	for a := range d.db.Agents.All(snap) {
		if a.Role == state.AgentCNI {
			return nil
		}
	}
	node, _ := d.self(snap)
	for _, cidr := range node.PodCIDRs {
		rows = append(rows, state.KernelRoute{Dst: cidr.Masked(), Kind: state.RouteUnreachable})
	}
	return rows
}

// kernelRoutesDecided is the Gate of the KernelRoutes: peers have had the time to
// say again what the daemon before this one took from them.
func (d *deciders) kernelRoutesDecided(snap state.Snapshot) bool {
	return state.Marked(snap, decidedMark(d.db.KernelRoutes.Name())) && state.Marked(snap, bgp.ImportsKnown)
}

// bgpPaths are the routes of the sessions, for the control socket; of received
// ones, with why they are not in the kernel.
func (d *deciders) bgpPaths(speaker *bgp.Speaker) func(context.Context, bool, string) ([]control.BGPPath, error) {
	return func(ctx context.Context, received bool, peer string) ([]control.BGPPath, error) {
		snap := d.db.Snapshot()
		if err := d.knownPeer(snap, peer); err != nil {
			return nil, err
		}
		paths, err := speaker.Paths(ctx, bgp.Direction(received), peer)
		if err != nil {
			return nil, err
		}
		imports := d.imports(snap)
		all := make([]control.BGPPath, len(paths))
		for i, p := range paths {
			all[i] = control.BGPPath{Instance: p.Instance, Peer: p.Peer, Prefix: p.Prefix, NextHop: p.NextHop, ASPath: p.ASPath,
				LocalPref: p.LocalPref, MED: p.MED, Communities: p.Communities}
			if received {
				all[i].Imported, all[i].NotImported = d.imported(snap, imports, p)
			}
		}
		return all, nil
	}
}

// knownPeer is an error unless there is to be a session with the peer, by its name or
// address; "" is any.
func (d *deciders) knownPeer(snap state.Snapshot, peer string) error {
	var there []string
	for s := range d.db.BGPSessions.All(snap) {
		now, _ := d.db.BGPSessionStates.Get(snap, s.RowKey())
		if peer == "" || peer == s.Peer || peer == s.Remote.String() || peer == now.Remote.String() {
			return nil
		}
		there = append(there, s.Peer)
	}
	if peer == "" {
		return nil
	}
	if len(there) == 0 {
		return fmt.Errorf("no session with a peer %q: %w: this node is to have none", peer, source.ErrNotFound)
	}
	slices.Sort(there)
	return fmt.Errorf("no session with a peer %q: %w: there are %s", peer, source.ErrNotFound, strings.Join(slices.Compact(there), ", "))
}

// imported says whether a route is in the kernel, and why not.
func (d *deciders) imported(snap state.Snapshot, imports bgp.Imports, p bgp.Path) (bool, string) {
	if why := imports.Why(p.Instance, p.Peer, p.Prefix); why != "" {
		return false, why
	}
	row, _ := d.db.KernelRoutes.Get(snap, state.KernelRoute{Dst: p.Prefix, Kind: state.RouteLearned}.RowKey())
	switch {
	case row.Status.Phase == state.Done:
		return true, ""
	case row.Status.Err != "":
		return false, row.Status.Err
	}
	return false, "in a moment"
}

// explainAdvertisement is control.Server's ExplainAdvertisement.
func (d *deciders) explainAdvertisement(addr netip.Addr) ([]control.AdvertisementStanding, error) {
	snap := d.db.Snapshot()
	if !state.Marked(snap, decidedMark(d.db.BGPRoutes.Name())) {
		return nil, errNotKnown
	}
	in, _ := d.bgpInputs(snap) // what is wrong with passwords is in the problems
	var all []control.AdvertisementStanding
	for _, s := range bgp.Explain(in, d.db.BGPRoutes.Rows(snap), d.db.BGPSessionStates.Rows(snap), addr) {
		all = append(all, control.AdvertisementStanding{Advertisement: s.Advertisement, Instance: s.Instance, Peer: s.Peer, Prefix: s.Prefix,
			Advertised: s.Why == "", Why: s.Why, Attributes: attributesText(s.Attributes)})
	}
	return all, nil
}

// attributesText is the attributes for people, "" for none.
func attributesText(a state.BGPAttributes) string {
	var words []string
	for _, c := range a.Communities {
		words = append(words, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
	}
	for _, c := range a.Large {
		words = append(words, fmt.Sprintf("%d:%d:%d", c[0], c[1], c[2]))
	}
	if a.MED != nil {
		words = append(words, fmt.Sprint("med ", *a.MED))
	}
	if a.LocalPref != nil {
		words = append(words, fmt.Sprint("local-pref ", *a.LocalPref))
	}
	if a.Prepend > 0 {
		words = append(words, fmt.Sprint("prepend ", a.Prepend))
	}
	return strings.Join(words, " ")
}
