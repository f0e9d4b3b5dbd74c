package kernel

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// ask is the router's ARP request for an address.
func ask(target netip.Addr) []packet.Layer {
	return []packet.Layer{
		packet.Ethernet{Dst: packet.Broadcast, Src: routerMAC},
		packet.ARP{SenderMAC: routerMAC, Sender: router, Target: target},
	}
}

// answerTo is the answer to the router's request for the VIP, sent from sender.
func answerTo(sender netip.Addr) []byte {
	return packet.Build(packet.Ethernet{Dst: routerMAC, Src: nodeMAC},
		packet.ARP{Op: packet.ARPReply, SenderMAC: nodeMAC, Sender: vip, TargetMAC: routerMAC, Target: sender})
}

func TestARP(t *testing.T) {
	n := newNode(t)
	n.sub("request", func(n *node) {
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpTX, "arp_reply", answerTo(router))
	})
	n.sub("unicast request", func(n *node) {
		in := packet.Build(with(ask(vip), 0, packet.Ethernet{Dst: nodeMAC, Src: routerMAC})...)
		n.expect(kindXDP, n.out, in, xdpTX, "arp_reply", answerTo(router))
	})
	n.sub("padded to 60 bytes", func(n *node) {
		padding := make([]byte, 18)
		n.expect(kindXDP, n.out, append(packet.Build(ask(vip)...), padding...), xdpTX, "arp_reply", append(answerTo(router), padding...))
	})
	n.sub("probe", func(n *node) { // RFC 5227, section 2.1.1
		in := with(ask(vip), 1, packet.ARP{SenderMAC: routerMAC, Target: vip})
		n.expect(kindXDP, n.out, packet.Build(in...), xdpTX, "arp_reply", answerTo(netip.IPv4Unspecified()))
	})
	arp := packet.ARP{SenderMAC: routerMAC, Sender: router, Target: vip}
	for name, change := range map[string]func(a *packet.ARP){
		"for another address": func(a *packet.ARP) { a.Target = otherVIP },
		"a reply":             func(a *packet.ARP) { a.Op = packet.ARPReply },
		"operation 3":         func(a *packet.ARP) { a.Op = 3 },
		"not of Ethernet":     func(a *packet.ARP) { a.Hardware = new(uint16(6)) },
		"not for IPv4":        func(a *packet.ARP) { a.Protocol = new(uint16(packet.TypeIPv6)) },
		"hardware of 8 bytes": func(a *packet.ARP) { a.HardwareLen = new(uint8(8)) },
		"protocol of 0 bytes": func(a *packet.ARP) { a.AddrLen = new(uint8(0)) },
	} {
		n.sub(name, func(n *node) {
			changed := arp
			change(&changed)
			n.expect(kindXDP, n.out, packet.Build(with(ask(vip), 1, changed)...), xdpPass, "not_ours", nil)
		})
	}
	n.sub("of a group's MAC", func(n *node) { // the answer would go to many
		in := with(ask(vip), 1, packet.ARP{SenderMAC: groupMAC, Sender: router, Target: vip})
		n.expect(kindXDP, n.out, packet.Build(in...), xdpPass, "not_ours", nil)
	})
	n.sub("on another device", func(n *node) {
		n.expect(kindXDP, n.second, packet.Build(ask(vip)...), xdpPass, "not_ours", nil)
	})
	n.sub("flooded, to another machine", func(n *node) {
		in := packet.Build(with(ask(vip), 0, packet.Ethernet{Dst: otherMAC, Src: routerMAC})...)
		n.expect(kindXDP, n.out, in, xdpPass, "not_ours", nil)
	})
	n.sub("lease has run out", func(n *node) {
		n.renew(-1)
		defer n.renew(3600)
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpPass, "arp_expired", nil)
	})
	n.sub("lease was never there", func(n *node) {
		n.put("announcer", uint32(0), bpfAnnouncer{})
		defer n.renew(3600)
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpPass, "arp_expired", nil)
	})
}

// tick is the BPF clock's (bpf/clock.h).
func tick(t testing.TB) uint32 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		t.Fatal(err)
	}
	return uint32(ts.Nano() >> 30)
}

// A neighbour that asks too often is not answered until the next tick; others are.
func TestNeighbourQuota(t *testing.T) {
	const quota = 8192 // answers_per_neighbour
	n := newNode(t)
	n.announce6(bpfAnnounced{Generation: 1, Mac: nodeMAC})
	key := bpfMacKey{Mac: routerMAC}
	asks := func(action uint32, arp, nd string, arpOut, ndOut []byte) {
		t.Helper()
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), action, arp, arpOut)
		n.expect(kindXDP, n.out, packet.Build(solicit(ndVIP)...), action, nd, ndOut)
	}
	for range 10 { // all of it has to be in one tick
		now := tick(t)
		n.put("askers", key, bpfQuota{Window: now, Sent: quota - 2})
		if tick(t) != now {
			continue
		}
		asks(xdpTX, "arp_reply", "nd_reply", answerTo(router), ndAnswer)
		if r := n.run(kindXDP, n.out, packet.Build(ask(vip)...)); tick(t) != now {
			continue
		} else if r.reason != "neighbour_quota" || r.action != xdpDrop {
			t.Errorf("beyond the quota: action %d for %q", r.action, r.reason)
		}
		if r := n.run(kindXDP, n.out, packet.Build(solicit(ndVIP)...)); tick(t) == now && r.reason != "neighbour_quota" {
			t.Errorf("beyond the quota: %q", r.reason)
		}
		other := with(with(ask(vip), 0, packet.Ethernet{Dst: packet.Broadcast, Src: strangeMAC}), 1, packet.ARP{SenderMAC: strangeMAC, Sender: router, Target: vip})
		if r := n.run(kindXDP, n.out, packet.Build(other...)); r.reason != "arp_reply" {
			t.Errorf("another neighbour: %q", r.reason)
		}
		n.put("askers", key, bpfQuota{Window: now - 1, Sent: 2 * quota})
		asks(xdpTX, "arp_reply", "nd_reply", answerTo(router), ndAnswer)
		return
	}
	t.Error("no try was over within a tick")
}

// A flood of claims of ever other machines is counted, and told of a bounded part;
// a cluster node's after it is told.
func TestFloodOfClaims(t *testing.T) {
	const flood, perTick = 20000, 1000
	n := newNode(t)
	start := time.Duration(bootTime(t))
	strangers, cluster := 0, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- n.WatchClaims(ctx, func(c Claim) {
			switch {
			case c.At < start: // of a test before this one
			case c.Muted:
				close(cluster)
			default:
				strangers++
			}
		})
	}()
	began := tick(t)
	frame := claimOf(vip, strangeMAC, packet.ARPReply)
	options := runOptions(n, frame)
	for i := range flood {
		for _, at := range []int{6, 22} { // the frame's source, and ARP's sender
			frame[at+3], frame[at+4], frame[at+5] = 1, byte(i>>8), byte(i)
		}
		if r, err := n.program(kindXDP).Run(options); err != nil || r != xdpPass {
			t.Fatal(r, err)
		}
	}
	limit := int(tick(t)-began+1) * perTick * runtime.NumCPU()
	n.run(kindXDP, n.out, claimOf(vip, otherMAC, packet.ARPReply))
	select {
	case <-cluster:
	case <-time.After(10 * time.Second):
		t.Fatal("a cluster node's claim was not told in 10 s")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if strangers == 0 || strangers > limit {
		t.Errorf("told of %d claims of %d, want some, and at most %d", strangers, flood, limit)
	}
	var a bpfAnnounced
	if err := n.maps["announced"].Lookup(bpfAnnouncedKey{Addr: be32(vip), Ifindex: uint32(n.out.Attrs().Index)}, &a); err != nil {
		t.Fatal(err)
	}
	if a.Claims != flood+1 || a.Muted != 1 || a.ClaimMac != otherMAC {
		t.Errorf("entry = %+v, want %d claims", a, flood+1)
	}
}

// claimOf is a gratuitous ARP (RFC 5227, section 3) of mac for addr.
func claimOf(addr netip.Addr, mac packet.MAC, op uint16) []byte {
	return packet.Build(packet.Ethernet{Dst: packet.Broadcast, Src: mac},
		packet.ARP{Op: op, SenderMAC: mac, Sender: addr, TargetMAC: mac, Target: addr})
}

func TestClaims(t *testing.T) {
	n := newNode(t)
	key := bpfAnnouncedKey{Addr: be32(vip), Ifindex: uint32(n.out.Attrs().Index)}
	entry := func(n *node) bpfAnnounced {
		n.t.Helper()
		var a bpfAnnounced
		if err := n.maps["announced"].Lookup(key, &a); err != nil {
			n.t.Fatal(err)
		}
		return a
	}
	heard := make(chan Claim, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.WatchClaims(ctx, func(c Claim) { heard <- c }) }()
	next := func(n *node) Claim {
		n.t.Helper()
		select {
		case c := <-heard:
			return c
		case <-time.After(10 * time.Second):
			n.t.Fatal("no claim was told in 10 s")
			return Claim{}
		}
	}
	quiet := func(n *node) { // claims are told in order, so what another brings now is the next
		n.t.Helper()
		probe := packet.MAC{2, 0, 0, 0, byte(len(n.t.Name())), byte(n.t.Name()[len(n.t.Name())-1])}
		n.run(kindXDP, n.out, claimOf(vip, probe, packet.ARPRequest))
		if c := next(n); c.MAC.String() != probe.String() {
			n.t.Errorf("told of %+v, which is no news", c)
		}
	}

	n.sub("our own", func(n *node) {
		n.expect(kindXDP, n.out, claimOf(vip, nodeMAC, packet.ARPRequest), xdpPass, "not_ours", nil)
		if a := entry(n); a.Claims != 0 || a.Muted != 0 {
			n.t.Errorf("entry = %+v", a)
		}
		quiet(n)
	})
	n.sub("on another device, or of another address", func(n *node) {
		n.expect(kindXDP, n.second, claimOf(vip, otherMAC, packet.ARPRequest), xdpPass, "not_ours", nil)
		n.expect(kindXDP, n.out, claimOf(otherVIP, otherMAC, packet.ARPRequest), xdpPass, "not_ours", nil)
		quiet(n)
	})
	n.sub("a stranger's", func(n *node) {
		before := entry(n).Claims
		n.expect(kindXDP, n.out, claimOf(vip, strangeMAC, packet.ARPRequest), xdpPass, "arp_claim", nil)
		a := entry(n)
		if a.Claims != before+1 || a.ClaimMac != strangeMAC || a.Muted != 0 || a.Generation != 1 {
			n.t.Errorf("entry = %+v", a)
		}
		c := next(n)
		if c.Addr != vip || c.Muted || c.MAC.String() != strangeMAC.String() || c.Ifindex != n.out.Attrs().Index || c.At != time.Duration(a.ClaimedAt) {
			n.t.Errorf("claim = %+v", c)
		}
		if age := time.Duration(bootTime(n.t)) - c.At; age < 0 || age > 10*time.Second {
			n.t.Errorf("claim is %v old", age)
		}
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpTX, "arp_reply", answerTo(router))
	})
	n.sub("a stranger's flood", func(n *node) {
		before := entry(n).Claims
		start := time.Now()
		for range 200 {
			if r, err := n.program(kindXDP).Run(runOptions(n, claimOf(vip, strangeMAC, packet.ARPReply))); err != nil || r != xdpPass {
				n.t.Fatal(r, err)
			}
		}
		limit := int(time.Since(start)/(100*time.Millisecond)) + 2
		if got := entry(n).Claims - before; got != 200 {
			n.t.Errorf("counted %d claims of 200", got)
		}
		// Those told come before the next machine's.
		n.run(kindXDP, n.out, claimOf(vip, packet.MAC{2, 1}, packet.ARPRequest))
		told := 0
		for next(n).MAC.String() == strangeMAC.String() {
			told++
		}
		if told > limit {
			n.t.Errorf("told %d times, want at most %d", told, limit)
		}
	})
	n.sub("a cluster node's", func(n *node) {
		n.expect(kindXDP, n.out, claimOf(vip, otherMAC, packet.ARPReply), xdpPass, "arp_claim", nil)
		if a := entry(n); a.Muted != 1 || a.ClaimMac != otherMAC {
			n.t.Errorf("entry = %+v", a)
		}
		if c := next(n); !c.Muted || c.MAC.String() != otherMAC.String() {
			n.t.Errorf("claim = %+v", c)
		}
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpPass, "arp_muted", nil)
	})
	n.sub("muted, when the lease has run out, too", func(n *node) {
		n.renew(-1)
		defer n.renew(3600)
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpPass, "arp_muted", nil)
	})
	n.sub("a new generation", func(n *node) {
		n.put("announced", key, bpfAnnounced{Generation: 2, Mac: nodeMAC})
		n.expect(kindXDP, n.out, packet.Build(ask(vip)...), xdpTX, "arp_reply", answerTo(router))
	})
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("WatchClaims did not end with its context")
	}
}
