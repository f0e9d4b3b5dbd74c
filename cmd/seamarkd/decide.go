package main

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/datapath/probe"
	"github.com/seamark-lb/seamark/state"
)

// deciders run this node's pure functions whenever what they read has changed,
// once the sources have said all of it.
type deciders struct {
	db     *state.DB
	writer *state.Writer
	node   string
	// appliance is the address of a machine in front of the cluster, which need not
	// be a Node; the zero Addr on a node.
	appliance netip.Addr
	// defaults of this node's frontends.
	defaults datapath.Defaults
	// bgpDrainDelay and drainOnCordon are the flags.
	bgpDrainDelay time.Duration
	drainOnCordon bool
	log           *slog.Logger
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
// those of node ports and of pods would go for a moment at each start, ClusterIPs
// that are advertised would be for pods alone, and backends that are down come back.
func (d *deciders) frontendsKnown(snap state.Snapshot) bool {
	return d.served(snap) && state.Marked(snap, probe.Checked) && d.db.BGPAdvertisements.Synced(snap) && d.db.BGPInstances.Synced(snap)
}

// served says whether it is known what is to be served at which addresses.
func (d *deciders) served(snap state.Snapshot) bool {
	return d.db.Services.Synced(snap) && d.db.EndpointSlices.Synced(snap) && d.db.Nodes.Synced(snap) && d.db.Pools.Synced(snap) &&
		d.db.Agents.Synced(snap) && d.db.Devices.Synced(snap) && d.db.Endpoints.Synced(snap) &&
		state.Marked(snap, decidedMark(d.db.Attachments.Name()))
}

func (d *deciders) frontends(ctx context.Context) error {
	decider := &datapath.FrontendDecider{DB: d.db, Node: d.node, Defaults: d.defaults}
	changes := d.writer.Collect(d.db.EndpointSlices.Name())
	defer changes.Close()
	var decided time.Time // all of them
	return d.db.FollowSparingly(ctx, redecide, func(snap state.Snapshot) {
		if !d.frontendsKnown(snap) {
			return
		}
		snap, changed := changes.Take()
		rows, problems, all := decider.Decide(snap, changed, time.Since(decided) >= redecide)
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
	return d.db.FollowSparingly(ctx, redecide, func(snap state.Snapshot) {
		if d.db.Services.Synced(snap) && d.db.EndpointSlices.Synced(snap) && d.db.Agents.Synced(snap) {
			want(d, d.db.HealthChecks, datapath.HealthChecks(d.db, snap, d.node, d.defaults.KubeProxyReplacement))
		}
	}, d.db.Services.Watch(), d.db.EndpointSlices.Watch(), d.db.Agents.Watch(), d.db.MarksChanged)
}

func (d *deciders) probes(ctx context.Context) error {
	reads := (&datapath.FrontendDecider{DB: d.db}).Reads()
	return d.db.FollowSparingly(ctx, redecide, func(snap state.Snapshot) {
		if d.served(snap) {
			rows, problems := datapath.Probes(d.db, snap, d.node, d.defaults)
			want(d, d.db.Probes, rows)
			d.report("probes", problems)
		}
	}, append(reads, d.db.MarksChanged)...)
}

func (d *deciders) routes(ctx context.Context) error {
	return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
		if !d.db.Nodes.Synced(snap) || !d.db.Devices.Synced(snap) || !d.db.Endpoints.Synced(snap) {
			return
		}
		var rows []state.Route
		if d.routesPods(snap) {
			rows = pod.Routes(d.db, snap, d.node)
		}
		want(d, d.db.Routes, rows)
	}, d.db.Nodes.Watch(), d.db.Devices.Watch(), d.db.Endpoints.Watch(), d.db.MarksChanged)
}

// routesPods says whether ways to other nodes' pods are Seamark's to make. In front of the
// cluster they are the operator's, and another CNI's beside that: there kube-proxy
// forwards, and no pod is Seamark's.
func (d *deciders) routesPods(snap state.Snapshot) bool {
	if d.appliance.IsValid() {
		return false
	}
	if d.defaults.Forwarding != state.ForwardKubeProxy {
		return true
	}
	for range d.db.Endpoints.All(snap) {
		return true
	}
	return false
}

// self is this node as it is registered. An appliance that is not has its name
// and the address that its default route begins at.
func (d *deciders) self(snap state.Snapshot) (node state.Node, ok bool) {
	node, ok = d.db.Nodes.Get(snap, d.node)
	if !ok && d.appliance.IsValid() {
		return state.Node{Name: d.node, Addrs: []netip.Addr{d.appliance}}, true
	}
	return node, ok
}

// outside says which devices of the node an L2Policy without interfaces means:
// those that have the programs also without being named.
func (d *deciders) outside(node state.Node, device state.Device) bool {
	if node.Name == "" { // not registered
		node, _ = d.self(d.db.Snapshot())
	}
	devices, _ := pod.Outside([]state.Device{device}, node, nil)
	return len(devices) > 0
}

// attachments decides which devices the programs run on, and says what in the
// policies cannot be honoured here.
func (d *deciders) attachments(ctx context.Context) error {
	return d.db.Follow(ctx, redecide, func(snap state.Snapshot) {
		if !d.db.Nodes.Synced(snap) || !d.db.L2Policies.Synced(snap) || !d.db.Devices.Synced(snap) {
			return
		}
		node, ok := d.self(snap)
		devices, problems := pod.Outside(d.db.Devices.Rows(snap), node, d.db.L2Policies.Rows(snap))
		if !ok {
			problems = append(problems, state.Problem{Object: state.NodeRef(d.node), Message: "there is no such Node object",
				Cure: "register the node, or start seamarkd with the --node-name that it is registered by, or, on a machine in front of the cluster, with --mode lb"})
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
