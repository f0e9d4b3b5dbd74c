package kernel

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
)

// What a bridge would not take from XDP in a driver goes there by XDP in the stack: a node
// with its VIPs on one device and its way to other nodes by another.
func TestWayOutThatTakesNoFrames(t *testing.T) {
	newHost(t)
	front, back := newSegment(t), newSegment(t)
	user := front.join("192.168.10.200/24")
	one := front.joinNode("192.168.10.100/24", "172.20.0.5")
	two := back.joinNode("192.168.20.101/24", "172.20.1.7")
	defer explain(t, one, two)
	back.do(func() {
		back.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "one"}, PeerName: "eth2", PeerNamespace: netlink.NsFd(one.machine.net)}))
		back.must(netlink.LinkSetMaster(back.dev("one"), back.bridge))
		l, err := link.AttachXDP(link.XDPOptions{Program: back.pass, Interface: back.dev("one").Attrs().Index, Flags: link.XDPDriverMode})
		back.must(err)
		t.Cleanup(func() { l.Close() })
		wholeChecksums(t, "one")
		back.must(netlink.LinkSetUp(back.dev("one")))
	})
	m := &one.machine
	eth1 := func(xdp, why string) {
		t.Helper()
		for _, at := range one.Attached() {
			if at.Device == "eth1" && (at.XDP != xdp || !strings.Contains(at.Why, why) || why == "" && at.Why != "") {
				t.Fatalf("eth1: %s, want XDP %s (%s)", at, xdp, why)
			}
		}
	}
	attach := func() {
		t.Helper()
		for _, dev := range []string{"eth1", "br0"} {
			if _, err := one.Attach(dev); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.do(func() {
		wholeChecksums(t, "eth2")
		m.must(netlink.LinkSetUp(m.dev("eth2")))
		eth2 := m.dev("eth2").Attrs().Index
		if _, known, err := xdpFeatures(eth2); err != nil {
			t.Fatal(err)
		} else if known { // it does, and the kernel says so
			one.LeaveBy(eth2)
			eth1("native", "")
		}
		m.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}))
		m.must(netlink.LinkSetMaster(m.dev("eth2"), m.dev("br0")))
		m.must(netlink.LinkSetUp(m.dev("br0")))
		m.address("br0", "192.168.20.100/24")
		attach()
		eth1("native", "")
	})
	one.balance(two)
	one.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(80), Proto: packet.ProtoTCP},
		bpfFrontend{Set: 1, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
	one.announceVIP()
	m.do(func() {
		br := m.dev("br0").Attrs()
		one.LeaveBy(br.Index)
		eth1("generic", "packets leave by br0")
		one.put("next_hops", uint32(1), bpfNextHop{Ifindex: uint32(br.Index), Saddr: be32(netip.MustParseAddr("192.168.20.100")),
			Dmac: [6]byte(two.machine.eth.Attrs().HardwareAddr), Smac: [6]byte(br.HardwareAddr)})
	})
	open := user.visit("172.20.0.5", "172.20.1.7")
	m.do(func() {
		attach()
		eth1("generic", "packets leave by br0")
	})
	goOn(t, open, "after a look at what is there")
	m.do(func() {
		one.cfg.Modes.Default = ModeNative
		if _, err := one.Attach("eth1"); err == nil || !strings.Contains(err.Error(), "not native: packets leave by br0") {
			t.Errorf("where native is asked for: %v", err)
		}
		one.cfg.Modes.Default = ModeAuto
		one.put("next_hops", uint32(1), bpfNextHop{})
		attach()
		eth1("native", "")
	})
}

func TestTakesFrames(t *testing.T) {
	for name, row := range map[string]struct {
		features      uint64
		known         bool
		kind          string
		native, takes bool
	}{
		"a driver that does":             {7, true, "device", false, true},
		"one that only receives":         {3, true, "device", true, false},
		"a bridge":                       {0, true, "bridge", false, false},
		"not said, with a program":       {0, false, "device", true, true},
		"not said, without one":          {0, false, "device", false, false},
		"not said, of a veth":            {0, false, "veth", true, false},
		"not said, a bond with programs": {0, false, "bond", true, false},
	} {
		if got := takesFrames(row.features, row.known, row.kind, row.native); got != row.takes {
			t.Errorf("%s: %v", name, got)
		}
	}
}
