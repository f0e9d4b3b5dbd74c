package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/bgp"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
)

// leavingMark is set when the machine shuts down.
const leavingMark = "leaving"

// leaves says whether this node is to go away from its routers, and how long they
// may take to find other paths.
func (d *deciders) leaves(snap state.Snapshot, node state.Node) (bool, time.Duration) {
	if state.Marked(snap, leavingMark) {
		return true, min(d.bgpDrainDelay, maxShutdownDelay)
	}
	lease, _ := d.db.NodeLeases.Get(snap, d.node)
	_, excluded := node.Labels[corev1.LabelNodeExcludeBalancers] // KEP-1143
	return lease.Drained || excluded || d.drainOnCordon && node.Unschedulable, d.bgpDrainDelay
}

// bgp decides what this node speaks with whom over BGP, and what it advertises.
func (d *deciders) bgp(ctx context.Context) error {
	db := d.db
	var drain bgp.Drain
	var next <-chan struct{} // closes when the drain goes on; nil: not by time
	return db.FollowSparingly(ctx, redecide, func(snap state.Snapshot) {
		known := db.BGPInstances.Synced(snap) && db.BGPPeers.Synced(snap) && db.BGPAdvertisements.Synced(snap) && db.BFDProfiles.Synced(snap) && db.NodeLeases.Synced(snap) && d.served(snap) &&
			state.Marked(snap, decidedMark(db.Frontends.Name()))
		if !known {
			return
		}
		if len(db.BGPInstances.Rows(snap)) == 0 { // most clusters: what there is many of is not read
			want(d, db.BGPSpeakers, nil)
			want(d, db.BGPSessions, nil)
			want(d, db.BGPRoutes, nil)
			d.report("bgp", nil)
			return
		}
		in, problems := d.bgpInputs(snap)
		asked, delay := d.leaves(snap, in.Node)
		var wait time.Duration
		in.Leave, wait = drain.Step(asked, delay, time.Now())
		if next = nil; wait > 0 {
			over := make(chan struct{})
			time.AfterFunc(wait, func() { close(over) })
			next = over
		}
		decision := bgp.Decide(in)
		want(d, db.BGPSpeakers, decision.Speakers)
		want(d, db.BGPSessions, decision.Sessions)
		want(d, db.BGPRoutes, decision.Routes)
		d.report("bgp", append(problems, decision.Problems...))
	}, db.BGPInstances.Watch(), db.BGPPeers.Watch(), db.BGPAdvertisements.Watch(), db.BFDProfiles.Watch(), db.Services.Watch(), db.Frontends.Watch(), db.Pools.Watch(), db.Secrets.Watch(),
		db.Nodes.Watch(), db.Devices.Watch(), db.NodeLeases.Watch(), db.Agents.Watch(), db.MarksChanged,
		func(state.Snapshot) <-chan struct{} { return next })
}

// bgpInputs is what is decided by, and what of the passwords cannot be read.
func (d *deciders) bgpInputs(snap state.Snapshot) (bgp.Inputs, []state.Problem) {
	db := d.db
	node, _ := d.self(snap)
	node.Name = d.node
	peers := db.BGPPeers.Rows(snap)
	passwords, unread, problems := readPasswords(peers, db.Secrets.Rows(snap))
	services, _ := state.Rightful(db, snap) // what it refuses, the frontends' decider says
	return bgp.Inputs{Node: node, Devices: db.Devices.Rows(snap), Instances: db.BGPInstances.Rows(snap), Peers: peers,
		Advertisements: db.BGPAdvertisements.Rows(snap), Services: services, Frontends: db.Frontends.Rows(snap), Pools: db.Pools.Rows(snap),
		Profiles: db.BFDProfiles.Rows(snap), Passwords: passwords, Unread: unread}, problems
}

// readPasswords returns the passwords of peers, of the Secrets and the files that
// they name, and why others are unread. What is wrong with a Secret is a problem
// where it was read.
func readPasswords(peers []state.BGPPeer, secrets []state.Secret) (passwords, unread map[string]string, problems []state.Problem) {
	passwords, unread = map[string]string{}, map[string]string{}
	for _, s := range secrets {
		for _, p := range peers {
			switch {
			case p.PasswordSecret != s.Name:
			case s.Password != "":
				passwords[p.Name] = s.Password
			default:
				unread[p.Name] = fmt.Sprintf("Secret %s %s: %s", s.Name, s.Invalid, s.Cure)
			}
		}
	}
	for _, p := range peers {
		if p.PasswordFile == "" {
			continue
		}
		problem := state.Problem{Object: p.Origin, Field: "spec.passwordFile"}
		data, err := os.ReadFile(p.PasswordFile)
		password := strings.TrimRight(string(data), "\r\n")
		switch {
		case err != nil:
			problem.Message, problem.Cure = err.Error(), "put the password there, readable by seamarkd: there is no session with the peer until then"
		case password == "" || len(password) > state.MaxPassword:
			problem.Message = fmt.Sprintf("%s holds a password of %d bytes", p.PasswordFile, len(password))
			problem.Cure = fmt.Sprintf("use one of 1 to %d bytes", state.MaxPassword)
		default:
			passwords[p.Name] = password
			continue
		}
		problems = append(problems, problem)
		unread[p.Name] = problem.Message + ": " + problem.Cure
	}
	return passwords, unread, problems
}

// bgpMetrics are the BGP sessions for Prometheus.
type bgpMetrics struct{ db *state.DB }

var _ prometheus.Collector = bgpMetrics{}

var (
	bgpUp         = described("bgp_session_established", "Whether a BGP session is established: 1, or not: 0.", "instance", "peer")
	bgpFlaps      = described("bgp_session_flaps_total", "How many times a BGP session was established, and ended.", "instance", "peer")
	bgpReceived   = described("bgp_prefixes_received", "Prefixes that the peer has sent.", "instance", "peer")
	bgpAdvertised = described("bgp_prefixes_advertised", "Prefixes that the peer was sent.", "instance", "peer")
	bgpUpdates    = described("bgp_updates_total", "UPDATE messages of a BGP session; from 0 again when it is made anew.", "instance", "peer", "direction")
)

// Describe and Collect make bgpMetrics a prometheus.Collector.
func (m bgpMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bgpUp, bgpFlaps, bgpReceived, bgpAdvertised, bgpUpdates} {
		to <- d
	}
}

// Collect reads how the sessions stand that there are to be, also those that cannot be had.
func (m bgpMetrics) Collect(to chan<- prometheus.Metric) {
	snap := m.db.Snapshot()
	for session := range m.db.BGPSessions.All(snap) {
		if !session.Status.Wanted() {
			continue
		}
		row, known := m.db.BGPSessionStates.Get(snap, session.RowKey())
		if !known {
			row = state.BGPSessionState{Instance: session.Instance, Peer: session.Peer}
		}
		up := 0.0
		if row.State == state.BGPEstablished {
			up = 1
		}
		to <- prometheus.MustNewConstMetric(bgpUp, prometheus.GaugeValue, up, row.Instance, row.Peer)
		to <- prometheus.MustNewConstMetric(bgpFlaps, prometheus.CounterValue, float64(row.Flaps), row.Instance, row.Peer)
		to <- prometheus.MustNewConstMetric(bgpReceived, prometheus.GaugeValue, float64(row.Received), row.Instance, row.Peer)
		to <- prometheus.MustNewConstMetric(bgpAdvertised, prometheus.GaugeValue, float64(row.Advertised), row.Instance, row.Peer)
		to <- prometheus.MustNewConstMetric(bgpUpdates, prometheus.CounterValue, float64(row.UpdatesReceived), row.Instance, row.Peer, "received")
		to <- prometheus.MustNewConstMetric(bgpUpdates, prometheus.CounterValue, float64(row.UpdatesSent), row.Instance, row.Peer, "sent")
	}
}
