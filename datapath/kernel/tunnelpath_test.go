package kernel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inIPv6 is the IPv6 address of a machine or pod that has an IPv4 one.
func inIPv6(a netip.Addr) netip.Addr {
	b := a.As4()
	return netip.AddrFrom16([16]byte{0xfd, 0, b[0], b[1], b[2], 15: b[3]})
}

// enableIPv6 gives a device its machine's IPv6 address.
func (m machine) enableIPv6(dev string, prefix netip.Prefix) {
	m.t.Helper()
	for _, d := range []string{"lo", dev} {
		writeSysctl(m.t, "net/ipv6/conf/"+d+"/disable_ipv6", "0")
	}
	m.must(netlink.AddrAdd(m.dev(dev), &netlink.Addr{IPNet: ipnet(prefix), Flags: unix.IFA_F_NODAD}))
}

// knows tells the machine another's MAC.
func (m machine) knows(dev string, addr netip.Addr, mac net.HardwareAddr) {
	m.t.Helper()
	m.must(netlink.NeighSet(&netlink.Neigh{LinkIndex: m.dev(dev).Attrs().Index, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac}))
}

// speakIPv6 gives a node and its pod IPv6, too.
func (n *lbNode) speakIPv6() {
	pod, gateway := inIPv6(n.podAddr), netip.MustParseAddr("fd00:1::1")
	var host net.HardwareAddr
	n.machine.do(func() {
		writeSysctl(n.t, "net/ipv6/conf/all/forwarding", "1")
		n.machine.enableIPv6("eth1", netip.PrefixFrom(inIPv6(n.cfg.NodeAddr), 64))
		n.machine.enableIPv6("pod", netip.PrefixFrom(gateway, 128))
		dev := n.machine.dev("pod")
		n.machine.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.PrefixFrom(pod, 128)), LinkIndex: dev.Attrs().Index}))
		host = dev.Attrs().HardwareAddr
	})
	n.podNS.do(func() {
		n.podNS.enableIPv6("eth0", netip.PrefixFrom(pod, 128))
		eth0 := n.podNS.dev("eth0")
		n.podNS.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.PrefixFrom(gateway, 128)), LinkIndex: eth0.Attrs().Index}))
		n.podNS.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix("::/0")), Gw: gateway.AsSlice(), LinkIndex: eth0.Attrs().Index}))
		n.podNS.knows("eth0", gateway, host)
		n.machine.do(func() {
			row := bpfEndpoint{Ifindex: uint32(n.machine.dev("pod").Attrs().Index), PodMac: [6]byte(eth0.Attrs().HardwareAddr), HostMac: [6]byte(host)}
			n.put("endpoints6", words(pod), row)
		})
	})
}

// balanceIn is balance for both families and a tunnel.
func (n *lbNode) balanceIn(other *lbNode, flags uint32) {
	n.t.Helper()
	n.balance(other)
	eth, otherEth := n.machine.eth.Attrs(), other.machine.eth.Attrs()
	n.put("next_hops", uint32(1), bpfNextHop{
		Ifindex: uint32(eth.Index), Mtu: 1500, Dmac: [6]byte(otherEth.HardwareAddr), Smac: [6]byte(eth.HardwareAddr),
		Saddr: be32(n.cfg.NodeAddr), Saddr6: words(inIPv6(n.cfg.NodeAddr)),
		Node: be32(other.cfg.NodeAddr), Node6: words(inIPv6(other.cfg.NodeAddr)),
	})
	vip6, pod6 := inIPv6(vip), inIPv6(n.podAddr)
	n.put("backends6", uint32(1), bpfBackend6{Addr: words(pod6), Port: be16(8080), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)})
	n.put("backends6", uint32(2), bpfBackend6{Addr: words(inIPv6(other.podAddr)), Port: be16(8080), NextHop: 1})
	n.put("frontends6", bpfFrontendKey6{Addr: words(vip6)}, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP)})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(80), Proto: proto}, bpfFrontend{Set: 1, Flags: flags})
		n.put("frontends6", bpfFrontendKey6{Addr: words(vip6), Port: be16(80), Proto: proto}, bpfFrontend{Set: 1, Flags: flags})
		n.put("local_targets6", bpfLocalKey6{Vip: words(vip6), Pod: words(pod6), Port: be16(80), Proto: proto}, bpfLocalTarget{Port: be16(8080)})
	}
}

// Kernel stacks at both ends, IP in IP and Geneve between the nodes, both
// families: connections with full segments, and datagrams.
func TestPathInTunnels(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one, two := vipNodes(s)
	one.speakIPv6()
	two.speakIPv6()
	user.do(func() {
		user.enableIPv6("eth1", netip.PrefixFrom(inIPv6(netip.MustParseAddr("192.168.10.200")), 64))
		user.knows("eth1", inIPv6(vip), one.machine.eth.Attrs().HardwareAddr)
	})
	for name, flags := range map[string]uint32{"ip in ip": 0, "geneve": uint32(bpfFrontendFlagsFRONTEND_GENEVE)} {
		one.balanceIn(two, flags)
		two.balanceIn(one, flags)
		for version, addr := range map[string]netip.Addr{"4": vip, "6": inIPv6(vip)} {
			t.Run(name+", IPv"+version, func(t *testing.T) {
				dial := func(network string) (c net.Conn) {
					user.do(func() {
						var err error
						if c, err = net.DialTimeout(network+version, net.JoinHostPort(addr.String(), "80"), 20*time.Second); err != nil {
							t.Fatalf("dial: %v\n%v\n%v", err, one.counts(), two.counts())
						}
					})
					t.Cleanup(func() { c.Close() })
					c.SetDeadline(time.Now().Add(20 * time.Second))
					return c
				}
				seen := map[string]bool{}
				text := strings.Repeat("0123456789abcdef", 4<<10)
				stop := make(chan struct{})
				close(stop)
				// The client's ports choose the pod: 12 connections, and up to 100 until both have served.
				for i := 0; i < 12 || i < 100 && len(seen) < 2; i++ {
					c := dial("tcp")
					var pod, from string
					if _, err := fmt.Fscanln(c, &pod, &from); err != nil {
						t.Fatalf("read: %v\n%v\n%v", err, one.counts(), two.counts())
					}
					if err := echo(c, text, stop); err != nil {
						t.Fatalf("with %s: %v\n%v\n%v", pod, err, one.counts(), two.counts())
					}
					seen["tcp "+pod] = true
				}
				for i := 0; i < 12 || i < 100 && len(seen) < 4; i++ {
					c, back := dial("udp"), make([]byte, 2000)
					for range 3 {
						if _, err := io.WriteString(c, text[:1300]); err != nil {
							t.Fatal(err)
						}
						size, err := c.Read(back)
						if err != nil {
							t.Fatalf("read: %v\n%v\n%v", err, one.counts(), two.counts())
						}
						pod, got, _ := strings.Cut(string(back[:size]), " ")
						if got != text[:1300] {
							t.Fatalf("answer of %d bytes from %s", size, pod)
						}
						seen["udp "+pod] = true
					}
				}
				if len(seen) != 4 {
					t.Errorf("only these served: %v", seen)
				}
			})
		}
	}
}
