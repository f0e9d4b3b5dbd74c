package announce

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// The model: nodes with clocks of different rates, each a kernel and a daemon
// that run the real fence, term, contests, Liveness, Place and Local; a store
// behind calls that take time and get lost; a segment on which claims are heard
// at once by those that are joined. Faults come at random.
const (
	modelStep  = 50 * time.Millisecond
	modelAddrs = 3
)

// modelRefresh is the time between gratuitous ARPs.
const modelRefresh = 8 * time.Second

var modelTiming = Timing{Duration: 3 * time.Second, Renew: time.Second, Grace: 6 * time.Second}

type modelEntry struct {
	generation int64
	muted      bool
}

type modelStore struct {
	leases   map[string]state.NodeLease
	assigned map[netip.Addr]state.Assignment
	leader   string
	leaderAt int // renewals of the lock
	renewals int
}

// modelCall is a call to the store under way.
type modelCall struct {
	arrives, returns time.Duration // simulated time
	apply            func()
	arrived, lost    bool
	done             func(ok bool)
}

type modelNode struct {
	name     string
	id       int
	rate     float64 // of its clock
	offset   time.Duration
	powered  bool
	linkUp   bool
	island   int // nodes of one island hear each other
	api      bool
	kernel   map[netip.Addr]*modelEntry
	until    time.Duration // valid_until of the kernel, boot time
	daemon   *modelDaemon  // nil: not running
	restGone time.Duration // simulated time that a stopped daemon is back
}

type modelDaemon struct {
	node     *modelNode
	paused   bool
	term     term
	fence    fence
	contests *contests
	liveness *Liveness
	lastRead time.Duration
	// What the last read brought.
	leases   []state.NodeLease
	assigned []state.Assignment
	// Calls under way, at most one of each.
	renewing, reading bool
	nextRenew         time.Duration
	nextRead          time.Duration
	nextPush          time.Duration
	// The election, as client-go does it.
	lockSeen      int
	lockHolder    string
	lockSeenAt    time.Duration
	leading       bool
	lockRenewed   time.Duration
	locking       bool
	nextLock      time.Duration
	decided       []state.Assignment
	nextPlacement time.Duration
	nextRefresh   time.Duration
}

type model struct {
	t       *testing.T
	rng     *rand.Rand
	seed    uint64
	now     time.Duration // simulated
	store   modelStore
	calls   []*modelCall
	nodes   []*modelNode
	slow    time.Duration // extra latency of the store
	faultAt time.Duration // of the last change of the world
	wireAt  time.Duration // of the last change of links, islands or power
	none    map[netip.Addr]time.Duration
	log     []string
	moves   int
	calm    int // mean number of steps between faults
}

func (m *model) logf(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf("%8.2fs ", m.now.Seconds())+fmt.Sprintf(format, args...))
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	for _, line := range m.log[max(len(m.log)-60, 0):] {
		m.t.Log(line)
	}
	m.t.Fatalf("seed %d at %v: %s (run again with SEAMARK_MODEL_SEED=%d)", m.seed, m.now, fmt.Sprintf(format, args...), m.seed)
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 42)), seed: seed, calm: 20 << rand.New(rand.NewPCG(seed, 1)).IntN(4), none: map[netip.Addr]time.Duration{},
		store: modelStore{leases: map[string]state.NodeLease{}, assigned: map[netip.Addr]state.Assignment{}}}
	for i := range 3 + m.rng.IntN(3) {
		n := &modelNode{name: fmt.Sprintf("n%d", i), id: i, powered: true, linkUp: true, api: true,
			rate: 0.9 + 0.2*m.rng.Float64(), offset: time.Duration(1+m.rng.IntN(1000)) * time.Second,
			kernel: map[netip.Addr]*modelEntry{}}
		m.nodes = append(m.nodes, n)
		m.start(n)
	}
	return m
}

// boot is the node's CLOCK_BOOTTIME.
func (m *model) boot(n *modelNode) time.Duration {
	return n.offset + time.Duration(float64(m.now)*n.rate)
}

func (m *model) start(n *modelNode) {
	n.daemon = &modelDaemon{node: n, contests: newContests(), liveness: NewLiveness(modelTiming),
		fence: fence{duration: modelTiming.Duration, until: n.until}}
	for a, e := range n.kernel { // as the referee's look does
		if e.muted {
			n.daemon.contests.claimed(entryKey{a, 1}, m.boot(n))
		}
	}
}

// call sends something to the store. Each way takes time; a call may get lost
// on either way, and is when the node has no way to the store.
func (m *model) call(n *modelNode, apply func(), done func(ok bool)) {
	there := time.Duration(m.rng.IntN(60))*time.Millisecond + m.slow
	back := time.Duration(m.rng.IntN(60))*time.Millisecond + m.slow
	m.calls = append(m.calls, &modelCall{arrives: m.now + there, returns: m.now + there + back, apply: apply, done: done,
		lost: m.rng.IntN(200) == 0})
	c := m.calls[len(m.calls)-1]
	sendable := n.api
	c.apply = func() {
		if sendable && n.api {
			apply()
		} else {
			c.lost = true
		}
	}
	c.done = func(ok bool) {
		if c.lost || !n.api {
			ok = false
		}
		done(ok)
	}
}

func (m *model) step() {
	m.now += modelStep
	m.faults()
	pending := m.calls
	m.calls = nil
	for _, c := range pending {
		if !c.arrived && c.arrives <= m.now {
			c.arrived = true
			c.apply()
		}
		// A call that is lost hangs until its deadline, half a lease.
		if c.arrived && (!c.lost && c.returns <= m.now || c.lost && c.returns+modelTiming.Duration/2 <= m.now) {
			c.done(true)
		} else {
			m.calls = append(m.calls, c)
		}
	}
	for _, i := range m.rng.Perm(len(m.nodes)) {
		n := m.nodes[i]
		if n.daemon != nil && !n.daemon.paused && n.powered {
			m.run(n.daemon)
		}
	}
	m.check()
}

func (m *model) run(d *modelDaemon) {
	n, now := d.node, m.boot(d.node)
	if now >= d.nextRead && !d.reading {
		m.read(d, now)
	}
	if now >= d.nextRenew && !d.renewing {
		m.renew(d, now, modelTiming.Duration)
	}
	if now >= d.nextPush {
		d.nextPush = now + modelTiming.Duration/12
		if until, resumed, ok := d.fence.next(now, d.term.renewed, d.lastRead); ok {
			if resumed {
				maps.DeleteFunc(n.kernel, func(a netip.Addr, _ *modelEntry) bool { return !d.holds(a) })
			}
			n.until = until
			d.fence.pushed(until)
		}
	}
	m.announce(d, now)
	m.elect(d, now)
	if d.leading && now >= d.nextPlacement {
		d.nextPlacement = now + 100*time.Millisecond
		m.place(d)
	}
}

func (d *modelDaemon) holds(a netip.Addr) bool {
	return slices.ContainsFunc(d.assigned, func(as state.Assignment) bool { return as.Addr == a && as.Node == d.node.name })
}

func (m *model) read(d *modelDaemon, now time.Duration) {
	d.reading = true
	var leases []state.NodeLease
	var assigned []state.Assignment
	m.call(d.node, func() {
		leases = slices.Collect(maps.Values(m.store.leases))
		assigned = slices.Collect(maps.Values(m.store.assigned))
		sortByAddr(assigned)
	}, func(ok bool) {
		d.reading = false
		if d.node.daemon != d || !ok {
			return
		}
		d.lastRead, d.leases, d.assigned = now, leases, assigned
		d.nextRead = now + time.Duration(100+m.rng.IntN(300))*time.Millisecond
		if !d.paused {
			since := d.liveness.since
			d.liveness.Observe(m.boot(d.node), d.lastRead, d.leases)
			if d.liveness.since != since && d.leading {
				m.faultAt = m.now // a read got lost: every lease has a full duration afresh
			}
		}
	})
}

func (m *model) renew(d *modelDaemon, now, duration time.Duration) {
	d.renewing = true
	n := d.node
	l := lease(n.name, n.id)
	l.Duration, l.Interfaces[0].Up = duration, n.linkUp
	m.call(n, func() {
		m.store.renewals++
		l.Renewal = strconv.Itoa(m.store.renewals)
		m.store.leases[n.name] = l
	}, func(ok bool) {
		d.renewing = false
		if n.daemon != d {
			return
		}
		if ok {
			d.term.renew(now, m.boot(n), duration)
			d.nextRenew = now + modelTiming.Renew
		} else {
			d.nextRenew = now + modelTiming.Renew/2
		}
	})
}

// announce is Local, the reconciler, the responder and the referee.
func (m *model) announce(d *modelDaemon, now time.Duration) {
	n := d.node
	valid := d.term.valid(now, d.lastRead)
	for _, k := range d.contests.ripe(d.lastRead, valid) {
		if e := n.kernel[k.addr]; e != nil && d.holds(k.addr) {
			e.muted = false
			m.claim(n, k.addr)
		}
		d.contests.closed(k, d.lastRead)
	}
	if d.lastRead == 0 {
		return
	}
	wanted := map[netip.Addr]state.Announcement{}
	for _, row := range Local(d.assigned, []state.Device{{Name: "eth1", Up: n.linkUp}}, n.name) {
		wanted[row.Addr] = row
	}
	for a := range n.kernel {
		if _, ok := wanted[a]; !ok {
			delete(n.kernel, a)
			d.contests.forget(entryKey{a, 1})
			m.logf("%s withdraws %s", n.name, a)
		}
	}
	for a, row := range wanted {
		if e := n.kernel[a]; (e == nil || e.generation != row.Generation) && valid {
			n.kernel[a] = &modelEntry{generation: row.Generation}
			m.claim(n, a)
		}
	}
	if now >= d.nextRefresh && valid {
		d.nextRefresh = now + modelRefresh
		for a, e := range n.kernel {
			if !e.muted {
				m.claim(n, a)
			}
		}
	}
}

// claim is gratuitous ARP: who hears it and is a cluster node mutes.
func (m *model) claim(n *modelNode, a netip.Addr) {
	if !n.linkUp {
		return
	}
	m.logf("%s claims %s#%d", n.name, a, n.kernel[a].generation)
	for _, o := range m.nodes {
		if e := o.kernel[a]; o != n && o.powered && o.linkUp && o.island == n.island && e != nil {
			e.muted = true
			if o.daemon != nil {
				o.daemon.contests.claimed(entryKey{a, 1}, m.boot(o))
			}
		}
	}
}

func (m *model) elect(d *modelDaemon, now time.Duration) {
	if d.leading && now-d.lockRenewed > modelTiming.Duration*2/3 {
		d.leading, d.decided = false, nil
		m.logf("%s no longer leads", d.node.name)
	}
	if now < d.nextLock || d.locking {
		return
	}
	d.locking = true
	d.nextLock = now + modelTiming.Renew
	expired := d.lockHolder != d.node.name && now-d.lockSeenAt > modelTiming.Duration
	seen, won := d.lockSeen, false
	var holder string
	var at int
	m.call(d.node, func() {
		mine := m.store.leader == d.node.name // also of its last life
		if mine || m.store.leader == "" || expired && m.store.leaderAt == seen {
			m.store.leader, won = d.node.name, true
			m.store.leaderAt++
		}
		holder, at = m.store.leader, m.store.leaderAt
	}, func(ok bool) {
		d.locking = false
		if !ok || d.node.daemon != d {
			return
		}
		if at != d.lockSeen {
			d.lockSeen, d.lockHolder, d.lockSeenAt = at, holder, m.boot(d.node)
		}
		if won {
			d.lockRenewed = now
			if !d.leading {
				d.leading = true
				m.logf("%s leads", d.node.name)
			}
		}
	})
}

// place is the placer, and the source's Assignments: a row is written if its
// generation is higher than what the store has.
func (m *model) place(d *modelDaemon) {
	if d.lastRead == 0 {
		return
	}
	in := Inputs{Policies: []state.L2Policy{{Name: "all", LoadBalancerIPs: true}}, Leases: d.leases,
		Verdicts: d.liveness.Verdicts(), Decided: latest(d.assigned, d.decided)}
	for _, n := range m.nodes {
		in.Nodes = append(in.Nodes, state.Node{Name: n.name})
	}
	for i := range modelAddrs {
		in.Services = append(in.Services, service(fmt.Sprint("s", i), addr(i+1)))
	}
	d.decided = Place(in, epoch)
	for _, row := range d.decided {
		if slices.ContainsFunc(d.assigned, row.SameSpec) {
			continue
		}
		m.call(d.node, func() {
			if has, ok := m.store.assigned[row.Addr]; !ok || row.Generation > has.Generation {
				m.store.assigned[row.Addr] = row
				m.moves++
				m.logf("%s gives %s#%d to %q: %s", d.node.name, row.Addr, row.Generation, row.Node, row.Reason)
			}
		}, func(bool) {})
	}
}

func (m *model) answers(n *modelNode, a netip.Addr) bool {
	e := n.kernel[a]
	return n.powered && n.linkUp && e != nil && !e.muted && m.boot(n) < n.until
}

// healthy nodes could hold any address.
func (n *modelNode) healthy() bool {
	return n.powered && n.linkUp && n.api && n.daemon != nil && !n.daemon.paused
}

func (m *model) check() {
	healthy := 0
	for _, n := range m.nodes {
		if n.healthy() {
			healthy++
		}
	}
	for i := range modelAddrs {
		a := addr(i + 1)
		answering := 0
		type segment struct {
			answer, rightful []string
		}
		islands := map[int]*segment{0: {}, 1: {}}
		for _, n := range m.nodes {
			if !m.answers(n, a) {
				continue
			}
			answering++
			island := islands[n.island]
			island.answer = append(island.answer, n.name)
			if d := n.daemon; d != nil && d.term.valid(m.boot(n), d.lastRead) {
				island.rightful = append(island.rightful, n.name)
			}
		}
		for _, island := range islands {
			// A segment whose members have been the same for a refresh and a bit is
			// whole: what was claimed elsewhere meanwhile has been claimed here too.
			whole := m.now - m.wireAt
			switch {
			case whole > time.Second && len(island.rightful) > 1:
				m.fail("%s is answered for by %v, each with a valid lease", a, island.rightful)
			case whole > modelRefresh*5/4+time.Second && len(island.rightful) > 0 && len(island.answer) > 1:
				m.fail("%s is answered for by %v, of whom %v has a valid lease", a, island.answer, island.rightful)
			}
		}
		if answering > 0 || healthy == 0 || m.slow > 0 {
			m.none[a] = m.now
			continue
		}
		// A lease runs out, a coordinator is elected, a placement is written and read; a
		// freeze when most are gone. Clocks run up to a tenth slow.
		bound := 11 * time.Second
		if healthy <= len(m.nodes)/2 {
			bound += modelTiming.Grace
		}
		if gone := m.now - max(m.none[a], m.faultAt); gone > bound {
			m.fail("%s is answered for by nobody for %v, with %d healthy nodes of %d", a, gone, healthy, len(m.nodes))
		}
	}
}

// faults changes the world now and then, and at times mends all of it.
func (m *model) faults() {
	for _, n := range m.nodes {
		if n.restGone != 0 && m.now >= n.restGone && n.powered {
			n.restGone = 0
			m.logf("%s daemon back", n.name)
			m.start(n)
			m.faultAt = m.now
		}
	}
	if m.rng.IntN(m.calm) != 0 {
		return
	}
	m.faultAt = m.now
	n := m.nodes[m.rng.IntN(len(m.nodes))]
	switch m.rng.IntN(13) {
	case 0:
		n.powered, n.daemon, n.until = !n.powered, nil, 0
		n.kernel = map[netip.Addr]*modelEntry{}
		n.offset = time.Second - time.Duration(float64(m.now)*n.rate) // the boot clock begins anew
		n.restGone = 0
		if n.powered {
			m.start(n)
		}
		m.wireAt = m.now
		m.logf("%s powered %v", n.name, n.powered)
	case 1:
		n.linkUp = !n.linkUp
		m.wireAt = m.now
		m.logf("%s link %v", n.name, n.linkUp)
	case 2:
		n.island = 1 - n.island
		m.wireAt = m.now
		m.logf("%s on island %d", n.name, n.island)
	case 3, 4:
		n.api = !n.api
		m.logf("%s api %v", n.name, n.api)
	case 5:
		up := m.rng.IntN(2) == 0
		for _, o := range m.nodes {
			o.api = up
		}
		m.logf("api of all %v", up)
	case 6, 7: // killed
		if n.daemon != nil {
			n.daemon = nil
			n.restGone = m.now + time.Duration(m.rng.IntN(15000))*time.Millisecond
			m.logf("%s killed", n.name)
		}
	case 8: // stopped cleanly
		if d := n.daemon; d != nil && !d.paused && n.powered {
			if now := m.boot(n); now < d.fence.until {
				n.until = now + modelTiming.Grace
				m.renew(d, now, modelTiming.Grace)
			}
			n.daemon = nil
			n.restGone = m.now + time.Duration(m.rng.IntN(8000))*time.Millisecond
			m.logf("%s stopped", n.name)
		}
	case 9, 10:
		if n.daemon != nil {
			n.daemon.paused = !n.daemon.paused
			m.logf("%s paused %v", n.name, n.daemon.paused)
		}
	case 11:
		m.slow = time.Duration(m.rng.IntN(3)) * 300 * time.Millisecond
		m.logf("store slow by %v", m.slow)
	case 12:
		m.slow = 0
		for _, o := range m.nodes {
			if !o.powered {
				o.powered = true
			}
			if o.daemon == nil && o.restGone == 0 {
				m.start(o)
			}
			if o.daemon != nil {
				o.daemon.paused = false
			}
			o.linkUp, o.island, o.api = true, 0, true
		}
		m.wireAt = m.now
		m.logf("all mended")
	}
}

func TestModel(t *testing.T) {
	seeds := []uint64{}
	for range 60 {
		seeds = append(seeds, rand.Uint64())
	}
	if s := os.Getenv("SEAMARK_MODEL_SEED"); s != "" {
		for _, f := range strings.Split(s, ",") {
			seed, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds[:0], seed)
		}
	}
	moves := 0
	for _, seed := range seeds {
		m := newModel(t, seed)
		for range 4000 {
			m.step()
		}
		moves += m.moves
	}
	if moves < len(seeds)*modelAddrs*2 {
		t.Errorf("%d moves in %d runs: the faults do nothing", moves, len(seeds))
	}
	t.Logf("%d steps, %d moves", len(seeds)*4000, moves)
}
