package announce

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

// Detection says how the segment is asked, before an address is announced for the
// first time, whether another machine has it (RFC 5227 §2.1.1, RFC 4862 §5.4).
type Detection struct {
	// Count is how often it is asked; negative: not at all before the first
	// time. (Who returns without a valid lease asks all the same, whether another
	// node has taken the address meanwhile.)
	Count int
	// Interval is the time between questions, and after the last one.
	Interval time.Duration
}

// DefaultDetection is quicker than the RFCs, whose seconds are for links that still
// come up: Services wait for it.
var DefaultDetection = Detection{Count: 3, Interval: 200 * time.Millisecond}

// probeAgain is how long an address that another machine has is left to it before
// it is asked again (RFC 5227 §2.1.1: RATE_LIMIT_INTERVAL).
const probeAgain = time.Minute

// judgeInterval is the least time between two looks at what the kernel has heard,
// which is a list of all entries: of thousands that are asked for one after
// another, those of that time are judged together.
const judgeInterval = 100 * time.Millisecond

func (p Detection) withDefaults() Detection {
	if p.Count <= 0 {
		p.Count = DefaultDetection.Count
	}
	if p.Interval == 0 {
		p.Interval = DefaultDetection.Interval
	}
	return p
}

// detector asks for addresses. While it does, their entries are in the responder,
// silent, so that the kernel notes who claims them.
type detector struct {
	how       Detection
	first     bool // before the first announcement, too
	perSecond int
	clock     Clock
	sender    Sender
	responder Responder
	own       func(net.HardwareAddr) bool // of an interface of this node
	log       *slog.Logger

	judged time.Duration // when the kernel was last asked what it has heard

	mu     sync.Mutex
	probes map[entryKey]*probe
	asking []*probe // in the order that they were begun, which is that they are due in
	wake   chan struct{}
	done   chan struct{} // closed when a verdict is there, and made anew
}

// probe is what is known of one entry.
type probe struct {
	key        entryKey
	mac        net.HardwareAddr // ours
	generation int64
	began      time.Duration
	sent       int
	due        time.Duration
	verdict    verdict
	other      net.HardwareAddr // that has it
	until      time.Duration    // a verdict is of use
}

type verdict uint8

const (
	asking verdict = iota
	free
	taken
	claimed // by another node of the cluster: the entry is mute
)

func newDetector(how Detection, perSecond int, clock Clock, sender Sender, responder Responder,
	own func(net.HardwareAddr) bool, log *slog.Logger) *detector {
	return &detector{how: how.withDefaults(), first: how.Count >= 0, perSecond: perSecond, clock: clock, sender: sender, responder: responder, own: own, log: log,
		probes: map[entryKey]*probe{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// changed is closed at the next verdict.
func (p *detector) changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// ask returns what is known of an address, and begins to ask when nothing is.
func (p *detector) ask(k entryKey, mac net.HardwareAddr, generation int64) (verdict, net.HardwareAddr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Boottime()
	if known := p.probes[k]; known != nil && known.generation == generation && (known.verdict != taken || now < known.until) {
		return known.verdict, known.other, nil
	}
	if err := p.responder.Probe(k.addr, k.ifindex, mac, generation); err != nil {
		return asking, nil, err
	}
	p.drop(k)
	one := &probe{key: k, mac: mac, generation: generation, began: now, due: now}
	p.probes[k] = one
	p.asking = append(p.asking, one)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return asking, nil, nil
}

// known is ask without beginning to.
func (p *detector) known(k entryKey) (verdict, net.HardwareAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.probes[k]; one != nil {
		return one.verdict, one.other
	}
	return free, nil
}

// about says whether an address is asked for, or was found to be another's.
func (p *detector) about(k entryKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.probes[k] != nil
}

// forget is for an address that is announced now, or no longer to be.
func (p *detector) forget(k entryKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(k)
}

// drop leaves the probe in asking, which step clears.
func (p *detector) drop(k entryKey) {
	if one := p.probes[k]; one != nil {
		one.sent = -1
		delete(p.probes, k)
	}
}

// run asks until ctx ends.
func (p *detector) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := p.step(p.clock.Boottime())
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-p.clock.After(wait):
		}
	}
}

// step sends what is due at now, no more than the pace allows, judges what was
// asked often enough, and returns how long there is nothing to do.
func (p *detector) step(now time.Duration) time.Duration {
	const tick = 10 * time.Millisecond
	p.mu.Lock()
	batch := max(p.perSecond*int(tick)/int(time.Second), 1)
	var send []probe
	judges := p.judged == 0 || now-p.judged >= judgeInterval
	var over, left []*probe
	for _, one := range p.asking {
		switch {
		case one.sent < 0: // dropped
			continue
		case one.due > now || len(send) == batch:
		case one.sent == p.how.Count && judges:
			over = append(over, one)
			continue
		case one.sent == p.how.Count:
		default:
			one.sent++
			one.due = now + p.how.Interval
			send = append(send, *one)
		}
		left = append(left, one)
	}
	p.asking = left
	p.mu.Unlock()

	for _, one := range send {
		if err := p.sender.Probe(one.key.ifindex, one.mac, one.key.addr); err != nil {
			p.log.Warn("probe for address before it is announced", "addr", one.key.addr, "err", err)
		}
	}
	p.judge(over, now)
	if len(left) > 0 {
		return tick
	}
	return time.Minute
}

// judge looks what the kernel has heard about those that were asked for.
func (p *detector) judge(over []*probe, now time.Duration) {
	if len(over) == 0 {
		return
	}
	p.judged = now
	held, err := p.responder.Held()
	if err != nil {
		p.log.Error("list responder entries", "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := make(map[entryKey]Held, len(held))
	for _, h := range held {
		heard[entryKey{h.Addr, h.Ifindex}] = h
	}
	for _, one := range over {
		h, there := heard[one.key]
		switch {
		case one.sent < 0: // forgotten meanwhile
		case err != nil || !there: // asked again
			one.sent, one.due = 0, now+p.how.Interval
			p.asking = append(p.asking, one)
		case h.Muted:
			one.verdict = claimed
		case h.ClaimMAC != nil && h.ClaimedAt >= one.began && !p.own(h.ClaimMAC):
			one.verdict, one.other, one.until = taken, h.ClaimMAC, now+probeAgain
			p.log.Warn("address is not announced: another machine has it; find it by its hardware address and take the address from it",
				"addr", one.key.addr, "mac", one.other.String(), "again", probeAgain)
		default:
			one.verdict = free
		}
	}
	close(p.done)
	p.done = make(chan struct{})
}

// Probe asks the segment whether a machine has addr, without saying that we do.
func (s *Socket) Probe(ifindex int, mac net.HardwareAddr, addr netip.Addr) error {
	if addr.Is6() {
		group, packet, err := probeNS(addr)
		if err != nil {
			return err
		}
		return s.send(ifindex, unix.ETH_P_IPV6, multicastMAC(group), packet, addr)
	}
	packet, err := probeARP(mac, addr)
	if err != nil {
		return err
	}
	return s.send(ifindex, unix.ETH_P_ARP, broadcast, packet, addr)
}

// probeARP is the ARP packet, without an Ethernet header: its sender has no address.
func probeARP(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(arp.OperationRequest, mac, netip.IPv4Unspecified(), make(net.HardwareAddr, 6), addr)
	if err != nil {
		return nil, fmt.Errorf("build ARP probe for %s: %w", addr, err)
	}
	return p.MarshalBinary()
}

// probeNS is the IPv6 packet, and the group that it is for.
func probeNS(addr netip.Addr) (group netip.Addr, packet []byte, err error) {
	group, err = ndp.SolicitedNodeMulticast(addr)
	if err == nil {
		packet, err = ndPacket(netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{TargetAddress: addr})
	}
	if err != nil {
		return group, nil, fmt.Errorf("build neighbour solicitation for %s: %w", addr, err)
	}
	return group, packet, nil
}

// firstHeld says whether a row is of an address that nobody has announced before.
func firstHeld(db *state.DB, r state.Reader, row state.Announcement) bool {
	a, ok := db.Assigned.Get(r, row.Addr.String())
	return ok && a.Reason == state.ReasonFirstAssignment && a.Previous == "" && a.Generation == row.Generation
}

// Hold says that a row is to wait until its address was asked for: before it is
// announced for the first time, and when this node may not know that it is
// another's by now.
func (t *responderTarget) Hold(r state.Reader, row state.Announcement) state.Reason {
	if row.Status.Phase == state.Deleting || row.Status.Phase == state.Done ||
		!(t.detector.first && firstHeld(t.db, r, row)) && t.mayTake() {
		return ""
	}
	k, mac, err := t.entry(row)
	if err != nil {
		return "" // Update says so
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	was, known := t.held[row.RowKey()]
	if known && !was.Probing && was.Generation == row.Generation {
		return "" // by this daemon, or the one before it
	}
	if t.groups.Join(k.ifindex, k.addr) != nil {
		return ""
	}
	found, _, err := t.detector.ask(k, mac, row.Generation)
	if err != nil {
		return ""
	}
	t.held[row.RowKey()] = Held{Addr: row.Addr, Ifindex: k.ifindex, MAC: mac, Generation: row.Generation, Probing: true}
	if found == asking {
		return state.ReasonProbing
	}
	return ""
}

// conflicts are the Problems of addresses that another machine has.
func (t *responderTarget) conflicts(r state.Reader) (problems []state.Problem) {
	for row := range t.db.Announcements.All(r) {
		k, _, err := t.entry(row)
		if err == nil && row.Status.Phase == state.Failed && t.detector.about(k) {
			problems = append(problems, state.Problem{Object: state.ServiceRef(row.Service), Message: row.Status.Err})
		}
	}
	return problems
}

// tellConflicts has people hear of them, for as long as they last.
func (a *Announcer) tellConflicts(ctx context.Context, target *responderTarget) {
	db := a.cfg.DB
	_ = db.Follow(ctx, time.Minute, func(snap state.Snapshot) {
		a.cfg.Writer.Report(db.NodeProblems, state.FinderSegment, target.conflicts(snap)) // the detector has logged them
	}, db.Announcements.Watch())
}
