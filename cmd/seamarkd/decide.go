package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
)

// deciders run this node's pure functions whenever what they read has changed,
// once the sources have said all of it.
type deciders struct {
	db     *state.DB
	writer *state.Writer
	node   string
	// defaults of this node's frontends.
	defaults datapath.Defaults
	log      *slog.Logger
}

// report makes problems those that the named decider finds, and logs new ones.
func (d *deciders) report(decider string, problems []state.Problem) {
	for _, p := range d.writer.Report(d.db.NodeProblems, decider, problems) {
		d.log.Warn("this node cannot do as it is asked", "object", p.Object.String(), "field", p.Field, "problem", p.Message, "cure", p.Cure)
	}
}

// redecide bounds how old a decision can be, should a wake-up be missed.
const redecide = time.Minute

func decidedMark(table string) string { return "decided/" + table }

// decided is the Gate of a reconciler: its rows have been decided once.
func (d *deciders) decided(table string) func(state.Snapshot) bool {
	return func(snap state.Snapshot) bool { return state.Marked(snap, decidedMark(table)) }
}

// want makes rows the wanted content of the table and opens its gate.
func want[T state.Reconcilable[T]](d *deciders, t state.Table[T], rows []T) {
	d.writer.Update(func(tx *state.Tx) {
		state.Want(tx, t, rows, time.Now())
		tx.Mark(decidedMark(t.Name()))
	})
}

// frontendsKnown says whether all is known that frontends are decided by. By less,
// those of node ports and of pods would go for a moment at each start.
func (d *deciders) frontendsKnown(snap state.Snapshot) bool {
	return d.db.Services.Synced(snap) && d.db.EndpointSlices.Synced(snap) && d.db.Nodes.Synced(snap) && d.db.Pools.Synced(snap) &&
		d.db.Agents.Synced(snap) && d.db.Devices.Synced(snap) && d.db.Endpoints.Synced(snap) &&
		state.Marked(snap, decidedMark(d.db.Attachments.Name()))
}

func (d *deciders) frontends(ctx context.Context) error {
	decider := &datapath.FrontendDecider{DB: d.db, Node: d.node, Defaults: d.defaults}
	var decided time.Time // all of them
	return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
		if !d.frontendsKnown(snap) {
			return
		}
		rows, problems, all := decider.Decide(snap, time.Since(decided) >= redecide)
		if all {
			decided = time.Now()
			want(d, d.db.Frontends, rows)
		} else {
			d.writer.Update(func(tx *state.Tx) { state.WantAlso(tx, d.db.Frontends, rows, time.Now()) })
		}
		d.report("frontends", problems)
	}, append(decider.Reads(), d.db.MarksChanged)...)
}

func (d *deciders) healthChecks(ctx context.Context) error {
	return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
		if d.db.Services.Synced(snap) && d.db.EndpointSlices.Synced(snap) && d.db.Agents.Synced(snap) {
			want(d, d.db.HealthChecks, datapath.HealthChecks(d.db, snap, d.node, d.defaults.KubeProxyReplacement))
		}
	}, d.db.Services.Watch(), d.db.EndpointSlices.Watch(), d.db.Agents.Watch(), d.db.MarksChanged)
}

func (d *deciders) routes(ctx context.Context) error {
	return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
		if d.db.Nodes.Synced(snap) && d.db.Devices.Synced(snap) {
			want(d, d.db.Routes, pod.Routes(d.db, snap, d.node))
		}
	}, d.db.Nodes.Watch(), d.db.Devices.Watch(), d.db.MarksChanged)
}

// attachments decides which devices the programs run on, and says what in the
// policies cannot be honoured here.
func (d *deciders) attachments(ctx context.Context) error {
	return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
		if !d.db.Nodes.Synced(snap) || !d.db.L2Policies.Synced(snap) || !d.db.Devices.Synced(snap) {
			return
		}
		node, ok := d.db.Nodes.Get(snap, d.node)
		devices, problems := pod.Outside(d.db.Devices.Rows(snap), node, d.db.L2Policies.Rows(snap))
		if !ok {
			problems = append(problems, state.Problem{Object: state.NodeRef(d.node), Message: "there is no such Node object",
				Cure: "register the node, or start seamarkd with the --node-name that it is registered by"})
		}
		var rows []state.Attachment
		for _, dev := range devices {
			rows = append(rows, state.Attachment{Device: dev.Name, Index: dev.Index, MAC: dev.MAC})
		}
		want(d, d.db.Attachments, rows)
		d.report("attachments", problems)
	}, d.db.Nodes.Watch(), d.db.L2Policies.Watch(), d.db.Devices.Watch(), d.db.MarksChanged)
}

// holdWhileAnnouncedOn is the Hold of the Attachments' reconciler: the programs
// stay on a device for as long as an address is announced on it (DESIGN §1).
func holdWhileAnnouncedOn(db *state.DB) func(state.Snapshot, state.Attachment) state.Reason {
	return func(snap state.Snapshot, row state.Attachment) state.Reason {
		if row.Status.Wanted() {
			return ""
		}
		for a := range db.Announcements.All(snap) {
			if a.Interface == row.Device {
				return state.ReasonStillAnnounced
			}
		}
		return ""
	}
}
