package kernel

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
)

var (
	unserved = packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portUnserved})...)
	noBacked = packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portEmpty})...)
	served   = packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portRemote})...)
)

// watch starts a watcher and returns what it is told, and what ends it: a
// function that returns when the watcher is gone.
func watch(n *node, filter EventFilter) (told <-chan Event, end func()) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	told, err := n.WatchEvents(ctx, filter)
	if err != nil {
		n.t.Fatal(err)
	}
	return told, func() {
		n.t.Helper()
		cancel()
		for e := range told { // until it is closed
			n.t.Errorf("told of one more: %+v", e)
		}
	}
}

func nextEvent(n *node, told <-chan Event) Event {
	n.t.Helper()
	select {
	case e, ok := <-told:
		if !ok {
			n.t.Fatal("the watcher has ended")
		}
		return e
	case <-time.After(10 * time.Second):
		n.t.Fatal("nothing was told in 10 s")
		return Event{}
	}
}

func watched(n *node) uint32 {
	n.t.Helper()
	row, err := n.monitor()
	if err != nil {
		n.t.Fatal(err)
	}
	return row.Drops
}

func TestEventsOfDrops(t *testing.T) {
	n := newNode(t)
	long := append(bytes.Clone(unserved), make([]byte, 200)...)
	n.run(kindXDP, n.out, noBacked) // before anybody watches
	told, end := watch(n, EventFilter{Drops: true})
	n.run(kindXDP, n.out, served) // not dropped
	expired := packet.Build(fromRouter, packet.IPv4{TTL: 1, Src: client, Dst: localPod}, packet.TCP{SrcPort: 1, DstPort: 8080})
	n.put("flows", bpfFlowKey{Pod: be32(localPod), Client: be32(client), PodPort: be16(8080), ClientPort: be16(1), Proto: packet.ProtoTCP},
		bpfFlow{Vip: be32(vip), Port: be16(portLocal)})
	for _, row := range []struct {
		kind, reason string
		dev          netlink.Link
		in           []byte
	}{
		{kindXDP, "unserved_port", n.out, unserved},
		{kindXDP, "unserved_port", n.out, long},
		{kindXDP, "no_backend", n.out, noBacked},
		{kindTCOutside, "ttl_expired", n.out, expired},
		{kindXDP, "truncated", n.out, unserved[:20]},
	} {
		before := time.Now()
		n.expect(row.kind, row.dev, row.in, map[string]uint32{kindXDP: xdpDrop, kindTCOutside: tcDrop}[row.kind], row.reason, nil)
		e := nextEvent(n, told)
		if e.Hook != row.kind || e.Reason != row.reason || e.Action != "drop" || e.Ifindex != row.dev.Attrs().Index || e.Length != len(row.in) || e.Lost != 0 {
			t.Errorf("%s %s told as %+v", row.kind, row.reason, e)
		}
		if want := row.in[:min(len(row.in), 128)]; !bytes.Equal(e.Head, want) {
			t.Errorf("%s: head is\n%x, want\n%x", row.reason, e.Head, want)
		}
		const clocks = 100 * time.Millisecond // the two are read one after the other
		if e.At.Before(before.Add(-clocks)) || e.At.After(time.Now().Add(clocks)) {
			t.Errorf("%s: told of %v, it was %v", row.reason, e.At, before)
		}
	}
	end()
	if watched(n) != 0 {
		t.Error("drops are still told when nobody watches")
	}
}

// Every packet of a traced frontend is told, whatever becomes of it, and no other.
func TestEventsOfTraced(t *testing.T) {
	n := newNode(t)
	told, end := watch(n, EventFilter{})
	trace := func(port uint16) {
		key := bpfFrontendKey{Addr: be32(vip), Port: be16(port), Proto: packet.ProtoTCP}
		var row bpfFrontend
		if err := n.maps["frontends"].Lookup(key, &row); err != nil {
			t.Fatal(err)
		}
		row.Flags |= uint32(bpfFrontendFlagsFRONTEND_TRACED)
		n.put("frontends", key, row)
	}
	n.run(kindXDP, n.out, served) // not traced yet
	trace(portRemote)
	trace(portEmpty)
	n.run(kindXDP, n.out, unserved) // dropped, of another port
	toPod := packet.Build(toVIP(packet.TCP{SrcPort: 1025, DstPort: portLocal})...)
	n.run(kindXDP, n.out, toPod) // not dropped, of another port
	for _, row := range []struct {
		in             []byte
		action, reason string
		port           uint16
	}{
		{served, "tx", "forward_remote", portRemote},
		{noBacked, ActionDrop, "no_backend", portEmpty},
	} {
		r := n.run(kindXDP, n.out, row.in)
		e := nextEvent(n, told)
		if e.Hook != kindXDP || e.Action != row.action || e.Reason != row.reason || e.Length != len(row.in) || e.Ifindex != n.out.Attrs().Index ||
			e.Of != netip.AddrPortFrom(vip, row.port) || e.Proto != packet.ProtoTCP {
			t.Errorf("told as %+v", e)
		}
		if want := r.out[:min(len(r.out), 128)]; !bytes.Equal(e.Head, want) {
			t.Errorf("%s: head is\n%x, want it as it left\n%x", row.reason, e.Head, want)
		}
	}
	end()
}

// A packet that was translated is told with the frontend that it is of, in both
// directions, and also where another node has chosen its pod.
func TestEventsOfTranslated(t *testing.T) {
	inEachFamily(t, func(n *node, f family) {
		n.addTunnels(f, f.remotePod, [2]netip.Addr{families[0].otherNode, families[1].otherNode}, otherMAC)
		n.addInside(f)
		traced := uint32(bpfFrontendFlagsFRONTEND_TRACED)
		n.putFrontend(f, f.vip, portHere, packet.ProtoTCP, bpfFrontend{Set: 36, Flags: traced})
		n.putFrontend(f, f.vip, portSNAT, packet.ProtoTCP, bpfFrontend{Set: 20, Flags: traced | uint32(bpfFrontendFlagsFRONTEND_SNAT)})
		n.putFrontend(f, f.clusterIP, portInside, packet.ProtoTCP, bpfFrontend{Set: 42, Inside: 40, Flags: traced | uint32(bpfFrontendFlagsFRONTEND_INSIDE)})
		here, translated, inside := netip.AddrPortFrom(f.vip, portHere), netip.AddrPortFrom(f.vip, portSNAT), netip.AddrPortFrom(f.clusterIP, portInside)
		request := f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 1025, portHere, packet.SYN))
		reply := f.packet(fromPod, f.localPod, f.client, 64, l4(packet.ProtoTCP, 8080, 1025, packet.SYN|packet.ACK))
		n.run(kindXDP, n.out, request)
		n.run(kindTCPod, n.pod, reply) // before anybody watches
		told, end := watch(n, EventFilter{})
		for _, row := range []struct {
			kind   string
			dev    netlink.Link
			in     []byte
			reason string
			of     netip.AddrPort
		}{
			{kindXDP, n.out, request, "forward_local", here},
			{kindXDP, n.out, concat([]packet.Layer{fromRouter, outer(f.otherNode, f.localPod, 5, false), f.ip(f.client, f.vip, 63), l4(packet.ProtoTCP, 1025, portHere, packet.ACK)}), "decap", here},
			{kindTCPod, n.pod, reply, "reply", here},
			{kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 62000, portSNAT, packet.SYN)), "forward_snat", translated},
			{kindXDP, n.out, f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 60, l4(packet.ProtoTCP, 8080, 62000, packet.SYN|packet.ACK)), "reply_snat", translated},
			{kindTCPod, n.pod, f.packet(fromPod, f.localPod, f.clusterIP, 64, l4(packet.ProtoTCP, 40000, portInside, packet.SYN)), "service_local", inside},
			{kindTCToPod, n.pod, f.packet(intoPod, f.remotePod, f.localPod, 61, l4(packet.ProtoTCP, 8080, 40000, packet.SYN|packet.ACK)), "service_local", inside},
		} {
			n.run(row.kind, row.dev, row.in)
			if e := nextEvent(n, told); e.Hook != row.kind || e.Reason != row.reason || e.Of != row.of || e.Proto != packet.ProtoTCP {
				n.t.Errorf("told as %+v, want %s of %s by %s", e, row.reason, row.of, row.kind)
			}
		}
		end()
	})
}

// Watchers come and go without each other.
func TestEventWatchers(t *testing.T) {
	n := newNode(t)
	quiet, endQuiet := watch(n, EventFilter{Match: func(e Event) bool { return e.Reason == "no_backend" }})
	if watched(n) != 0 {
		t.Error("a watcher of traced packets has drops told")
	}
	first, endFirst := watch(n, EventFilter{Drops: true})
	second, endSecond := watch(n, EventFilter{Drops: true})
	n.run(kindXDP, n.out, unserved)
	n.run(kindXDP, n.out, noBacked)
	for _, told := range []<-chan Event{first, second} {
		if a, b := nextEvent(n, told), nextEvent(n, told); a.Reason != "unserved_port" || b.Reason != "no_backend" {
			t.Errorf("told of %s and %s", a.Reason, b.Reason)
		}
	}
	if e := nextEvent(n, quiet); e.Reason != "no_backend" {
		t.Errorf("the filter let %s through", e.Reason)
	}
	endFirst()
	endQuiet()
	n.run(kindXDP, n.out, unserved)
	nextEvent(n, second)
	endSecond()
	if watched(n) != 0 {
		t.Error("the last watcher left drops to be told")
	}
	// Those who come after the last one left are told, and nothing of before.
	n.run(kindXDP, n.out, noBacked)
	third, endThird := watch(n, EventFilter{Drops: true})
	n.run(kindXDP, n.out, unserved)
	if e := nextEvent(n, third); e.Reason != "unserved_port" {
		t.Errorf("told of %s, from before it watched", e.Reason)
	}
	endThird()
}

// Each event comes, or is counted as lost.
func TestEventsLost(t *testing.T) {
	n := newNode(t)
	told, end := watch(n, EventFilter{Drops: true})
	const flood = 50000 // more than the ring and the queue hold
	options := runOptions(n, unserved)
	options.Repeat = flood
	if _, err := n.program(kindXDP).Run(options); err != nil {
		t.Fatal(err)
	}
	// The marker comes last, and with it the count of what was lost before it.
	var received, lost uint64
	n.run(kindXDP, n.out, noBacked)
	for markers := uint64(1); ; {
		select {
		case e := <-told:
			received, lost = received+1, lost+e.Lost
			if e.Reason != "no_backend" {
				continue
			}
			if received+lost != flood+markers {
				t.Errorf("%d told and %d lost of %d", received, lost, flood+markers)
			}
			if lost == 0 {
				t.Error("a flood beyond all room lost nothing")
			}
			end()
			return
		case <-time.After(time.Second): // lost: all before it is out of the way now
			markers++
			n.run(kindXDP, n.out, noBacked)
		}
	}
}

// What a daemon that died was watching is not watched by its successor.
func TestEventsAfterCrash(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	if err := k.maps["monitors"].Put(uint32(0), bpfMonitor{Drops: 1, Lost: 5}); err != nil {
		t.Fatal(err)
	}
	k.Close()
	k = h.open(t)
	row, err := k.monitor()
	if err != nil || row != (bpfMonitor{Lost: 5}) {
		t.Errorf("monitors = %+v, %v", row, err)
	}
}
