package announce

import (
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

// checkMove: an address is taken from a node only when its lease is over, by
// the node's own count too, or when it cannot or will not have it.
func (m *model) checkMove(d *modelDaemon, row state.Assignment, from string, verdict Verdict) {
	switch {
	case verdict == Expired && d.rightful[from]:
		m.fail("%s takes %s from %s, whose lease was valid by its own count", d.node.name, row.Addr, from)
	case verdict == Expired && d.unrenewed[from] < modelTiming.Duration/6:
		m.fail("%s takes %s from %s, which it could see unrenewed for %v only", d.node.name, row.Addr, from, d.unrenewed[from])
	case row.Reason == state.ReasonCutOff:
		if m.settled() && m.joined() {
			m.fail("%s takes %s from %s as cut off, and all have long been joined", d.node.name, row.Addr, from)
		}
	case verdict == Live && row.Node != "" && slices.ContainsFunc(d.leases, func(l state.NodeLease) bool { return l.Node == from && l.Interfaces[0].Up }):
		m.fail("%s takes %s from %s, which is live and up: %s", d.node.name, row.Addr, from, row.Reason)
	}
}

// joined says whether all nodes are on the wire together.
func (m *model) joined() bool {
	return !slices.ContainsFunc(m.nodes, func(n *modelNode) bool { return !n.powered || !n.linkUp || n.island != 0 })
}

// settled says whether the wire and the ways to the store have been the same
// for long enough that all know how they stand. (What a slow store takes in late
// tells of the wire as it was.)
func (m *model) settled() bool {
	return m.slow == 0 && m.now-max(m.wireAt, m.storeAt, m.slowAt) > 2*modelTiming.Duration
}

// checkAlone: a node that has lost all others, who have the gateway, answers no more.
func (m *model) checkAlone(n *modelNode, a netip.Addr) {
	d := n.daemon
	if !m.settled() || m.now-m.dark <= 2*modelTiming.Duration || n.island == 0 || d == nil || d.paused || len(d.heard.Silent) == 0 || m.rightful(n) && m.now-m.faultAt < 2*modelTiming.Duration {
		return
	}
	others := 0
	for _, o := range m.nodes {
		switch {
		case o == n:
		case o.powered && o.linkUp && o.island == n.island:
			return // not alone
		case o.healthy() && o.island == 0:
			others++
		}
	}
	if others > 1 {
		m.fail("%s answers for %s, alone on its island", n.name, a)
	}
}

// rightful says whether the node's lease is valid, as the node counts it.
func (m *model) rightful(n *modelNode) bool {
	return n.powered && n.daemon != nil && n.daemon.term.valid(m.boot(n), n.daemon.lastRead)
}

// lawful is rightful of the node of that name.
func (m *model) lawful(name string) bool {
	return slices.ContainsFunc(m.nodes, func(n *modelNode) bool { return n.name == name && m.rightful(n) })
}

func (m *model) answers(n *modelNode, a netip.Addr) bool {
	e := n.kernel[a]
	return n.powered && n.linkUp && e != nil && !e.muted && e.probing == 0 && m.boot(n) < n.until
}

// healthy nodes could hold any address, where the clients are.
func (n *modelNode) healthy() bool {
	return n.powered && n.linkUp && n.api && !n.released && n.daemon != nil && !n.daemon.paused
}

func (m *model) check() {
	healthy := 0
	for _, n := range m.nodes {
		if n.healthy() && n.island == 0 {
			healthy++
		}
	}
	for i := range modelAddrs {
		a := addr(i + 1)
		answering := 0
		type segment struct {
			answer, rightful, handing []string
		}
		islands := map[int]*segment{0: {}, 1: {}}
		for _, n := range m.nodes {
			if !m.answers(n, a) {
				continue
			}
			m.checkAlone(n, a)
			if n.island == 0 {
				answering++
			}
			island := islands[n.island]
			if n.kernel[a].handing {
				island.handing = append(island.handing, n.name)
				continue
			}
			island.answer = append(island.answer, n.name)
			if m.rightful(n) && !n.released { // who gave its addresses up may not have heard who has them
				island.rightful = append(island.rightful, n.name)
			}
		}
		m.checkFence(a)
		m.checkReturn(a)
		m.checkHandover(a)
		for _, island := range islands {
			// A segment whose members have been the same for a refresh and a bit is
			// whole: what was claimed elsewhere meanwhile has been claimed here too.
			whole := m.now - max(m.wireAt, m.dark)
			switch {
			case whole > time.Second && len(island.rightful) > 1:
				m.fail("%s is answered for by %v, each with a valid lease", a, island.rightful)
			case whole > modelRefresh*5/4+time.Second && len(island.handing) > 0 && len(island.answer)+len(island.handing) > 1:
				m.fail("%s is handed over by %v, and answered for by %v, too", a, island.handing, island.answer)
			case whole > modelRefresh*5/4+time.Second && len(island.rightful) > 0 && len(island.answer) > 1:
				m.fail("%s is answered for by %v, of whom %v has a valid lease", a, island.answer, island.rightful)
			}
		}
		if answering > 0 || healthy == 0 || m.slow > 0 || m.now < m.slowAt {
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
			m.fail("%s is answered for by nobody that clients reach for %v, with %d healthy nodes of %d", a, gone, healthy, len(m.nodes))
		}
	}
}

// checkFence: a node whose daemon runs is not silenced by its fence, whatever
// the store does; and one that was silenced has read that the address is still
// its own before it answers again.
func (m *model) checkFence(a netip.Addr) {
	answered, fenced := m.answered[a], m.fenced[a]
	m.answered[a], m.fenced[a] = nil, nil
	for _, n := range m.nodes {
		e := n.kernel[a]
		if e == nil || e.muted || e.probing != 0 || !n.powered || !n.linkUp {
			continue
		}
		runs := n.daemon != nil && !n.daemon.paused
		if !m.answers(n, a) {
			m.fenced[a] = append(m.fenced[a], n.name)
			if runs && slices.Contains(answered, n.name) {
				m.fail("%s no longer answers for %s, which is its own, for its fence has run out", n.name, a)
			}
			continue
		}
		if runs {
			m.answered[a] = append(m.answered[a], n.name)
		}
		if owner := m.store.assigned[a].Node; slices.Contains(fenced, n.name) && owner != n.name && m.now-m.movedAt[a] > modelTiming.Duration {
			m.fail("%s answers for %s again, which has long been %s's", n.name, a, owner)
		}
	}
}

// checkReturn: who has stepped down, and hears the others again, answers again for
// what nobody has taken, also while the store is gone.
func (m *model) checkReturn(a netip.Addr) {
	if whole := m.now - max(m.wireAt, m.dark, m.slowAt); !m.joined() || whole <= 2*modelTiming.Duration {
		return
	}
	for _, n := range m.nodes {
		d, e := n.daemon, n.kernel[a]
		if d == nil || d.paused || n.released || d.fence.lapsed != 0 || m.store.assigned[a].Node != n.name || !d.holds(a) ||
			d.left[a] == 0 || d.left[a] != m.store.assigned[a].Generation || e != nil && e.muted {
			continue
		}
		if !m.answers(n, a) {
			m.fail("%s does not answer for %s, which it left for want of the segment alone", n.name, a)
		}
	}
}

// gives begins a handover: the holder is there, answers, and gives the address to another.
func (m *model) gives(row state.Assignment) {
	delete(m.handed, row.Addr)
	for _, n := range m.nodes {
		if n.name == row.Previous && row.Node != "" && m.answers(n, row.Addr) && m.rightful(n) {
			m.handed[row.Addr] = row
		}
	}
}

// checkHandover: while an address goes from one node that is well to another, there
// is no moment in which neither answers.
func (m *model) checkHandover(a netip.Addr) {
	row, ok := m.handed[a]
	switch {
	case !ok:
	case m.faultAt > m.movedAt[a] || !m.settled() || !m.joined() || !m.lawful(row.Previous) || m.now-m.movedAt[a] > modelTiming.Duration*2/3:
		delete(m.handed, a)
	case !slices.ContainsFunc(m.nodes, func(n *modelNode) bool { return m.answers(n, a) }):
		m.fail("%s is handed over from %s to %s, and neither answers", a, row.Previous, row.Node)
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
	switch m.rng.IntN(16) {
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
		m.storeAt = m.now
		m.logf("%s api %v", n.name, n.api)
	case 5:
		up := m.rng.IntN(2) == 0
		for _, o := range m.nodes {
			o.api = up
		}
		m.storeAt = m.now
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
		m.slow = []time.Duration{0, 300 * time.Millisecond, 600 * time.Millisecond, 5 * time.Second}[m.rng.IntN(4)]
		m.storeAt = m.now
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
			o.linkUp, o.island, o.api, o.released = true, 0, true, false
		}
		m.wireAt, m.storeAt = m.now, m.now
		m.logf("all mended")
	case 13: // drained, or taken back
		if n.daemon != nil {
			n.released = !n.released
			m.logf("%s released %v", n.name, n.released)
		}
	case 15: // the switch restarts
		m.dark = m.now + time.Duration(200+m.rng.IntN(3000))*time.Millisecond
		m.logf("nobody hears anyone until %.2fs", m.dark.Seconds())
	case 14: // one cable for both
		n.island, n.api = 1, false
		m.wireAt, m.storeAt = m.now, m.now
		m.logf("%s on island 1, without api", n.name)
	}
}

// modelSteps of a run; a run has a seed.
const modelSteps = 4000

// play is a whole run. The model's failure says which rule did not hold, if one did not.
func (m *model) play(steps int) *model {
	for range steps {
		if m.step(); m.failure != "" {
			break
		}
	}
	return m
}

// TestModel plays the same runs each time, so that a change is judged by itself.
// SEAMARK_MODEL_RUNS is how many others to play, at random; SEAMARK_MODEL_SEED names
// the seeds, separated by commas, of runs to repeat.
func TestModel(t *testing.T) {
	runs, next := 260, rand.New(rand.NewPCG(1, 1)).Uint64
	if testing.Short() {
		runs = 30
	}
	if s := os.Getenv("SEAMARK_MODEL_RUNS"); s != "" {
		var err error
		if runs, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		next = rand.Uint64
	}
	var seeds []uint64
	for range runs {
		seeds = append(seeds, next())
	}
	if s := os.Getenv("SEAMARK_MODEL_SEED"); s != "" {
		seeds = nil
		for _, f := range strings.Split(s, ",") {
			seed, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			seeds = append(seeds, seed)
		}
	}
	moves := 0
	for _, seed := range seeds {
		m := newModel(seed, keepsAll).play(modelSteps)
		if moves += m.moves; m.failure != "" {
			t.Log(strings.Join(m.log[max(len(m.log)-60, 0):], "\n"))
			t.Fatalf("seed %d %s (run again with SEAMARK_MODEL_SEED=%d)", seed, m.failure, seed)
		}
	}
	if moves < len(seeds)*modelAddrs*2 {
		t.Errorf("%d moves in %d runs: the faults do nothing", moves, len(seeds))
	}
	t.Logf("%d steps, %d moves", len(seeds)*modelSteps, moves)
}

// The model notices when a rule is broken.
func TestModelNotices(t *testing.T) {
	for _, b := range []breach{waitsForStore, believesOldNews, sticksToWire, trustsDeaf, wholeLease, hastyObserver, agesUnread, deafToClaims, returnsBlindly, fencedByStore, forgetsHolder, leavesAtOnce} {
		t.Run(string(b), func(t *testing.T) {
			for seed := range uint64(100) {
				if m := newModel(seed, b).play(modelSteps); m.failure != "" {
					t.Logf("run %d %s", seed, m.failure)
					return
				}
			}
			t.Error("unnoticed in 100 runs")
		})
	}
}
