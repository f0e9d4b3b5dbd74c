package main

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/state"
)

// announceMetrics are what Prometheus is told of this node's part in announcing
// addresses, read when it asks.
type announceMetrics struct {
	db     *state.DB
	node   string
	lease  func() announce.LeaseStatus
	counts *announce.Counts
	// coordinator is the node that is, "" for none.
	coordinator func() string
	taken       *taken
}

var _ prometheus.Collector = announceMetrics{}

func newAnnounceMetrics(db *state.DB, node string, a *announce.Announcer) announceMetrics {
	return announceMetrics{db: db, node: node, lease: a.Lease, counts: a.Counts, coordinator: a.Coordinator, taken: &taken{db: db, node: node}}
}

var (
	announcedAddresses   = described("announced_addresses", "Addresses that this node answers for.")
	mutedAddresses       = described("muted_addresses", "Addresses of this node that it is silent about, since another node of the cluster claims them.")
	waitingAddresses     = described("waiting_addresses", "Addresses that are this node's and that it does not answer for yet.")
	unannouncedAddresses = described("unannounced_addresses", "Addresses that no node may announce; told by the coordinator alone.")
	takenAddresses       = described("taken_addresses_total", "Addresses that became this node's, by why.", "reason")
	gratuitousSent       = described("gratuitous_total", "Announcements sent unasked: a gratuitous ARP request and reply each.")
	claimsHeard          = described("claims_total", "Claims by others of addresses of this node, by whom: a node of the cluster, or a stranger.", "by")
	claimsSettled        = described("claims_settled_total", "Claims that came to an end: the address was kept or yielded, or defended against a stranger.", "how")
	leaseAge             = described("lease_age_seconds", "Time since this node's lease was last renewed.")
	leaseLeft            = described("lease_left_seconds", "How long this node's lease is valid without a renewal; 0 when it is not.")
	nodeDrained          = described("drained", "1 while this node is drained.")
	nodeCoordinates      = described("coordinator", "1 on the node that decides who announces what.")
)

// Describe and Collect make announceMetrics a prometheus.Collector.
func (m announceMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{announcedAddresses, mutedAddresses, waitingAddresses, unannouncedAddresses, takenAddresses,
		gratuitousSent, claimsHeard, claimsSettled, leaseAge, leaseLeft, nodeDrained, nodeCoordinates} {
		to <- d
	}
}

// Collect reads the tables and counters as they are.
func (m announceMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	snap := m.db.Snapshot()
	answered, muted, waiting := m.addresses(snap)
	gauge(announcedAddresses, float64(answered))
	gauge(mutedAddresses, float64(muted))
	gauge(waitingAddresses, float64(waiting))
	coordinates := m.coordinator() == m.node
	if coordinates {
		nobody := 0
		for a := range m.db.Assigned.All(snap) {
			if a.Node == "" {
				nobody++
			}
		}
		gauge(unannouncedAddresses, float64(nobody))
	}
	for reason, n := range m.taken.counts() {
		counter(takenAddresses, n, string(reason))
	}
	counter(gratuitousSent, m.counts.Gratuitous.Load())
	counter(claimsHeard, m.counts.ClusterClaims.Load(), "cluster")
	counter(claimsHeard, m.counts.StrangerClaims.Load(), "stranger")
	counter(claimsSettled, m.counts.Kept.Load(), "kept")
	counter(claimsSettled, m.counts.Yielded.Load(), "yielded")
	counter(claimsSettled, m.counts.Defences.Load(), "defended")
	lease := m.lease()
	if !lease.Renewed.IsZero() {
		gauge(leaseAge, time.Since(lease.Renewed).Seconds())
	}
	gauge(leaseLeft, lease.Left.Seconds())
	row, _ := m.db.NodeLeases.Get(snap, m.node)
	gauge(nodeDrained, oneIf(row.Drained))
	gauge(nodeCoordinates, oneIf(coordinates))
}

// addresses counts those of this node, each once, on however many interfaces.
func (m announceMetrics) addresses(r state.Reader) (answered, muted, waiting int) {
	best := map[netip.Addr]int{} // 3: answered for, on one interface at least
	for row := range m.db.Announcements.All(r) {
		standing := 1
		switch {
		case !row.Status.Wanted():
			continue
		case row.Status.Phase == state.Done && row.Status.Reason == state.ReasonMuted:
			standing = 2
		case row.Status.Phase == state.Done:
			standing = 3
		}
		best[row.Addr] = max(best[row.Addr], standing)
	}
	for _, standing := range best {
		switch standing {
		case 3:
			answered++
		case 2:
			muted++
		default:
			waiting++
		}
	}
	return answered, muted, waiting
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// taken counts the addresses that become this node's. Those that it had when the
// daemon started are not among them.
type taken struct {
	db   *state.DB
	node string

	mu sync.Mutex
	n  map[state.Reason]uint64
}

// run counts until ctx ends.
func (t *taken) run(ctx context.Context) error {
	var before map[netip.Addr]int64 // generations; nil: not known
	return t.db.FollowSparingly(ctx, redecide, func(snap state.Snapshot) {
		if !t.db.Assigned.Synced(snap) {
			return
		}
		now := map[netip.Addr]int64{}
		t.mu.Lock()
		defer t.mu.Unlock()
		for a := range t.db.Assigned.All(snap) {
			now[a.Addr] = a.Generation
			if a.Node == t.node && before != nil && a.Generation > before[a.Addr] {
				if t.n == nil {
					t.n = map[state.Reason]uint64{}
				}
				t.n[a.Reason]++
			}
		}
		before = now
	}, t.db.Assigned.Watch(), t.db.MarksChanged)
}

func (t *taken) counts() map[state.Reason]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.n)
}
