package announce

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// Asker asks on the wire whether machines are there. Their kernels answer, also
// where no daemon runs.
type Asker interface {
	// Ask sends one question for addr, from own at mac, to the hardware address
	// to, or to all when it is nil.
	Ask(ifindex int, mac net.HardwareAddr, own, addr netip.Addr, to net.HardwareAddr) error
	// Answers as they come; those that nobody takes in are dropped.
	Answers() <-chan Answer
}

// Answer of a machine.
type Answer struct {
	Ifindex int
	Addr    netip.Addr
	MAC     net.HardwareAddr
}

// askTries is how often a machine is asked before it counts as silent.
const askTries = 3

// heardFor is how long what was heard is reported. Who was paused since then no
// longer knows.
func (t Timing) heardFor() time.Duration { return t.Renew * 5 / 2 }

// prober asks for the machines on this node's segments, once every Timing.Renew,
// and at once when BFD loses one. One whose BFD session is up is not asked. What
// it hears goes into the lease.
type prober struct {
	node   string
	db     *state.DB
	clock  Clock
	timing Timing
	asker  Asker
	log    *slog.Logger
	// report is what the lease says of the node, without what is heard.
	report   func(state.Snapshot) (nodeReport, bool)
	verdicts func() map[string]Verdict

	learned map[machine]net.HardwareAddr
	failed  string // the last error of a question, logged once

	mu      sync.Mutex
	heard   map[string]state.LeaseInterface // by interface; only what is heard is filled in
	at      time.Duration                   // when the last round was over
	changed chan struct{}                   // closes when heard changes
}

// machine is an address on an interface.
type machine struct {
	ifindex int
	addr    netip.Addr
}

func (p *prober) run(ctx context.Context) {
	p.learned = map[machine]net.HardwareAddr{}
	for ctx.Err() == nil {
		began, lost := p.clock.Boottime(), p.lost(p.db.Snapshot())
		p.round(ctx)
		p.pause(ctx, began+p.timing.Renew, lost)
	}
}

// pause returns at next, or when more BFD sessions are lost than were.
func (p *prober) pause(ctx context.Context, next time.Duration, lost int) {
	for ctx.Err() == nil {
		now := p.clock.Boottime()
		snap := p.db.Snapshot()
		if now >= next || p.lost(snap) > lost {
			return
		}
		select {
		case <-ctx.Done():
		case <-p.clock.After(next - now):
		case <-p.db.BFDStates.Changed(snap):
		}
	}
}

func (p *prober) lost(snap state.Snapshot) int {
	n := 0
	for row := range p.db.BFDStates.All(snap) {
		if row.Lost() {
			n++
		}
	}
	return n
}

// question is an ask on its way.
type question struct {
	iface string
	ask   ask
	from  machine  // whom the answer has to come from
	macs  []string // and at which hardware addresses; nil: any
	mac   net.HardwareAddr
	own   netip.Addr
	heard bool
	byBFD bool // and not asked, for as long as the session is up
	tries int
}

// asks says whether it is to be asked, once more.
func (q *question) asks() bool { return !q.heard && q.tries < askTries }

// unanswered says whether there is something to ask. Whom BFD has lost since the
// round began is asked, too: of a segment that falls silent, those whose sessions
// are down a moment later would be reported as heard.
func (p *prober) unanswered(questions []question) bool {
	snap, left := p.db.Snapshot(), false
	for i := range questions {
		q := &questions[i]
		if q.byBFD && !p.bfdUp(snap, q.iface, q.ask.addr) {
			q.heard, q.byBFD = false, false
		}
		left = left || q.asks()
	}
	return left
}

// round asks all there are to ask, and records who answered.
func (p *prober) round(ctx context.Context) {
	snap := p.db.Snapshot()
	report, known := p.report(snap)
	if !known {
		return
	}
	questions := p.questions(snap, report)
	for p.unanswered(questions) {
		if !p.try(ctx, questions) {
			return
		}
	}
	heard := map[string]state.LeaseInterface{}
	for _, q := range questions {
		i := heard[q.iface]
		switch {
		case q.ask.node == "" && q.heard:
			i.Gateway = state.Heard
		case q.ask.node == "":
			i.Gateway = state.Silent
		case q.heard:
			i.Heard = append(i.Heard, q.ask.node)
		default:
			i.Silent = append(i.Silent, q.ask.node)
		}
		heard[q.iface] = i
	}
	p.record(heard)
}

// questions are those that the node's asks lead to. A node answers from one of the
// hardware addresses in its lease: another machine's answer, as a router's that
// answers for others' addresses (RFC 1027), does not tell that it is there.
func (p *prober) questions(snap state.Snapshot, report nodeReport) []question {
	p.mu.Lock()
	doubt := map[string]bool{}
	for name, i := range p.heard {
		doubt[name] = inDoubt(i)
	}
	p.mu.Unlock()
	leases := slices.DeleteFunc(p.db.NodeLeases.Rows(snap), func(l state.NodeLease) bool { return l.Node == p.node })
	leases = append(leases, state.NodeLease{Node: p.node, Interfaces: report.interfaces, Addrs: report.addrs})
	var questions []question
	all := asks(p.node, leases, p.verdicts(), doubt)
	for _, i := range report.interfaces {
		dev, ok := p.db.Devices.Get(snap, i.Name)
		mac, err := net.ParseMAC(i.MAC)
		if !ok || err != nil {
			continue
		}
		for _, a := range all[i.Name] {
			q := question{iface: i.Name, ask: a, from: machine{dev.Index, a.addr}, mac: mac, own: ownOn(dev, a.addr), byBFD: p.bfdUp(snap, i.Name, a.addr)}
			q.heard = q.byBFD
			for _, j := range leaseOf(leases, a.node).Interfaces {
				q.macs = append(q.macs, j.MAC)
			}
			if q.own.IsValid() {
				questions = append(questions, q)
			}
		}
	}
	return questions
}

// ownOn is the device's own address on the subnet of addr, which may be a link-local one.
func ownOn(dev state.Device, addr netip.Addr) netip.Addr {
	for _, p := range dev.Prefixes {
		if p.Contains(addr) && !p.IsSingleIP() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func (p *prober) bfdUp(snap state.Snapshot, iface string, remote netip.Addr) bool {
	for row := range p.db.BFDStates.By(snap, state.IndexAddr, remote.String()) {
		if row.Interface == iface && row.Up() {
			return true
		}
	}
	return false
}

// try asks what is to be asked, and takes answers in until all of it is answered,
// or a while has gone by. It returns false when the round is void: this
// process was kept from running, and may have missed answers.
func (p *prober) try(ctx context.Context, questions []question) bool {
	var asked []*question
	for i := range questions {
		if q := &questions[i]; q.asks() {
			asked = append(asked, q)
			q.tries++
			p.send(q)
		}
	}
	wait := p.timing.tick()
	sent := p.clock.Boottime()
	over := p.clock.After(wait)
	for slices.ContainsFunc(asked, func(q *question) bool { return !q.heard }) {
		select {
		case <-ctx.Done():
			return false
		case answer := <-p.asker.Answers():
			for i := range questions {
				if q := &questions[i]; !q.heard && q.from == (machine{answer.Ifindex, answer.Addr.Unmap()}) &&
					(q.macs == nil || slices.Contains(q.macs, answer.MAC.String())) {
					q.heard = true
					p.learned[q.from] = answer.MAC
				}
			}
		case <-over:
			return p.clock.Boottime()-sent < 3*wait
		}
	}
	return true
}

// send asks the hardware address that the machine last had first, and then, in
// case it has another now, all.
func (p *prober) send(q *question) {
	to := p.learned[q.from]
	if to == nil {
		to, _ = net.ParseMAC(q.ask.mac)
	}
	delete(p.learned, q.from)
	if err := p.asker.Ask(q.from.ifindex, q.mac, q.own, q.from.addr, to); err != nil && err.Error() != p.failed {
		p.failed = err.Error()
		p.log.Warn("ask for another machine on the segment", "addr", q.from.addr, "interface", q.iface, "err", err)
	}
	q.ask.mac = ""
}

func (p *prober) record(heard map[string]state.LeaseInterface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.clock.Boottime()
	same := len(heard) == len(p.heard)
	for name, i := range heard {
		same = same && sameInterface(i, p.heard[name])
	}
	if same {
		return
	}
	p.heard = heard
	close(p.changed)
	p.changed = make(chan struct{})
}

// watch returns a channel that closes when something else is heard.
func (p *prober) watch() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// fill adds what was heard to the interfaces.
func (p *prober) fill(interfaces []state.LeaseInterface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clock.Boottime()-p.at >= p.timing.heardFor() {
		return
	}
	for i := range interfaces {
		heard := p.heard[interfaces[i].Name]
		interfaces[i].Heard, interfaces[i].Silent, interfaces[i].Gateway = heard.Heard, heard.Silent, heard.Gateway
	}
}
