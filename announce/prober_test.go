package announce

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

// A node that is cut off from its segment steps down by itself, and another
// takes over, though its lease is renewed all the while over another network.
func TestCutOffNodeStepsDown(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	eventually(t, 10*sec, "the address is placed", func() bool { return c.assigned().Node != "" })
	for _, n := range c.nodes {
		n.served()
	}
	first := c.node(c.assigned().Node)
	eventually(t, 5*sec, "the holder answers", func() bool { return c.answering() == first.name })
	reports := func(node string, such func(state.LeaseInterface) bool) func() bool {
		return func() bool {
			c.store.mu.Lock()
			defer c.store.mu.Unlock()
			l := c.store.leases[node]
			return len(l.Interfaces) == 1 && such(l.Interfaces[0])
		}
	}
	for _, n := range c.nodes {
		eventually(t, 5*sec, n.name+" hears the others", reports(n.name, func(i state.LeaseInterface) bool { return len(i.Heard) == 2 && len(i.Silent) == 0 }))
	}

	first.unplugged.Store(true)
	eventually(t, 5*sec, "it hears no one", reports(first.name, func(i state.LeaseInterface) bool { return len(i.Heard) == 0 && len(i.Silent) == 2 }))
	eventually(t, 5*sec, "another answers", func() bool { s := c.answering(); return len(s) == 1 && s != first.name })
	if a := c.assigned(); a.Reason != state.ReasonCutOff || a.Previous != first.name {
		t.Errorf("moved as %+v", a)
	}
	if !first.announcer.lease.Valid() {
		t.Error("its lease is not valid: nothing is shown")
	}
	second := c.node(c.assigned().Node)
	first.unplugged.Store(false)
	eventually(t, 5*sec, "it hears the others again", reports(first.name, func(i state.LeaseInterface) bool { return len(i.Heard) == 2 }))
	if got := c.answering(); got != second.name {
		t.Errorf("after it was plugged in again %q answers, want %s", got, second.name)
	}

	// Whose daemon has stopped is there; whose machine is off is not, and loses
	// its addresses before its lease, stretched for the restart, is over.
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	for end := stopped.Add(quick.Grace / 4); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if got := c.answering(); got != second.name {
			t.Fatalf("while its daemon is stopped %q answers, want %s", got, second.name)
		}
	}
	second.unplugged.Store(true)
	eventually(t, 5*sec, "another takes it", func() bool { a := c.assigned(); return a.Node != second.name && a.Reason == state.ReasonCutOff })
}

// While the store is gone, a holder that hears no one for a while is silent, and
// answers again once it hears the others: but not for what another has taken.
func TestReturnToTheSegmentWithoutTheStore(t *testing.T) {
	c := newClusterBehind(t, addr(200), "a", "b", "c")
	for _, n := range c.nodes {
		n.served()
	}
	eventually(t, 10*sec, "the address is answered for", func() bool { return len(c.answering()) == 1 })
	first := c.node(c.answering())
	eventually(t, 5*sec, "it hears the others", func() bool {
		report, _ := first.announcer.report(first.client.db.Snapshot())
		return len(report.interfaces) == 1 && len(report.interfaces[0].Heard) == 2
	})
	cut := func(nodes ...*clusterNode) {
		for _, n := range nodes {
			n.client.Cut(true)
		}
		for _, n := range nodes {
			eventually(t, 5*sec, "the lease of "+n.name+" is stale", func() bool { return !n.announcer.lease.Valid() })
		}
	}
	cut(c.nodes...)
	first.unplugged.Store(true)
	eventually(t, 5*sec, "it steps down", func() bool { return c.answering() == "" })
	sent := first.wire.count()
	first.unplugged.Store(false)
	eventually(t, 5*sec, "it answers again", func() bool { return c.answering() == first.name })
	if first.announcer.lease.Valid() || first.wire.count() != sent {
		t.Errorf("lease valid %v, and it has said so %d times: a stale holder says nothing", first.announcer.lease.Valid(), first.wire.count()-sent)
	}
	if a := c.assigned(); a.Generation != 1 || a.Node != first.name {
		t.Errorf("assigned %+v", a)
	}

	for _, n := range c.nodes {
		n.client.Cut(false)
	}
	for _, n := range c.nodes {
		eventually(t, 10*sec, "the lease of "+n.name+" is valid", n.announcer.lease.Valid)
	}
	first.unplugged.Store(true)
	cut(first)
	eventually(t, 10*sec, "another has taken it", func() bool { s := c.answering(); return len(s) == 1 && s != first.name })
	second := c.answering()
	first.unplugged.Store(false)
	eventually(t, 5*sec, "it knows that another has it", func() bool { return first.row().Status.Reason == state.ReasonMuted })
	if got := c.answering(); got != second {
		t.Errorf("%q answers, want %s", got, second)
	}
}

// askerChannels hands questions to a test, and its answers on.
type askerChannels struct {
	asked   chan netip.Addr
	answers chan Answer
}

func (a askerChannels) Ask(_ int, _ net.HardwareAddr, _, addr netip.Addr, _ net.HardwareAddr) error {
	a.asked <- addr
	return nil
}

func (a askerChannels) Answers() <-chan Answer { return a.answers }

// What BFD hears is not asked for, and what it loses is asked for at once.
func TestProberFollowsBFD(t *testing.T) {
	db, w := state.New()
	clock := newFakeClock()
	asked := make(chan netip.Addr, 100)
	answers := make(chan Answer, 100)
	w.Update(func(tx *state.Tx) {
		dev := eth1
		dev.Prefixes = []netip.Prefix{netip.PrefixFrom(addr(1), 24)}
		db.Devices.Put(tx, dev)
		for _, l := range []state.NodeLease{heard("b", ""), heard("c", "")} {
			l.Interfaces[0].Gateways = nil
			db.NodeLeases.Put(tx, l)
		}
		db.BFDStates.Put(tx, state.BFDState{Local: addr(1), Remote: addr(2), Interface: "eth1", Phase: state.BFDUp, WasUp: true})
	})
	own := state.LeaseInterface{Name: "eth1", MAC: "02:00:00:00:00:01", Up: true, Prefixes: []netip.Prefix{netip.PrefixFrom(addr(0), 24)}}
	p := &prober{node: "a", db: db, clock: clock, timing: DefaultTiming, log: quiet, changed: make(chan struct{}), asker: askerChannels{asked, answers},
		report: func(state.Snapshot) (nodeReport, bool) {
			return nodeReport{interfaces: []state.LeaseInterface{own}, addrs: []netip.Addr{addr(1)}}, true
		},
		verdicts: func() map[string]Verdict { return map[string]Verdict{"a": Live, "b": Live, "c": Live} }}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { defer close(done); p.run(ctx) }()
	defer func() { cancel(); <-done }()
	next := func() netip.Addr {
		t.Helper()
		select {
		case a := <-asked:
			return a
		case <-time.After(10 * sec):
			t.Fatal("asks nobody")
			panic("unreachable")
		}
	}
	hears := func() state.LeaseInterface {
		i := []state.LeaseInterface{own}
		p.fill(i)
		return i[0]
	}

	changed := p.watch()
	if a := next(); a != addr(3) {
		t.Fatalf("asks for %s first, want c alone", a)
	}
	answers <- Answer{eth1.Index + 1, addr(3), nil} // on another interface
	answers <- Answer{eth1.Index, addr(9), nil}     // another machine
	answers <- Answer{eth1.Index, addr(3), net.HardwareAddr{2, 0, 0, 0, 0, 3}}
	<-changed
	if i := hears(); len(i.Heard) != 2 || len(i.Silent) != 0 || i.Gateway != "" {
		t.Errorf("hears %+v", i)
	}

	// It is not time yet: only the loss makes it ask.
	clock.Advance(time.Millisecond)
	changed = p.watch()
	w.Update(func(tx *state.Tx) {
		db.BFDStates.Put(tx, state.BFDState{Local: addr(1), Remote: addr(2), Interface: "eth1", Phase: state.BFDDown, WasUp: true, Diag: state.BFDTimeExpired})
	})
	for try := range askTries {
		want := []netip.Addr{addr(2)}
		if try == 0 {
			want = append(want, addr(3))
		}
		for _, a := range want {
			if got := next(); got != a {
				t.Fatalf("try %d asks for %s, want %s", try, got, a)
			}
		}
		if try == 0 {
			answers <- Answer{eth1.Index, addr(2), stranger} // a router that answers for others
			answers <- Answer{eth1.Index, addr(3), net.HardwareAddr{2, 0, 0, 0, 0, 3}}
		}
		eventually(t, 5*sec, "waits for b's answer", func() bool { return clock.waitedFor(DefaultTiming.tick()) && len(answers) == 0 })
		clock.Advance(DefaultTiming.tick())
	}
	<-changed
	if i := hears(); len(i.Silent) != 1 || i.Silent[0] != "b" || len(i.Heard) != 1 {
		t.Errorf("hears %+v, want c alone", i)
	}
	// What was heard long ago says nothing.
	clock.mu.Lock()
	clock.now += DefaultTiming.heardFor()
	clock.mu.Unlock()
	if i := hears(); len(i.Heard)+len(i.Silent) != 0 {
		t.Errorf("after a pause hears %+v", i)
	}
}

// impatient is a clock on which every wait is over at once.
type impatient struct{ *fakeClock }

func (impatient) After(time.Duration) <-chan time.Time {
	over := make(chan time.Time, 1)
	over <- epoch
	return over
}

// When BFD loses two sessions one shortly after the other, the second machine is not
// reported as heard because its session was still up when the first was asked for.
func TestProberAsksForWhomBFDLosesMeanwhile(t *testing.T) {
	db, w := state.New()
	session := func(i int, phase state.BFDPhase) {
		w.Update(func(tx *state.Tx) {
			db.BFDStates.Put(tx, state.BFDState{Local: addr(1), Remote: addr(i), Interface: "eth1", Phase: phase, WasUp: true, Diag: state.BFDTimeExpired})
		})
	}
	session(2, state.BFDDown)
	session(3, state.BFDUp)
	asked := make(chan netip.Addr, 100)
	p := &prober{db: db, asker: askerChannels{asked, make(chan Answer)}, clock: impatient{newFakeClock()}, timing: DefaultTiming, log: quiet, learned: map[machine]net.HardwareAddr{}}
	questions := []question{
		{iface: "eth1", ask: ask{node: "b", addr: addr(2)}, from: machine{2, addr(2)}},
		{iface: "eth1", ask: ask{node: "c", addr: addr(3)}, from: machine{2, addr(3)}, heard: true, byBFD: true},
	}
	for tries := 0; p.unanswered(questions); tries++ {
		if tries == 1 {
			session(3, state.BFDDown)
		}
		if !p.try(t.Context(), questions) {
			t.Fatal("the round is void")
		}
	}
	count := map[netip.Addr]int{}
	for len(asked) > 0 {
		count[<-asked]++
	}
	if questions[0].heard || questions[1].heard || count[addr(2)] != askTries || count[addr(3)] != askTries {
		t.Errorf("b heard %v, c heard %v; asked %v", questions[0].heard, questions[1].heard, count)
	}
}

// A process that was kept from running does not take for silence what it did not hear.
func TestTryIsVoidAfterAPause(t *testing.T) {
	clock := newFakeClock()
	p := &prober{clock: clock, timing: DefaultTiming, asker: askerChannels{make(chan netip.Addr, 9), nil}, learned: map[machine]net.HardwareAddr{}, log: quiet}
	for wait, want := range map[time.Duration]bool{DefaultTiming.tick(): true, time.Minute: false} {
		valid := make(chan bool)
		go func() { valid <- p.try(t.Context(), []question{{from: machine{2, addr(2)}}}) }()
		eventually(t, 5*sec, "waits for answers", func() bool { return clock.waitedFor(DefaultTiming.tick()) })
		clock.Advance(wait)
		if got := <-valid; got != want {
			t.Errorf("after %v: valid %v", wait, got)
		}
	}
}

// A Linux machine answers for its own address, with no daemon there, and not
// for another; and not at all once its link is down. In IPv6 as in IPv4.
func TestAskSocket(t *testing.T) {
	for family, a := range map[string]struct {
		own, asked, nobody netip.Addr
		bits               int
	}{
		"IPv4": {addr(1), addr(2), addr(3), 24},
		"IPv6": {addr6(1), addr6(2), addr6(3), 64},
	} {
		t.Run(family, func(t *testing.T) {
			c := newCable(t)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			network := func(a netip.Addr, bits int) *netlink.Addr {
				return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: unix.IFA_F_NODAD}
			}
			must(netlink.AddrAdd(c.a0, network(a.own, a.bits)))
			must(c.far.AddrAdd(c.b0, network(a.asked, a.bits)))
			socket, err := OpenAskSocket()
			must(err)
			defer socket.Close()
			ask := func(asked netip.Addr, to net.HardwareAddr) {
				t.Helper()
				must(socket.Ask(c.a0.Attrs().Index, mac1, a.own, asked, to))
			}
			answered := func(to net.HardwareAddr) func() bool {
				return func() bool {
					ask(a.asked, to)
					select {
					case got := <-socket.Answers():
						if got.Addr != a.asked || got.Ifindex != c.a0.Attrs().Index || got.MAC.String() != c.b0.Attrs().HardwareAddr.String() {
							t.Fatalf("answer %+v", got)
						}
						return true
					case <-time.After(20 * time.Millisecond):
						return false
					}
				}
			}
			eventually(t, 5*sec, "it answers a question to all", answered(nil))
			eventually(t, 5*sec, "it answers a question to itself", answered(c.b0.Attrs().HardwareAddr))
			for len(socket.Answers()) > 0 {
				<-socket.Answers()
			}
			ask(a.nobody, nil)
			ask(a.asked, nil) // the answer to this one comes after none to that
			if got := <-socket.Answers(); got.Addr != a.asked {
				t.Errorf("%s answers", got.Addr)
			}
			must(c.far.LinkSetDown(c.b0))
			eventually(t, 5*sec, "no carrier", func() bool {
				a0, err := netlink.LinkByName("a0")
				must(err)
				return a0.Attrs().RawFlags&unix.IFF_LOWER_UP == 0
			})
			for len(socket.Answers()) > 0 {
				<-socket.Answers() // to a question of before
			}
			_ = socket.Ask(c.a0.Attrs().Index, mac1, a.own, a.asked, nil) // sent or not, nobody hears it
			select {
			case got := <-socket.Answers():
				t.Errorf("a machine whose link is down answers: %+v", got)
			case <-time.After(50 * time.Millisecond):
			}
		})
	}
}

// What is no advertisement is no answer, whatever its length.
func FuzzNDAnswer(f *testing.F) {
	na, err := unsolicitedNA(mac1, addr6(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(na)
	f.Add(na[:ipv6Header+24])
	f.Add(na[:ipv6Header])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		answer, ok := ndAnswer(packet, stranger)
		if ok && (packet[ipv6Header] != typeAdvertisement || !answer.Addr.Is6() || len(answer.MAC) != 6) {
			t.Errorf("%x is taken for %+v", packet, answer)
		}
	})
}
