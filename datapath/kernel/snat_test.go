package kernel

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// l4 is a header of TCP, UDP or SCTP.
func l4(proto uint8, src, dst uint16, flags uint8) packet.Layer {
	switch {
	case proto == packet.ProtoTCP:
		return packet.TCP{SrcPort: src, DstPort: dst, Flags: flags, Seq: 77}
	case proto == packet.ProtoUDP:
		return packet.UDP{SrcPort: src, DstPort: dst}
	case flags == packet.SYN:
		return packet.SCTP{SrcPort: src, DstPort: dst, Chunk: packet.ChunkInit}
	}
	return packet.SCTP{SrcPort: src, DstPort: dst, Tag: 77, Chunk: packet.ChunkData}
}

var toOther, toRouter = packet.Ethernet{Dst: otherMAC, Src: nodeMAC}, packet.Ethernet{Dst: routerMAC, Src: nodeMAC}

// A flow goes to a backend from a port of this node, and its answers come back
// from the VIP: each packet whole, with the checksums of its new ends.
func TestSNAT(t *testing.T) {
	fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
	atEachHookInEachFamily(t, func(n *node, f family) {
		for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP} {
			for port, sport := range map[uint16]uint16{portSNAT: 1025, portSNATByFIB: 61234} {
				n.sub(fmt.Sprintf("protocol %d to port %d", proto, port), func(n *node) {
					defer n.clearNAT(f)
					data := packet.Payload("odd")
					n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(proto, sport, port, packet.SYN), data))
					from := natTuple{netip.AddrPortFrom(f.client, sport), netip.AddrPortFrom(f.vip, port), proto}
					to := n.translation(f, from)
					if to.src.Addr() != f.node || to.dst != netip.AddrPortFrom(f.remotePod, 8080) || to.src.Port() < 61000 {
						t.Fatalf("the flow becomes %v -> %v", to.src, to.dst)
					}
					if sport >= 61000 && to.src.Port() != sport {
						t.Errorf("a port to give out that is free became %d", to.src.Port())
					}
					for _, flags := range []uint8{packet.SYN, packet.ACK} {
						n.expect(kindXDP, n.out,
							f.packet(fromRouter, f.client, f.vip, 63, l4(proto, sport, port, flags), data), xdpTX, "forward_snat",
							f.packet(toOther, f.node, f.remotePod, 62, l4(proto, to.src.Port(), 8080, flags), data))
						n.expect(kindXDP, n.out,
							f.packet(fromOther, f.remotePod, f.node, 60, l4(proto, 8080, to.src.Port(), flags), data), xdpTX, "reply_snat",
							f.packet(toRouter, f.vip, f.client, 59, l4(proto, port, sport, flags), data))
					}
					in := n.natTable(f, "nat_in")[natTuple{to.dst, to.src, proto}]
					if want := bpfNatFlagsNAT_REPLIED | bpfNatFlagsNAT_ANSWERED; in.flags != want || n.translation(f, from).flags != want {
						t.Errorf("flags are %d, and %d of the answers", n.translation(f, from).flags, in.flags)
					}
				})
			}
		}
	})
}

// What is not translated, and what cannot be.
func TestSNATDoesNot(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		in := func(hops uint8, l4 ...packet.Layer) []byte { return f.packet(fromRouter, f.client, f.vip, hops, l4...) }
		answer := func(eth packet.Ethernet, src netip.Addr, l4 packet.Layer) []byte {
			return f.packet(eth, src, f.node, 60, l4)
		}
		for name, row := range map[string]struct {
			in     []byte
			action uint32
			reason string
		}{
			"last hop":               {in(1, l4(packet.ProtoTCP, 1, portSNAT, packet.SYN)), xdpDrop, "ttl_expired"},
			"no way":                 {in(63, l4(packet.ProtoTCP, 2, portSNATNowhere, packet.SYN)), xdpDrop, "no_route"},
			"flooded":                {f.packet(packet.Ethernet{Dst: otherMAC, Src: routerMAC}, f.client, f.vip, 63, l4(packet.ProtoTCP, 3, portSNAT, packet.SYN)), xdpPass, "not_ours"},
			"answer of no flow":      {answer(fromRouter, f.remotePod, l4(packet.ProtoTCP, 8080, 61000, packet.ACK)), xdpPass, "not_ours"},
			"answer to another port": {answer(fromRouter, f.remotePod, l4(packet.ProtoTCP, 8080, 2000, packet.ACK)), xdpPass, "not_ours"},
		} {
			n.sub(name, func(n *node) { n.expect(kindXDP, n.out, row.in, row.action, row.reason, nil) })
		}
		n.clearNAT(f)
		n.sub("answer to another host", func(n *node) {
			n.run(kindXDP, n.out, in(63, l4(packet.ProtoTCP, 62000, portSNAT, packet.SYN)))
			flooded := packet.Ethernet{Dst: strangeMAC, Src: otherMAC}
			n.expect(kindXDP, n.out, answer(flooded, f.remotePod, l4(packet.ProtoTCP, 8080, 62000, packet.ACK)), xdpPass, "not_ours", nil)
			n.expect(kindXDP, n.out, answer(fromRouter, f.otherNode, l4(packet.ProtoTCP, 8080, 62000, packet.ACK)), xdpPass, "not_ours", nil)
			n.expect(kindXDP, n.out, answer(fromRouter, f.remotePod, l4(packet.ProtoUDP, 8080, 62000, 0)), xdpPass, "not_ours", nil)
		})
	})
}

// A client whose MAC is not known is answered by tc, where the stack asks for it.
func TestSNATToUnknownNeighbour(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		fromOther := packet.Ethernet{Dst: nodeMAC, Src: otherMAC}
		n.run(kindXDP, n.out, f.packet(fromRouter, f.unmet, f.vip, 63, l4(packet.ProtoTCP, 62000, portSNAT, packet.SYN)))
		answer := f.packet(fromOther, f.remotePod, f.node, 60, l4(packet.ProtoTCP, 8080, 62000, packet.SYN|packet.ACK))
		n.expect(kindXDP, n.out, answer, xdpPass, "not_ours", nil)
		r := n.run(kindTCOutside, n.out, answer)
		if r.action != tcRedirect || r.reason != "reply_snat" {
			t.Errorf("tc: action %d for %q", r.action, r.reason)
		}
		want := f.packet(packet.Ethernet{}, f.vip, f.unmet, 59, l4(packet.ProtoTCP, portSNAT, 62000, packet.SYN|packet.ACK))
		if d := packet.Diff(want[14:], r.out[14:]); d != "" { // the stack writes the MACs
			t.Errorf("packet is not as wanted:\n%s", d)
		}
		n.expect(kindTCOutside, n.out, f.packet(fromOther, f.remotePod, f.node, 60, l4(packet.ProtoTCP, 8081, 62000, packet.ACK)), tcNext, "not_ours", nil)

		n.run(kindXDP, n.out, f.packet(fromRouter, f.unmet, f.vip, 63, l4(packet.ProtoUDP, 62000, portSNAT, 0)))
		in := f.pieces(fromOther, f.remotePod, f.node, 60, packet.UDP{SrcPort: 8080, DstPort: 62000}, large(3000))
		out := f.pieces(packet.Ethernet{}, f.vip, f.unmet, 59, packet.UDP{SrcPort: portSNAT, DstPort: 62000}, large(3000))
		for i := range in {
			n.expect(kindXDP, n.out, in[i], xdpPass, "not_ours", nil)
			r := n.run(kindTCOutside, n.out, in[i])
			if want := []string{"reply_snat", "fragment_passed", "fragment_passed"}[i]; r.action != tcRedirect || r.reason != want {
				t.Errorf("tc, piece %d: action %d for %q", i, r.action, r.reason)
			}
			if d := packet.Diff(out[i][14:], r.out[14:]); d != "" {
				t.Errorf("piece %d is not as wanted:\n%s", i, d)
			}
		}
	})
}

// A client behind another device is answered by tc: what kind of device that is,
// XDP does not know.
func TestSNATByAnotherDevice(t *testing.T) {
	n := newNode(t)
	f := families[0]
	n.addFamily(f)
	elsewhere, gateway := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("192.168.77.1")
	if err := netlink.AddrAdd(n.second, &netlink.Addr{IPNet: ipnet(netip.MustParsePrefix("192.168.77.100/24"))}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix("10.77.0.0/16")), Gw: gateway.AsSlice(), LinkIndex: n.second.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	neigh := &netlink.Neigh{LinkIndex: n.second.Attrs().Index, State: unix.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: strangeMAC[:]}
	if err := netlink.NeighSet(neigh); err != nil {
		t.Fatal(err)
	}
	n.run(kindXDP, n.out, f.packet(fromRouter, elsewhere, f.vip, 63, l4(packet.ProtoTCP, 62000, portSNAT, packet.SYN)))
	answer := f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 60, l4(packet.ProtoTCP, 8080, 62000, packet.ACK))
	n.expect(kindXDP, n.out, answer, xdpPass, "not_ours", nil)
	out := packet.Ethernet{Dst: strangeMAC, Src: packet.ParseMAC("02:00:00:00:01:64")}
	n.expect(kindTCOutside, n.out, answer, tcRedirect, "reply_snat", f.packet(out, f.vip, elsewhere, 59, l4(packet.ProtoTCP, portSNAT, 62000, packet.ACK)))
}

// A next hop behind a VLAN gets its packets tagged.
func TestSNATIntoVLAN(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		hop := bpfNextHop{Ifindex: uint32(n.out.Attrs().Index), Vlan: 7, Saddr: be32(nodeAddr), Saddr6: words(families[1].node), Dmac: otherMAC, Smac: nodeMAC}
		n.put("next_hops", uint32(20), hop)
		plain := f.packet(toOther, f.node, f.remotePod, 62, l4(packet.ProtoTCP, 62000, 8080, packet.SYN))
		tagged := slices.Concat(plain[:12], []byte{0x81, 0, 0, 7}, plain[12:])
		n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 62000, portSNAT, packet.SYN)), xdpTX, "forward_snat", tagged)
	})
}

// Flows keep their way when the forwarding mode of a frontend changes; that one did so is
// noted, and nothing else is.
func TestSNATSwitched(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		in := func(proto uint8, sport, port uint16, flags uint8) []byte {
			return f.packet(fromRouter, f.client, f.vip, 63, l4(proto, sport, port, flags))
		}
		former := false
		reason := func(want string, frame []byte) {
			t.Helper()
			if r := n.run(kindXDP, n.out, frame); r.reason != want {
				t.Errorf("%q, want %q", r.reason, want)
			}
			var seen uint32
			if err := n.maps["former_ways"].Lookup(uint32(0), &seen); err != nil {
				t.Fatal(err)
			}
			if (seen != 0) != former {
				t.Errorf("%q: seen at %d in its former way, want %v", want, seen, former)
			}
			n.put("former_ways", uint32(0), uint32(0))
			former = false
		}
		former = true
		reason("forward_remote", in(packet.ProtoTCP, 1, portNowSNAT, packet.ACK)) // of a flow older than the mode
		reason("forward_snat", in(packet.ProtoTCP, 2, portNowSNAT, packet.SYN))
		reason("forward_snat", in(packet.ProtoTCP, 2, portNowSNAT, packet.ACK))
		reason("forward_snat", in(packet.ProtoUDP, 1, portNowSNAT, 0))
		former = true
		reason("forward_remote", in(packet.ProtoSCTP, 1, portNowSNAT, 0))
		reason("forward_snat", in(packet.ProtoSCTP, 2, portNowSNAT, packet.SYN))
		reason("forward_snat", in(packet.ProtoTCP, 3, portSNAT, packet.ACK)) // no other way was ever

		reason("forward_remote", in(packet.ProtoTCP, 4, portSNATBefore, packet.SYN))
		n.putFrontend(f, f.vip, portSNATBefore, packet.ProtoTCP, bpfFrontend{Set: 20, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
		reason("forward_snat", in(packet.ProtoTCP, 5, portSNATBefore, packet.SYN))
		n.putFrontend(f, f.vip, portSNATBefore, packet.ProtoTCP, bpfFrontend{Set: 20, Flags: uint32(bpfFrontendFlagsFRONTEND_SWITCHED)})
		former = true
		reason("forward_snat", in(packet.ProtoTCP, 5, portSNATBefore, packet.ACK))
		reason("forward_remote", in(packet.ProtoTCP, 4, portSNATBefore, packet.ACK))
		reason("forward_remote", in(packet.ProtoTCP, 6, portSNATBefore, packet.SYN))
	})
}

// A flow keeps its backend whatever the tables say, for as long as that is there;
// when it is over, its port begins another.
func TestSNATKeepsBackend(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		other := netip.MustParseAddr("172.20.1.8")
		if f.v6 {
			other = netip.MustParseAddr("fd00:20:1::8")
		}
		n.putBackend(f, 30, other, 8080, 20, 0)
		from := natTuple{netip.AddrPortFrom(f.client, 1025), netip.AddrPortFrom(f.vip, portSNAT), packet.ProtoTCP}
		send := func(flags uint8) netip.Addr {
			t.Helper()
			r := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 1025, portSNAT, flags)))
			if r.reason != "forward_snat" {
				t.Fatalf("dropped for %q", r.reason)
			}
			return n.translation(f, from).dst.Addr()
		}
		expect := func(what string, got, want netip.Addr) {
			t.Helper()
			if got != want {
				t.Errorf("%s: to %s, want %s", what, got, want)
			}
			if out, in := len(n.natTable(f, "nat_out")), len(n.natTable(f, "nat_in")); out != 1 || in != 1 {
				t.Errorf("%s: %d entries out and %d in", what, out, in)
			}
		}
		expect("first", send(packet.SYN), f.remotePod)
		n.table(20, 1, []uint32{30}) // all slots are another's now
		expect("after a change", send(packet.ACK), f.remotePod)
		expect("SYN again", send(packet.SYN), f.remotePod)
		n.putBackend(f, 20, f.remotePod, 8080, 20, uint8(bpfBackendFlagsBACKEND_DRAINING))
		expect("while it drains", send(packet.ACK), f.remotePod)
		expect("its end", send(packet.FIN|packet.ACK), f.remotePod)
		n.run(kindXDP, n.out, f.packet(fromRouter, f.remotePod, f.node, 60, l4(packet.ProtoTCP, 8080, n.translation(f, from).src.Port(), packet.FIN|packet.ACK)))
		expect("and last packet", send(packet.ACK), f.remotePod)
		expect("the next from that port", send(packet.SYN), other)

		n.putBackend(f, 30, f.remotePod, 9090, 20, 0) // the id is another's now
		n.table(20, 0, []uint32{20})
		expect("after its backend went", send(packet.ACK), f.remotePod)

		// A reset from the backend ends it, too.
		port := n.translation(f, from).src.Port()
		n.run(kindXDP, n.out, f.packet(fromRouter, f.remotePod, f.node, 60, l4(packet.ProtoTCP, 8080, port, packet.RST)))
		in := n.natTable(f, "nat_in")[natTuple{netip.AddrPortFrom(f.remotePod, 8080), netip.AddrPortFrom(f.node, port), packet.ProtoTCP}]
		if out := n.translation(f, from); out.flags&bpfNatFlagsNAT_CLOSING == 0 || in.flags&bpfNatFlagsNAT_CLOSING == 0 {
			t.Errorf("after a reset: flags %d and %d", out.flags, in.flags)
		}
	})
}

// Every port is given out once to each backend, and then none; one that is given
// back is given out again.
func TestSNATPorts(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			const low, ports = 62000, 16
			h := newHost(t)
			cfg := h.config()
			cfg.NATPorts = [2]uint16{low, low + ports - 1}
			n := nodeWith(t, h, cfg)
			n.addFamily(f)
			open := func(sport uint16) string {
				return n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoUDP, sport, portSNAT, 0))).reason
			}
			used := map[uint16]bool{}
			for sport := range uint16(ports) {
				if why := open(1000 + sport); why != "forward_snat" {
					t.Fatalf("flow %d: %s", sport, why)
				}
			}
			for _, to := range n.natTable(f, "nat_out") {
				used[to.src.Port()] = true
			}
			if len(used) != ports || used[low-1] || used[low+ports] {
				t.Errorf("ports in use: %v", used)
			}
			if why := open(2000); why != "nat_ports" {
				t.Errorf("one flow more: %s", why)
			}
			if len(n.natTable(f, "nat_out")) != ports || len(n.natTable(f, "nat_in")) != ports {
				t.Error("a flow without a port has left something behind")
			}
			if why := open(1000); why != "forward_snat" {
				t.Errorf("a flow that has its port: %s", why)
			}
			// As the collector does.
			for from := range n.natTable(f, "nat_out") {
				if from.src.Port() == 1003 {
					n.forget(f, from)
				}
			}
			if why := open(2000); why != "forward_snat" {
				t.Errorf("with a port given back: %s", why)
			}
			// Another backend's ports are others.
			if why := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoTCP, 1000, portSNAT, packet.SYN))).reason; why != "forward_snat" {
				t.Errorf("over TCP: %s", why)
			}
		})
	}
}

// forget removes the pair of a flow.
func (n *node) forget(f family, from natTuple) {
	n.t.Helper()
	to := n.translation(f, from)
	for name, key := range map[string]natTuple{"nat_out": from, "nat_in": {to.dst, to.src, from.proto}} {
		b := append(key.src.Addr().AsSlice(), key.dst.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, key.src.Port())
		b = binary.BigEndian.AppendUint16(b, key.dst.Port())
		if err := n.maps[f.table(name)].Delete(append(b, key.proto, 0, 0, 0)); err != nil {
			n.t.Fatal(err)
		}
	}
}

// With the tables full, a new flow is dropped whole: no half of a pair stays.
func TestSNATTableFull(t *testing.T) {
	for _, full := range []string{"nat_out", "nat_in"} {
		t.Run(full, func(t *testing.T) {
			inEachFamily(t, func(n *node, f family) {
				m := n.maps[f.table(full)]
				for i := range m.MaxEntries() {
					key := make([]byte, m.KeySize())
					binary.NativeEndian.PutUint32(key, i)
					n.put(f.table(full), key, make([]byte, m.ValueSize()))
				}
				for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
					n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, l4(proto, 1, portSNAT, packet.SYN)), xdpDrop, "nat_table", nil)
				}
				other := map[string]string{"nat_out": "nat_in", "nat_in": "nat_out"}[full]
				if left := n.natTable(f, other); len(left) != 0 {
					n.t.Errorf("%s has %v", other, left)
				}
			})
		})
	}
}

// What comes back of what went out is what the client and the VIP would say to
// each other, whatever the packets: right checksums stay right, and wrong ones
// wrong by as much.
func TestSNATThereAndBack(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			proto := []uint8{packet.ProtoTCP, packet.ProtoUDP}[random.IntN(2)]
			sport := uint16(random.Uint32())
			data := make(packet.Payload, random.IntN(100))
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			header := func(src, dst uint16) packet.Layer {
				if proto == packet.ProtoTCP {
					return packet.TCP{SrcPort: src, DstPort: dst, Flags: packet.ACK}
				}
				return packet.UDP{SrcPort: src, DstPort: dst}
			}
			out := n.run(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, header(sport, portSNAT), data))
			if out.reason != "forward_snat" {
				t.Fatalf("out: %s", out.reason)
			}
			to := n.translation(f, natTuple{netip.AddrPortFrom(f.client, sport), netip.AddrPortFrom(f.vip, portSNAT), proto})
			if d := packet.Diff(f.packet(toOther, f.node, f.remotePod, 62, header(to.src.Port(), 8080), data), out.out); d != "" {
				t.Fatalf("out:\n%s", d)
			}
			back := n.run(kindXDP, n.out, f.packet(packet.Ethernet{Dst: nodeMAC, Src: otherMAC}, f.remotePod, f.node, 62, header(8080, to.src.Port()), data))
			if d := packet.Diff(f.packet(toRouter, f.vip, f.client, 61, header(portSNAT, sport), data), back.out); d != "" {
				t.Fatalf("back:\n%s", d)
			}
		}
	})
}

// What does not fit the way to the backend is answered by the VIP.
func TestSNATTooBig(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		fits := 1300 - len(f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoUDP, 1, portSNATSmall, 0))) + 14
		in := f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoUDP, 1, portSNATSmall, 0), make(packet.Payload, fits))
		if r := n.run(kindXDP, n.out, in); r.reason != "forward_snat" {
			t.Errorf("a packet of 1300 bytes: %s", r.reason)
		}
		in = f.packet(fromRouter, f.client, f.vip, 63, l4(packet.ProtoUDP, 1, portSNATSmall, 0), make(packet.Payload, fits+1))
		r := n.run(kindXDP, n.out, in)
		if r.action != xdpTX || r.reason != "icmp_too_big" {
			t.Fatalf("a packet of 1301 bytes: action %d for %s", r.action, r.reason)
		}
		icmp, kind := r.out[14+20:], []byte{3, 4}
		if f.v6 {
			icmp, kind = r.out[14+40:], []byte{2, 0}
		}
		if !slices.Equal(icmp[:2], kind) || binary.BigEndian.Uint16(icmp[6:]) != 1300 {
			t.Errorf("the answer is\n%s", packet.String(r.out))
		}
	})
}

// UDP without a checksum gets none, and a broken one is not mended.
func TestSNATChecksums(t *testing.T) {
	n := newNode(t)
	f := families[0]
	n.addFamily(f)
	none := packet.UDP{SrcPort: 62000, DstPort: portSNAT, Checksum: new(uint16(0))}
	n.expect(kindXDP, n.out, f.packet(fromRouter, f.client, f.vip, 63, none, packet.Payload("q")), xdpTX, "forward_snat",
		f.packet(toOther, f.node, f.remotePod, 62, packet.UDP{SrcPort: 62000, DstPort: 8080, Checksum: new(uint16(0))}, packet.Payload("q")))
	broken := f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{SrcPort: 62000, DstPort: portSNAT, Flags: packet.SYN})
	broken[14+20+16] ^= 0x55
	r := n.run(kindXDP, n.out, broken)
	right := f.packet(toOther, f.node, f.remotePod, 62, packet.TCP{SrcPort: 62000, DstPort: 8080, Flags: packet.SYN})
	if slices.Equal(r.out, right) || r.reason != "forward_snat" {
		t.Errorf("%s: a broken checksum was mended", r.reason)
	}
}
