package main

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/bfd"
	"github.com/seamark-lb/seamark/bgp"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/pflag"
)

// bfdFlags are how the nodes that may announce watch each other.
type bfdFlags struct {
	mode       string
	interval   time.Duration
	multiplier uint8
}

// Values of --bfd.
const (
	bfdAuto  = "auto"
	bfdTrue  = "true"
	bfdFalse = "false"
)

const (
	// bfdMesh is the largest segment on which all nodes keep sessions with each
	// other: at the default interval each sends and receives 150 packets a second.
	bfdMesh = 16
	// bfdRing is with how many on either side each keeps one on a larger one.
	bfdRing = 4
	// maxBFDInterval is where the lease notices a dead node as soon.
	maxBFDInterval = time.Second
)

func (f *bfdFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "bfd", bfdAuto, fmt.Sprintf("BFD sessions between the nodes that announce on a segment, to notice in less than a second that one has died: "+
		"auto (all with all, on segments of up to %d nodes), true (on larger ones, too, each with %d others) or false", bfdMesh, 2*bfdRing))
	fs.DurationVar(&f.interval, "bfd-interval", 100*time.Millisecond, "how often BFD packets are sent and wanted, 50ms or more")
	fs.Uint8Var(&f.multiplier, "bfd-multiplier", 3, "how many BFD packets may be missing before a session is down")
}

func (f *bfdFlags) validate() error {
	if err := oneOf("bfd", f.mode, bfdAuto, bfdTrue, bfdFalse); err != nil {
		return err
	}
	if f.interval < state.MinBFDInterval || f.interval > maxBFDInterval {
		return fmt.Errorf("--bfd-interval %v: want %v to %v", f.interval, state.MinBFDInterval, maxBFDInterval)
	}
	if f.multiplier < 2 {
		return fmt.Errorf("--bfd-multiplier %d: want 2 or more: one lost packet is no dead node", f.multiplier)
	}
	return nil
}

// watching is what the flags mean to package announce.
func (f *bfdFlags) watching() announce.BFD {
	w := announce.BFD{Interval: f.interval, Multiplier: f.multiplier, Mesh: bfdMesh, Ring: bfdRing}
	switch f.mode {
	case bfdAuto:
		w.Ring = 0
	case bfdFalse:
		w.Mesh, w.Ring = 0, 0
	}
	return w
}

// bfdSessions decides which BFD sessions this node keeps: with the nodes that
// announce, and beside its BGP sessions.
func (d *deciders) bfdSessions(flags bfdFlags) func(context.Context) error {
	db := d.db
	return func(ctx context.Context) error {
		return db.Follow(ctx, redecide, func(snap state.Snapshot) {
			if !db.Nodes.Synced(snap) || !db.Devices.Synced(snap) || !db.NodeLeases.Synced(snap) {
				return
			}
			devices := db.Devices.Rows(snap)
			nodes := announce.Sessions(flags.watching(), d.node, devices, db.Nodes.Rows(snap), db.NodeLeases.Rows(snap))
			routers, _ := bgp.BFDSessions(bgp.BFDInputs{Sessions: db.BGPSessions.Rows(snap), States: db.BGPSessionStates.Rows(snap),
				Speakers: db.BGPSpeakers.Rows(snap), Devices: devices})
			want(d, db.BFDSessions, state.MergeBFD(nodes, routers))
		}, db.Nodes.Watch(), db.Devices.Watch(), db.NodeLeases.Watch(), db.BGPSessions.Watch(), db.BGPSessionStates.Watch(), db.BGPSpeakers.Watch(),
			db.MarksChanged)
	}
}

// bfdMetrics are the BFD sessions for Prometheus.
type bfdMetrics struct {
	db     *state.DB
	counts func() bfd.Counts
}

var _ prometheus.Collector = bfdMetrics{}

var (
	bfdUp       = described("bfd_session_up", "Whether a BFD session is up: 1, or not: 0.", "local", "remote", "interface", "owner")
	bfdFlaps    = described("bfd_session_flaps_total", "How many times a BFD session went from up to down.", "local", "remote", "interface", "owner")
	bfdSent     = described("bfd_packets_sent_total", "BFD packets sent.")
	bfdNotSent  = described("bfd_packets_not_sent_total", "BFD packets that the kernel did not take.")
	bfdReceived = described("bfd_packets_received_total", "BFD packets received, those that were refused among them.")
	bfdRefused  = described("bfd_packets_refused_total", "BFD packets that are wrong or for no session, by why.", "reason")
)

// Describe and Collect make bfdMetrics a prometheus.Collector.
func (m bfdMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bfdUp, bfdFlaps, bfdSent, bfdNotSent, bfdReceived, bfdRefused} {
		to <- d
	}
}

// Collect reads the sessions' states.
func (m bfdMetrics) Collect(to chan<- prometheus.Metric) {
	metric := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	for row := range m.db.BFDStates.All(m.db.Snapshot()) {
		labels := []string{row.Local.String(), row.Remote.String(), row.Interface, row.Owner}
		up := 0.0
		if row.Up() {
			up = 1
		}
		metric(bfdUp, prometheus.GaugeValue, up, labels...)
		metric(bfdFlaps, prometheus.CounterValue, float64(row.Flaps), labels...)
	}
	c := m.counts()
	metric(bfdSent, prometheus.CounterValue, float64(c.Sent))
	metric(bfdNotSent, prometheus.CounterValue, float64(c.NotSent))
	metric(bfdReceived, prometheus.CounterValue, float64(c.Received))
	for why, n := range c.Refused {
		metric(bfdRefused, prometheus.CounterValue, float64(n), why)
	}
}
