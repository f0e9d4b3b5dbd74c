package kernel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	clusterIP = netip.MustParseAddr("10.96.0.10")
	hairpin   = "169.254.77.1"
)

// addPod adds a pod that serves as joinNode's does, on a device of that name.
func (n *lbNode) addPod(dev, addr string) machine {
	n.t.Helper()
	m, pod := n.machine, machine{t: n.t, net: newNamespace(n.t)}
	m.do(func() {
		m.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: dev}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.net)}))
		m.must(netlink.LinkSetUp(m.dev(dev)))
		m.address(dev, "169.254.1.1/32")
		m.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix(addr + "/32")), LinkIndex: m.dev(dev).Attrs().Index, Scope: netlink.SCOPE_LINK}))
		m.must(n.AttachPod(dev))
	})
	pod.do(func() {
		eth0 := pod.dev("eth0")
		pod.must(netlink.LinkSetUp(eth0))
		pod.address("eth0", addr+"/32")
		pod.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix("169.254.1.1/32")), LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK}))
		pod.must(netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(169, 254, 1, 1), LinkIndex: eth0.Attrs().Index}))
		serve(n.t, addr)
	})
	return pod
}

// routeTo gives the node a way to the pods of another.
func (n *lbNode) routeTo(other *lbNode, pods string) {
	n.t.Helper()
	n.machine.do(func() {
		n.machine.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix(pods)), Gw: other.cfg.NodeAddr.AsSlice()}))
	})
}

// dropInvalid has the node's netfilter drop what conntrack cannot place.
func (m machine) dropInvalid() {
	m.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		m.t.Log("no nft: what netfilter sees is not looked at")
		return
	}
	m.do(func() {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader("table ip strict {\n chain forward { type filter hook forward priority filter; ct state invalid drop; }\n}\n")
		if out, err := nft.CombinedOutput(); err != nil {
			m.t.Fatalf("nft: %v: %s", err, out)
		}
		writeSysctl(m.t, "net/netfilter/nf_conntrack_tcp_be_liberal", "0")
	})
}

// dialIn opens a connection from a namespace. It may be called at once by many.
func (m machine) dialIn(network, addr string) (c net.Conn, err error) {
	m.do(func() { c, err = net.DialTimeout(network, addr, 20*time.Second) })
	if err == nil {
		err = c.SetDeadline(time.Now().Add(5 * time.Minute))
	}
	return c, err
}

// hello says hello over a connection, over UDP three times. It returns who answered,
// and over TCP whom it took us for.
func hello(c net.Conn) (name, from string, err error) {
	if c.LocalAddr().Network() == "tcp" {
		_, err = fmt.Fscanln(c, &name, &from)
		return name, from, err
	}
	b := make([]byte, 100)
	for range 3 {
		if _, err = c.Write([]byte("hello")); err != nil {
			return "", "", err
		}
		size, err := c.Read(b)
		if err != nil {
			return "", "", err
		}
		var text string
		if name, text, _ = strings.Cut(string(b[:size]), " "); text != "hello" {
			return "", "", fmt.Errorf("answer = %q", b[:size])
		}
	}
	return name, "", nil
}

// A thousand connections at once, and datagrams, of a client's kernel through a
// node that translates them, to a pod on a node that knows nothing of the VIP.
func TestSNATPath(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	two := s.joinNode("192.168.10.101/24", "172.20.1.7")
	eth, otherEth := one.machine.eth.Attrs(), two.machine.eth.Attrs()
	one.put("next_hops", uint32(1), bpfNextHop{Ifindex: uint32(eth.Index), Saddr: be32(one.cfg.NodeAddr), Dmac: [6]byte(otherEth.HardwareAddr), Smac: [6]byte(eth.HardwareAddr)})
	one.put("backends", uint32(1), bpfBackend{Addr: be32(two.podAddr), Port: be16(8080), NextHop: 1})
	one.table(1, 0, []uint32{1})
	one.put("frontends", bpfFrontendKey{Addr: be32(vip)}, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_VIP)})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		one.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(80), Proto: proto}, bpfFrontend{Set: 1, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
	}
	one.put("announced", bpfAnnouncedKey{Addr: be32(vip), Ifindex: uint32(eth.Index)}, bpfAnnounced{Generation: 1, Mac: [6]byte(eth.HardwareAddr)})
	one.renew(3600)
	one.machine.dropInvalid()
	two.machine.dropInvalid()

	const flows = 1000
	open := make(chan net.Conn, flows)
	errs := make(chan error, flows)
	next := make(chan struct{}, flows)
	for range flows {
		next <- struct{}{}
	}
	close(next)
	var workers sync.WaitGroup
	for range 20 {
		workers.Go(func() {
			for range next {
				c, err := user.dialIn("tcp4", vip.String()+":80")
				if err != nil {
					errs <- err
					continue
				}
				open <- c
				if name, from, err := hello(c); err != nil {
					errs <- err
				} else if name != "172.20.1.7" || from != "192.168.10.100" {
					errs <- fmt.Errorf("%s answered, to %s", name, from)
				}
			}
		})
	}
	workers.Wait()
	close(open)
	close(errs)
	for err := range errs {
		t.Fatalf("connection: %v\n%v\n%v", err, one.counts(), two.counts())
	}
	if pairs := len(one.natTable(families[0], "nat_in")); pairs != flows {
		t.Errorf("%d pairs for %d connections", pairs, flows)
	}
	text := strings.Repeat("0123456789abcdef", 4<<10)
	stop := make(chan struct{})
	close(stop)
	for c := range open {
		if err := echo(c, text[:1+len(text)/100], stop); err != nil {
			t.Fatalf("connection: %v\n%v\n%v", err, one.counts(), two.counts())
		}
		c.Close()
	}
	for range 50 {
		c, err := user.dialIn("udp4", vip.String()+":80")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if name, _, err := hello(c); err != nil || name != "172.20.1.7" {
			t.Fatalf("%q answered: %v\n%v\n%v", name, err, one.counts(), two.counts())
		}
	}
}

// A pod reaches a ClusterIP whose backends are on its node, on another, and
// itself, and netfilter finds nothing wrong with that.
func TestInsidePath(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	two := s.joinNode("192.168.10.101/24", "172.20.1.7")
	asker := one.addPod("pod2", "172.20.0.6")
	one.routeTo(two, "172.20.1.0/24")
	two.routeTo(one, "172.20.0.0/24")
	for id, addr := range []string{"172.20.0.6", "172.20.0.5", "172.20.1.7"} {
		b := bpfBackend{Addr: be32(netip.MustParseAddr(addr)), Port: be16(8080), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)}
		if id == 2 {
			b.Flags = 0
		}
		one.put("backends", uint32(1+id), b)
	}
	one.table(1, 0, []uint32{1, 2, 3, 1, 2, 3, 1})
	inside := uint32(bpfFrontendFlagsFRONTEND_INSIDE)
	one.put("frontends", bpfFrontendKey{Addr: be32(clusterIP)}, bpfFrontend{Flags: inside | uint32(bpfFrontendFlagsFRONTEND_VIP)})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		one.put("frontends", bpfFrontendKey{Addr: be32(clusterIP), Port: be16(80), Proto: proto}, bpfFrontend{Inside: 1, Flags: inside})
	}
	one.machine.dropInvalid()
	two.machine.dropInvalid()

	takenFor := map[string]string{"172.20.0.6": hairpin, "172.20.0.5": "172.20.0.6", "172.20.1.7": "172.20.0.6"}
	seen := map[string]int{}
	stop := make(chan struct{})
	close(stop)
	for range 60 {
		c, err := asker.dialIn("tcp4", clusterIP.String()+":80")
		if err != nil {
			t.Fatalf("%v\n%v", err, one.counts())
		}
		name, from, err := hello(c)
		if err != nil || from != takenFor[name] {
			t.Fatalf("%s took us for %s: %v\n%v", name, from, err, one.counts())
		}
		if c.RemoteAddr().String() != clusterIP.String()+":80" {
			t.Errorf("the pod sees %s", c.RemoteAddr())
		}
		if seen["tcp "+name]++; seen["tcp "+name] == 1 { // full segments, both ways
			if err := echo(c, strings.Repeat("0123456789abcdef", 64<<10), stop); err != nil {
				t.Errorf("%s: %v\n%v", name, err, one.counts())
			}
		}
		c.Close()
		u, err := asker.dialIn("udp4", clusterIP.String()+":80")
		if err != nil {
			t.Fatal(err)
		}
		if name, _, err = hello(u); err != nil {
			t.Fatalf("udp: %v\n%v", err, one.counts())
		}
		seen["udp "+name]++
		u.Close()
	}
	for pod := range takenFor {
		if seen["tcp "+pod] == 0 || seen["udp "+pod] == 0 {
			t.Errorf("nothing went to %s: %v", pod, seen)
		}
	}
	for _, pod := range []string{"172.20.0.5:8080", "172.20.1.7:8080"} { // not through a Service
		c, err := asker.dialIn("tcp4", pod)
		if err != nil {
			t.Fatal(err)
		}
		if _, from, err := hello(c); err != nil || from != "172.20.0.6" {
			t.Errorf("%s took us for %s: %v", pod, from, err)
		}
		c.Close()
	}
}

// The same over IPv6, on one node: a pod, another behind the same Service, and
// the pod itself.
func TestInsidePath6(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	f := families[1]
	asker, other := netip.MustParseAddr("fd00:20::6"), netip.MustParseAddr("fd00:20::7")
	pods := map[netip.Addr]machine{asker: one.addPod("pod6", "172.20.0.6"), other: one.addPod("pod7", "172.20.0.7")}
	one.machine.do(func() { writeSysctl(t, "net/ipv6/conf/all/forwarding", "1") })
	for addr, pod := range pods {
		dev := "pod" + addr.String()[len(addr.String())-1:]
		one.machine.do(func() {
			link := one.machine.dev(dev)
			one.machine.must(netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet(netip.MustParsePrefix("fe80::1/64")), Flags: unix.IFA_F_NODAD}))
			one.machine.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.PrefixFrom(addr, 128)), LinkIndex: link.Attrs().Index}))
		})
		pod.do(func() {
			eth0 := pod.dev("eth0")
			pod.must(netlink.AddrAdd(eth0, &netlink.Addr{IPNet: ipnet(netip.PrefixFrom(addr, 128)), Flags: unix.IFA_F_NODAD}))
			pod.must(netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fe80::1"), LinkIndex: eth0.Attrs().Index}))
			listener, err := net.Listen("tcp6", ":8081") // the pod has served 8080 since it was made
			pod.must(err)
			t.Cleanup(func() { listener.Close() })
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					fmt.Fprintf(c, "%s %s\n", addr, c.RemoteAddr().(*net.TCPAddr).IP)
					go io.Copy(c, c)
				}
			}()
		})
	}
	one.putBackend(f, 1, asker, 8081, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
	one.putBackend(f, 2, other, 8081, 0, uint8(bpfBackendFlagsBACKEND_LOCAL))
	one.table(1, 0, []uint32{1, 2, 1, 2, 1})
	inside := uint32(bpfFrontendFlagsFRONTEND_INSIDE)
	one.putFrontend(f, f.clusterIP, 0, 0, bpfFrontend{Flags: inside | uint32(bpfFrontendFlagsFRONTEND_VIP)})
	one.putFrontend(f, f.clusterIP, 80, packet.ProtoTCP, bpfFrontend{Inside: 1, Flags: inside})

	takenFor := map[string]string{asker.String(): f.hairpin.String(), other.String(): asker.String()}
	seen := map[string]int{}
	stop := make(chan struct{})
	close(stop)
	for range 30 {
		c, err := pods[asker].dialIn("tcp6", netip.AddrPortFrom(f.clusterIP, 80).String())
		if err != nil {
			t.Fatalf("%v\n%v", err, one.counts())
		}
		name, from, err := hello(c)
		if err != nil || from != takenFor[name] {
			t.Fatalf("%s took us for %s: %v\n%v", name, from, err, one.counts())
		}
		if seen[name]++; seen[name] == 1 {
			if err := echo(c, strings.Repeat("0123456789abcdef", 64<<10), stop); err != nil {
				t.Errorf("%s: %v\n%v", name, err, one.counts())
			}
		}
		c.Close()
	}
	if len(seen) != 2 {
		t.Errorf("answers were from %v", seen)
	}
}
