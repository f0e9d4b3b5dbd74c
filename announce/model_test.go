package announce

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// The model: nodes with clocks of different rates, each a kernel and a daemon
// that run the real fence, term, contests, Liveness, Place and Local; a store
// behind calls that take time and get lost; a segment on which claims are heard
// at once by those that are joined. Faults come at random. Here is what a node
// does; what befalls it, and what must hold all the while, is in model_world_test.go.
const (
	modelStep  = 50 * time.Millisecond
	modelAddrs = 3
)

// breach is a rule that the nodes of a model break, to see that it notices.
type breach string

const (
	keepsAll        breach = ""
	wholeLease      breach = "a holder counts on the whole of its lease, not on ¾"
	hastyObserver   breach = "a lease is taken for expired after half its duration"
	agesUnread      breach = "a lease ages over time in which the store could not be read"
	deafToClaims    breach = "a claim of another node mutes nobody"
	returnsBlindly  breach = "a daemon whose fence has run out answers on before it has read the store"
	fencedByStore   breach = "the fence is pushed only while the lease is valid"
	sticksToWire    breach = "a node that hears no one answers on"
	trustsDeaf      breach = "who does not answer the node's daemon is taken for dead"
	forgetsHolder   breach = "placement forgets who holds an address"
	waitsForStore   breach = "who stepped down, and hears the others again, waits for the store to answer again"
	leavesAtOnce    breach = "who loses an address to another node does not wait for its claim"
	believesOldNews breach = "what was heard before the segment fell silent counts as heard after"
)

// modelRefresh is the time between gratuitous ARPs.
const modelRefresh = 8 * time.Second

// modelProbes is how long an address is asked for.
const modelProbes = 600 * time.Millisecond

var modelTiming = Timing{Duration: 3 * time.Second, Renew: time.Second, Grace: 6 * time.Second}

type modelEntry struct {
	generation int64
	muted      bool
	probing    time.Duration // until when, boot time: it answers nothing, and asks
	handing    bool          // it is another node's, which has not claimed it yet
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
	released bool // its daemon has given its addresses up
	island   int  // nodes of one island hear each other
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
	handover *handover
	liveness *Liveness
	// isolated is what isolation has confirmed.
	isolation *isolation
	isolated  map[nodeInterface]bool
	lastRead  time.Duration
	// rightful are the nodes whose leases were valid by their own count when the
	// last read was begun. unrenewed is for how long, as of that read, the daemon
	// has had the store while no renewal of that node came in; silent is the same now.
	rightful          map[string]bool
	unrenewed, silent map[string]time.Duration
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
	// left are the generations that it answered for, until it stepped down.
	left map[netip.Addr]int64
	// What it heard on the wire, last.
	heard            state.LeaseInterface
	heardAt, nextAsk time.Duration
	// down is steppedDown of downOf, the read, the round and the validity of the
	// lease that it was made of.
	down   map[string]bool
	downOf [3]any
}

type model struct {
	breach  breach
	rng     *rand.Rand
	seed    uint64
	now     time.Duration // simulated
	store   modelStore
	calls   []*modelCall
	nodes   []*modelNode
	slow    time.Duration // extra latency of the store
	slowAt  time.Duration // until when calls are under way that were begun while it was slow
	faultAt time.Duration // of the last change of the world
	wireAt  time.Duration // of the last change of links, islands or power
	storeAt time.Duration // of the last change of ways to the store
	dark    time.Duration // until when nobody hears anyone on any segment
	none    map[netip.Addr]time.Duration
	log     []string
	failure string // the first rule that did not hold
	// answered are the nodes that did in the last step, by address; fenced those
	// that would have, had their fences not run out.
	answered, fenced map[netip.Addr][]string
	movedAt          map[netip.Addr]time.Duration
	handed           map[netip.Addr]state.Assignment // on their way from a node that is well
	moves            int
	calm             int // mean number of steps between faults
}

func (m *model) logf(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf("%8.2fs ", m.now.Seconds())+fmt.Sprintf(format, args...))
}

// fail records that a rule did not hold.
func (m *model) fail(format string, args ...any) {
	if m.failure == "" {
		m.failure = fmt.Sprintf("at %v: ", m.now) + fmt.Sprintf(format, args...)
		m.logf("%s", m.failure)
	}
}

func newModel(seed uint64, b breach) *model {
	m := &model{breach: b, rng: rand.New(rand.NewPCG(seed, 42)), seed: seed, calm: 20 << rand.New(rand.NewPCG(seed, 1)).IntN(4),
		none: map[netip.Addr]time.Duration{}, answered: map[netip.Addr][]string{}, fenced: map[netip.Addr][]string{}, movedAt: map[netip.Addr]time.Duration{}, handed: map[netip.Addr]state.Assignment{},
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
	n.released = false
	n.daemon = &modelDaemon{node: n, contests: newContests(), handover: newHandover(modelTiming), liveness: NewLiveness(modelTiming), isolation: newIsolation(modelTiming), silent: map[string]time.Duration{}, left: map[netip.Addr]int64{},
		fence: fence{duration: modelTiming.Duration, until: n.until}}
	n.daemon.handover.over = make(chan struct{}) // it is asked at each step
	if m.breach == agesUnread {
		n.daemon.liveness.Gap = time.Hour
	}
	for a, e := range n.kernel { // as the referee's look does
		if e.muted {
			n.daemon.hear(a, m.boot(n))
		}
	}
}

// hear is the referee's, of a claim that has muted an entry.
func (d *modelDaemon) hear(a netip.Addr, now time.Duration) {
	d.contests.claimed(entryKey{a, 1}, now)
	d.handover.mute(entryKey{a, 1}, true)
}

// call sends something to the store. Each way takes time; a call may get lost
// on either way, and is when the node has no way to the store.
func (m *model) call(n *modelNode, apply func(), done func(ok bool)) {
	there := time.Duration(m.rng.IntN(60))*time.Millisecond + m.slow
	back := time.Duration(m.rng.IntN(60))*time.Millisecond + m.slow
	m.calls = append(m.calls, &modelCall{arrives: m.now + there, returns: m.now + there + back, apply: apply, done: done,
		lost: m.rng.IntN(200) == 0})
	c := m.calls[len(m.calls)-1]
	if m.slow > 0 {
		m.slowAt = max(m.slowAt, c.returns)
	}
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
	if n.api {
		for _, o := range m.nodes {
			d.silent[o.name] += modelStep
		}
	}
	if now >= d.nextRead && !d.reading {
		m.read(d, now)
	}
	if now >= d.nextRenew && !d.renewing {
		m.renew(d, now, modelTiming.Duration)
	}
	if now >= d.nextPush {
		d.nextPush = now + modelTiming.Duration/12
		if m.breach == returnsBlindly {
			d.fence.until = now + 1
		}
		until, resumed, ok := d.fence.next(now, d.term.renewed, d.lastRead, d.term.valid(now, d.lastRead))
		if ok && !(m.breach == fencedByStore && !d.term.valid(now, d.lastRead)) {
			if resumed {
				maps.DeleteFunc(n.kernel, func(a netip.Addr, _ *modelEntry) bool { return !d.holds(a) })
			}
			n.until = until
			d.fence.pushed(until)
		}
	}
	if now >= d.nextAsk {
		d.nextAsk = now + time.Second
		m.ask(d, now)
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

// goesOn says whether the address is another node's now.
func (d *modelDaemon) goesOn(a netip.Addr) bool {
	return slices.ContainsFunc(d.assigned, func(as state.Assignment) bool {
		return as.Addr == a && as.Node != "" && as.Node != d.node.name
	})
}

func (m *model) read(d *modelDaemon, now time.Duration) {
	d.reading = true
	var leases []state.NodeLease
	var assigned []state.Assignment
	rightful := map[string]bool{}
	for _, n := range m.nodes {
		rightful[n.name] = m.rightful(n)
	}
	var unrenewed map[string]time.Duration
	m.call(d.node, func() {
		unrenewed = maps.Clone(d.silent)
		leases = slices.Collect(maps.Values(m.store.leases))
		assigned = slices.Collect(maps.Values(m.store.assigned))
		sortByAddr(assigned)
	}, func(ok bool) {
		d.reading = false
		if d.node.daemon != d || !ok {
			return
		}
		d.lastRead, d.leases, d.assigned, d.rightful, d.unrenewed = now, leases, assigned, rightful, unrenewed
		if m.breach == hastyObserver {
			for i := range d.leases {
				d.leases[i].Duration /= 2
			}
		}
		d.nextRead = now + time.Duration(100+m.rng.IntN(300))*time.Millisecond
		if !d.paused {
			since := d.liveness.since
			d.liveness.Observe(m.boot(d.node), d.lastRead, d.leases)
			d.isolated = d.isolation.observe(m.boot(d.node), d.leases, d.liveness.Verdicts())
			if m.breach == believesOldNews {
				d.isolated = deafNow(d.leases, d.liveness.Verdicts())
			}
			if d.liveness.since != since {
				m.storeAt = m.now
			}
			if d.liveness.since != since && d.leading {
				m.faultAt = m.now // a read got lost: every lease has a full duration afresh
			}
		}
	})
}

func (m *model) renew(d *modelDaemon, now, duration time.Duration) {
	d.renewing = true
	n, l := d.node, m.lease(d)
	l.Duration = duration
	m.call(n, func() {
		m.store.renewals++
		for _, o := range m.nodes {
			if o.daemon != nil {
				o.daemon.silent[n.name] = 0
			}
		}
		l.Renewal = strconv.Itoa(m.store.renewals)
		m.store.leases[n.name] = l
	}, func(ok bool) {
		d.renewing = false
		if n.daemon != d {
			return
		}
		if ok {
			d.term.renew(now, m.boot(n), duration)
			if m.breach == wholeLease {
				d.term.until = now + duration
			}
			d.nextRenew = now + modelTiming.Renew
		} else {
			d.nextRenew = now + modelTiming.Renew/2
		}
	})
}

// modelGateway is on island 0, and so are the clients.
var modelGateway = addr(200)

// lease is what the daemon would report now.
func (m *model) lease(d *modelDaemon) state.NodeLease {
	n := d.node
	l := lease(n.name, n.id)
	l.Addrs, l.Released = []netip.Addr{addr(100 + n.id)}, n.released
	i := &l.Interfaces[0]
	i.Up, i.Gateways = n.linkUp, []netip.Addr{modelGateway}
	if m.boot(n)-d.heardAt < modelTiming.heardFor() {
		i.Heard, i.Silent, i.Gateway = d.heard.Heard, d.heard.Silent, d.heard.Gateway
	}
	return l
}

// ask is the prober's round: the kernels of machines that are joined answer.
func (m *model) ask(d *modelDaemon, now time.Duration) {
	n, was := d.node, d.heard
	d.heard, d.heardAt = state.LeaseInterface{}, now
	own := m.lease(d)
	leases := append(slices.DeleteFunc(slices.Clone(d.leases), func(l state.NodeLease) bool { return l.Node == n.name }), own)
	for _, a := range asks(n.name, leases, d.liveness.Verdicts(), map[string]bool{"eth1": inDoubt(was)})["eth1"] {
		answers := n.linkUp && n.island == 0 && m.now >= m.dark
		if a.node != "" {
			o := m.nodes[slices.IndexFunc(m.nodes, func(o *modelNode) bool { return o.name == a.node })]
			answers = n.linkUp && o.powered && o.linkUp && o.island == n.island && m.now >= m.dark
			if m.breach == trustsDeaf {
				answers = answers && o.daemon != nil && !o.daemon.paused
			}
		}
		switch {
		case a.node == "" && answers:
			d.heard.Gateway = state.Heard
		case a.node == "":
			d.heard.Gateway = state.Silent
		case answers:
			d.heard.Heard = append(d.heard.Heard, a.node)
		default:
			d.heard.Silent = append(d.heard.Silent, a.node)
		}
	}
	if !sameInterface(was, d.heard) {
		d.nextRenew = min(d.nextRenew, now+modelTiming.Renew/4)
		m.logf("%s hears %v, not %v, gateway %s", n.name, d.heard.Heard, d.heard.Silent, d.heard.Gateway)
	}
}

// announce is Local, the reconciler, the responder and the referee.
func (m *model) announce(d *modelDaemon, now time.Duration) {
	n := d.node
	valid := d.term.valid(now, d.lastRead)
	for _, k := range d.contests.ripe(d.lastRead, valid) {
		if e := n.kernel[k.addr]; e != nil && d.holds(k.addr) {
			e.muted = false
			d.handover.mute(k, false)
			m.claim(n, k.addr)
		}
		d.contests.closed(k, d.lastRead)
	}
	if d.lastRead == 0 {
		return
	}
	wanted := map[netip.Addr]state.Announcement{}
	if of := [3]any{d.lastRead, d.heardAt, valid}; of != d.downOf && m.breach != sticksToWire {
		d.down, d.downOf = steppedDown(m.lease(d), d.leases, witnesses(d.liveness.Verdicts(), d.liveness.Unrenewed()), d.isolated, valid), of
	}
	for _, row := range Local(d.assigned, []state.Device{{Name: "eth1", Index: 1, Up: n.linkUp && !d.down["eth1"]}}, n.name) {
		wanted[row.Addr] = row
	}
	for a, e := range n.kernel {
		row, ok := wanted[a]
		if !ok {
			row = state.Announcement{Addr: a, Interface: "eth1", Index: 1, Status: state.Status{Phase: state.Deleting}}
		}
		another := !ok && d.goesOn(a) && valid && !d.down["eth1"] && n.linkUp
		if e.handing = m.breach != leavesAtOnce && d.handover.stays(row, another, now); e.handing {
			continue
		}
		if !ok {
			if e.probing == 0 && d.holds(a) {
				d.left[a] = e.generation
			}
			delete(n.kernel, a)
			d.contests.forget(entryKey{a, 1})
			m.logf("%s withdraws %s", n.name, a)
		}
	}
	for a, row := range wanted {
		e := n.kernel[a]
		switch {
		case e != nil && e.generation == row.Generation && e.probing == 0:
		case e != nil && e.generation == row.Generation && e.muted:
			e.probing = 0
		case valid:
			n.kernel[a] = &modelEntry{generation: row.Generation}
			d.handover.stays(row, false, now) // as Hold asks of what is to be written
			m.claim(n, a)
		case m.breach == waitsForStore || d.left[a] != row.Generation || d.fence.lapsed != 0 || now >= n.until:
		case e == nil || e.generation != row.Generation:
			n.kernel[a] = &modelEntry{generation: row.Generation, probing: now + modelProbes}
			m.logf("%s asks for %s#%d", n.name, a, row.Generation)
		case m.answeredByOther(n, a):
			e.muted = true
			d.hear(a, now)
		case now >= e.probing:
			e.probing = 0
			m.logf("%s answers for %s#%d again", n.name, a, row.Generation)
		}
	}
	if now >= d.nextRefresh && valid {
		d.nextRefresh = now + modelRefresh
		for a, e := range n.kernel {
			if !e.muted && e.probing == 0 {
				m.claim(n, a)
			}
		}
	}
}

// answeredByOther says whether a question of n for the address is answered.
func (m *model) answeredByOther(n *modelNode, a netip.Addr) bool {
	return n.linkUp && m.now >= m.dark && slices.ContainsFunc(m.nodes, func(o *modelNode) bool {
		return o != n && o.island == n.island && m.answers(o, a)
	})
}

// claim is gratuitous ARP: who hears it and is a cluster node mutes.
func (m *model) claim(n *modelNode, a netip.Addr) {
	if !n.linkUp || m.now < m.dark {
		return
	}
	m.logf("%s claims %s#%d", n.name, a, n.kernel[a].generation)
	for _, o := range m.nodes {
		if m.breach == deafToClaims {
			continue
		}
		if e := o.kernel[a]; o != n && o.powered && o.linkUp && o.island == n.island && e != nil {
			e.muted = true
			if o.daemon != nil {
				o.daemon.hear(a, m.boot(o))
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
	verdicts := d.liveness.Verdicts()
	in := Inputs{Policies: []state.L2Policy{{Name: "all", LoadBalancerIPs: true}}, Leases: d.leases,
		Verdicts: verdicts, Isolated: d.isolated, Unrenewed: d.liveness.Unrenewed(), Decided: latest(d.assigned, d.decided)}
	holder := map[netip.Addr]string{}
	for i, row := range in.Decided {
		holder[row.Addr] = row.Node
		if m.breach == forgetsHolder {
			in.Decided[i].Node = ""
		}
	}
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
		if from := holder[row.Addr]; from != "" && row.Node != from {
			m.checkMove(d, row, from, verdicts[from])
		}
		m.call(d.node, func() {
			if has, ok := m.store.assigned[row.Addr]; !ok || row.Generation > has.Generation {
				m.store.assigned[row.Addr] = row
				m.movedAt[row.Addr] = m.now
				m.moves++
				m.gives(row)
				m.logf("%s gives %s#%d to %q: %s", d.node.name, row.Addr, row.Generation, row.Node, row.Reason)
			}
		}, func(bool) {})
	}
}
