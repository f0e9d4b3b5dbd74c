package main

import (
	"cmp"
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/bgp"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// leases writes this node's lease with how its BGP sessions stand: that costs no
// write of its own, however often they come and go.
type leases struct {
	announce.LeaseWriter
	decide *deciders
}

// RenewLease implements announce.LeaseWriter.
func (l leases) RenewLease(ctx context.Context, lease state.NodeLease) error {
	lease.Peers = l.decide.peers(l.decide.db.Snapshot())
	return l.LeaseWriter.RenewLease(ctx, lease)
}

// What a lease says of sessions is bounded: it is written every second.
const (
	maxReportedPeers = 128
	maxReportedWhy   = 160
)

// peers is how this node's sessions with each BGPPeer stand. Before they are
// decided, as they were told last.
func (d *deciders) peers(snap state.Snapshot) []state.LeasePeer {
	db := d.db
	if !state.Marked(snap, decidedMark(db.BGPSessions.Name())) {
		lease, _ := db.NodeLeases.Get(snap, d.node)
		return lease.Peers
	}
	node, _ := d.self(snap)
	instances := db.BGPSpeakers.Rows(snap)
	var peers []state.LeasePeer
	for peer := range db.BGPPeers.All(snap) {
		told := state.LeasePeer{Peer: peer.Name}
		for _, instance := range instances {
			if !instance.Status.Wanted() || !bgp.Wants(node, instance.Instance, peer) {
				continue
			}
			told.Sessions++
			key := state.BGPSession{Instance: instance.Instance, Peer: peer.Name}.RowKey()
			if s, _ := db.BGPSessionStates.Get(snap, key); s.State == state.BGPEstablished {
				told.Established++
				continue
			}
			told.Why = cmp.Or(told.Why, d.whyDown(snap, key))
		}
		if told.Sessions > 0 && len(peers) < maxReportedPeers {
			peers = append(peers, told)
		}
	}
	return peers
}

// fromPort is what an error of a connection says of this end of it: another with each try.
var fromPort = regexp.MustCompile(`\S+->`)

// whyDown says why a session is not established.
func (d *deciders) whyDown(snap state.Snapshot, key string) string {
	session, _ := d.db.BGPSessions.Get(snap, key)
	now, _ := d.db.BGPSessionStates.Get(snap, key)
	speaker, _ := d.db.BGPSpeakers.Get(snap, session.Instance)
	why := cmp.Or(session.Bar, session.Status.Err, now.LastError, speaker.Status.Err)
	why = fromPort.ReplaceAllString(cmp.Or(why, "the session is not established yet"), "")
	return strings.ToValidUTF8(why[:min(len(why), maxReportedWhy)], "")
}

// coordinatorPace is how often the coordinator looks at what changes all the time:
// the statuses of BGPPeers are written no more often, however their sessions flap.
const coordinatorPace = 5 * time.Second

// nodesWatch is what the coordinator does about nodes: it says on BGPPeers how
// their sessions stand, and deletes the leases of nodes that are gone.
type nodesWatch struct {
	db     *state.DB
	writer *state.Writer
	source source.Source
	log    *slog.Logger
	// expired says whether a node's lease went unrenewed.
	expired func(node string) bool
}

// run returns when ctx ends.
func (n nodesWatch) run(ctx context.Context) {
	// On every node but the coordinator the table is empty.
	defer n.writer.Update(func(tx *state.Tx) {
		n.db.BGPPeerStatuses.Replace(tx, nil, state.BGPPeerStatus.SameSpec)
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		r := state.Reconciler[state.BGPPeerStatus]{DB: n.db, Writer: n.writer, Table: n.db.BGPPeerStatuses, Target: n.source.BGPPeerStatuses(), Log: n.log}
		_ = r.Run(ctx) // ends with ctx
	})
	var gone goneNodes
	ticker := time.NewTicker(coordinatorPace)
	defer ticker.Stop()
	for {
		if snap := n.db.Snapshot(); n.db.Nodes.Synced(snap) && n.db.NodeLeases.Synced(snap) && n.db.BGPPeers.Synced(snap) {
			rows := source.BGPPeerStatuses(n.db, snap, n.expired)
			n.writer.Update(func(tx *state.Tx) { state.Want(tx, n.db.BGPPeerStatuses, rows, time.Now()) })
			var leases []state.NodeLease
			gone, leases = gone.look(n.db, snap, n.expired, time.Now())
			for _, lease := range leases {
				if err := n.source.ForgetLease(ctx, lease); err != nil && ctx.Err() == nil {
					n.log.Warn("forget a node that is gone: tried again", "node", lease.Node, "err", err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// forgetAfter is how long a Node has been gone, and its lease unrenewed, when the
// lease is deleted: one that is registered anew keeps it, and a drain in it.
const forgetAfter = time.Minute

// goneNodes are the nodes whose objects are gone and whose leases went unrenewed,
// and since when.
type goneNodes map[string]time.Time

// look returns the nodes that are gone now, and the leases of those that have been
// for long enough.
func (g goneNodes) look(db *state.DB, r state.Reader, expired func(node string) bool, now time.Time) (gone goneNodes, leases []state.NodeLease) {
	gone = goneNodes{}
	for lease := range db.NodeLeases.All(r) {
		if _, there := db.Nodes.Get(r, lease.Node); there || lease.Appliance || !expired(lease.Node) {
			continue
		}
		since, known := g[lease.Node]
		if !known {
			since = now
		}
		gone[lease.Node] = since
		if now.Sub(since) >= forgetAfter {
			leases = append(leases, lease)
		}
	}
	return gone, leases
}
