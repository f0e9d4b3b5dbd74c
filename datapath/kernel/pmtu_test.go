package kernel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vipNodes are two nodes on a segment; the first has the VIP.
func vipNodes(s *segment) (one, two *lbNode) {
	one = s.joinNode("192.168.10.100/24", "172.20.0.5")
	two = s.joinNode("192.168.10.101/24", "172.20.1.7")
	one.balance(two)
	two.balance(one)
	eth := one.machine.eth.Attrs()
	one.put("announced", bpfAnnouncedKey{Addr: be32(vip), Ifindex: uint32(eth.Index)}, bpfAnnounced{Generation: 1, Mac: [6]byte(eth.HardwareAddr)})
	one.renew(3600)
	return one, two
}

// forwardedErrors is how many ICMP errors a node has handed on.
func (n *lbNode) forwardedErrors() uint64 {
	return n.counts()[countKey{kindXDP, "icmp_forwarded"}].Packets
}

// connect opens a connection from the machine to the VIP.
func (m machine) connect(network, port string) net.Conn {
	m.t.Helper()
	var c net.Conn
	m.do(func() {
		var err error
		c, err = net.DialTimeout(network, net.JoinHostPort(vip.String(), port), 20*time.Second)
		m.must(err)
	})
	m.t.Cleanup(func() { c.Close() })
	m.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
	return c
}

// Between a client and the nodes is a link that is smaller than both ends know
// of: what its router says reaches the pod that sent too much, here and on another
// node, past the VIP that it was sent from.
func TestPathMTUBehindVIP(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	one, two := vipNodes(s)
	r := s.join("192.168.10.200/24")
	user := machine{t: t, net: newNamespace(t)}
	const mtu = 1300
	r.do(func() {
		writeSysctl(t, "net/ipv4/ip_forward", "1")
		r.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "down", MTU: mtu}, PeerName: "eth0", PeerNamespace: netlink.NsFd(user.net)}))
		r.must(netlink.LinkSetUp(r.dev("down")))
		r.address("down", "10.10.1.1/24")
	})
	user.do(func() { // its own MTU is 1500, and so is the MSS that it offers
		user.must(netlink.LinkSetMTU(user.dev("eth0"), 1500))
		user.must(netlink.LinkSetUp(user.dev("eth0")))
		user.address("eth0", "10.10.1.200/24")
		user.must(netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(10, 10, 1, 1), LinkIndex: user.dev("eth0").Attrs().Index}))
	})
	for _, n := range []*lbNode{one, two} {
		n.machine.do(func() {
			via := &netlink.Route{Dst: ipnet(netip.MustParsePrefix("10.10.1.0/24")), Gw: router.AsSlice(), LinkIndex: n.machine.eth.Attrs().Index}
			n.machine.must(netlink.RouteAdd(via))
		})
	}

	for _, n := range []*lbNode{one, two} {
		download(t, n, "8090", 300_000)
	}
	one.serveOn(two, packet.ProtoTCP, 90, 8090)
	two.serveOn(one, packet.ProtoTCP, 90, 8090)
	seen := map[string]bool{}
	for i := 0; i < 12 || i < 100 && len(seen) < 2; i++ { // the client's ports choose the pod
		c := user.connect("tcp4", "90")
		_, err := io.WriteString(c, "send")
		user.must(err)
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatalf("read: %v, after %d bytes\n%v\n%v", err, len(got), one.counts(), two.counts())
		}
		name, data, _ := strings.Cut(string(got), " ")
		if len(data) != 300_000 {
			t.Fatalf("%d bytes came from %q\n%v\n%v", len(data), name, one.counts(), two.counts())
		}
		seen[name] = true
	}
	for _, n := range []*lbNode{one, two} {
		if !seen[n.podAddr.String()] {
			t.Fatalf("nothing came from %s: %v", n.podAddr, seen)
		}
		if n.forwardedErrors() == 0 {
			t.Errorf("node of %s handed no ICMP error on: %v", n.podAddr, n.counts())
		}
		n.podNS.do(func() {
			routes, err := netlink.RouteGet(net.IPv4(10, 10, 1, 200))
			n.machine.must(err)
			if len(routes) != 1 || routes[0].MTU != mtu {
				t.Errorf("pod %s: route to the client: %v, want mtu %d", n.podAddr, routes, mtu)
			}
		})
	}
}

// download serves size bytes behind the pod's name to whoever connects and says
// something.
func download(t *testing.T, n *lbNode, port string, size int) {
	n.podNS.do(func() {
		l, err := net.Listen("tcp4", ":"+port)
		n.machine.must(err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					if _, err := c.Read(make([]byte, 100)); err == nil {
						fmt.Fprintf(c, "%s %s", n.podAddr, strings.Repeat("x", size))
					}
				}()
			}
		}()
	})
}

// serveOn adds a port of the VIP, with the backends of balance on another port of theirs.
func (n *lbNode) serveOn(other *lbNode, proto uint8, port, target uint16) {
	n.t.Helper()
	n.put("backends", uint32(3), bpfBackend{Addr: be32(n.podAddr), Port: be16(target), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)})
	n.put("backends", uint32(4), bpfBackend{Addr: be32(other.podAddr), Port: be16(target), NextHop: 1})
	ids := []uint32{3, 4, 3, 4, 3, 4, 3}
	if n.podAddr.Compare(other.podAddr) > 0 { // every node chooses alike
		ids = []uint32{4, 3, 4, 3, 4, 3, 4}
	}
	n.table(2, 0, ids)
	n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(port), Proto: proto}, bpfFrontend{Set: 2})
	n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(n.podAddr), Port: be16(port), Proto: proto}, bpfLocalTarget{Port: be16(target)})
}

// What does not fit the tunnel is told to the client, whose kernel then sends
// smaller packets: here datagrams in fragments, which all reach one pod, and
// come back from it.
func TestLargeDatagrams(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	one, two := vipNodes(s)
	user := s.join("192.168.10.200/24")
	for _, n := range []*lbNode{one, two} {
		n.podNS.do(func() { digest(t, n) })
	}
	one.serveOn(two, packet.ProtoUDP, 91, 8091)
	two.serveOn(one, packet.ProtoUDP, 91, 8091)

	seen := map[string]int{}
	for i := 0; i < 24 || i < 100 && len(seen) < 2; i++ {
		c := user.connect("udp4", "91")
		text := large(3000 + 500*i%5000)
		answer := user.exchange(c, text)
		name, sum, _ := strings.Cut(answer, " ")
		if sum != fmt.Sprintf("%x", sha256.Sum256(text)) {
			t.Errorf("%s got something else than the %d bytes that were sent", name, len(text))
		}
		seen[name]++
	}
	for _, n := range []*lbNode{one, two} {
		if seen[n.podAddr.String()] == 0 {
			t.Errorf("nothing came from %s: %v", n.podAddr, seen)
		}
		counts := n.counts()
		if counts[countKey{kindXDP, "fragment_passed"}].Packets == 0 {
			t.Errorf("node of %s passed no fragments: %v", n.podAddr, counts)
		}
	}
	if one.counts()[countKey{kindXDP, "icmp_too_big"}].Packets == 0 {
		t.Errorf("nobody was told of the tunnel: %v", one.counts())
	}
	user.do(func() {
		routes, err := netlink.RouteGet(vip.AsSlice())
		user.must(err)
		if len(routes) != 1 || routes[0].MTU != 1480 {
			t.Errorf("route to the VIP: %v, want mtu 1480", routes)
		}
	})
}

// digest answers each datagram with the pod's name and the SHA-256 of it.
func digest(t *testing.T, n *lbNode) {
	udp, err := net.ListenPacket("udp4", ":8091")
	n.machine.must(err)
	t.Cleanup(func() { udp.Close() })
	go func() {
		b := make([]byte, 1<<16)
		for {
			size, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			fmt.Fprintf(writerTo{udp, from}, "%s %x", n.podAddr, sha256.Sum256(b[:size]))
		}
	}()
}

// writerTo writes datagrams to one peer.
type writerTo struct {
	net.PacketConn
	to net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

// exchange sends a datagram until it is answered: one that is too big is lost.
func (m machine) exchange(c net.Conn, data []byte) string {
	m.t.Helper()
	answer := make([]byte, 1<<16)
	for range 100 {
		if _, err := c.Write(data); err != nil && !errors.Is(err, unix.EMSGSIZE) {
			m.t.Fatal(err)
		}
		m.must(c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)))
		size, err := c.Read(answer)
		if err == nil {
			return string(answer[:size])
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.EMSGSIZE) {
			m.t.Fatal(err)
		}
	}
	m.t.Fatal("no answer")
	return ""
}
