package kernel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// machine is a namespace on the segment of a path test.
type machine struct {
	t   testing.TB
	net netns.NsHandle
	eth netlink.Link // on the segment
}

// do runs f in the machine's namespace.
func (m machine) do(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	if err == nil {
		err = netns.Set(m.net)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	defer before.Close()
	defer netns.Set(before)
	f()
}

// segment is an Ethernet segment of machines.
type segment struct {
	machine
	bridge netlink.Link
	pass   *ebpf.Program
	count  int
}

func newSegment(t testing.TB) *segment {
	s := &segment{machine: machine{t: t, net: newNamespace(t)}}
	// The far end of a veth takes what XDP_TX sends only if it has XDP itself.
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pass.Close() })
	s.pass = pass
	s.do(func() {
		s.must(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}))
		s.bridge = s.dev("br")
		s.must(netlink.LinkSetUp(s.bridge))
	})
	return s
}

func (m machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) dev(name string) netlink.Link {
	m.t.Helper()
	dev, err := netlink.LinkByName(name)
	m.must(err)
	return dev
}

// join adds a machine with eth1 on the segment.
func (s *segment) join(addr string) machine {
	s.t.Helper()
	m := machine{t: s.t, net: newNamespace(s.t)}
	s.count++
	port := fmt.Sprintf("port%d", s.count)
	s.do(func() {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth1", PeerNamespace: netlink.NsFd(m.net)}
		s.must(netlink.LinkAdd(veth))
		s.must(netlink.LinkSetMaster(s.dev(port), s.bridge))
		l, err := link.AttachXDP(link.XDPOptions{Program: s.pass, Interface: s.dev(port).Attrs().Index, Flags: link.XDPDriverMode})
		s.must(err)
		s.t.Cleanup(func() { l.Close() })
		wholeChecksums(s.t, port)
		s.must(netlink.LinkSetUp(s.dev(port)))
	})
	m.do(func() {
		wholeChecksums(m.t, "eth1")
		m.must(netlink.LinkSetUp(m.dev("lo")))
		m.must(netlink.LinkSetUp(m.dev("eth1")))
		m.address("eth1", addr)
		m.eth = m.dev("eth1")
	})
	return m
}

func (m machine) address(dev, addr string) {
	m.t.Helper()
	parsed, err := netlink.ParseAddr(addr)
	m.must(err)
	m.must(netlink.AddrAdd(m.dev(dev), parsed))
}

// wholeChecksums turns transmit checksum offload off: XDP_TX would send what
// the offload left unfinished.
func wholeChecksums(t testing.TB, dev string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{command: 0x17} // ETHTOOL_STXCSUM
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		pad  [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], dev)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("turn off checksum offload of %s: %v", dev, errno)
	}
}

// lbNode is a machine with a Kernel and one pod, which says its name to whoever
// connects to its TCP port 8080, or sends to its UDP port 8080.
type lbNode struct {
	node
	machine machine
	podNS   machine
	podAddr netip.Addr
}

func (s *segment) joinNode(addr, pod string) *lbNode {
	s.t.Helper()
	m := s.join(addr)
	n := &lbNode{machine: m, podAddr: netip.MustParseAddr(pod)}
	h := host{bpffs: mountBPFFS(s.t), runDir: s.t.TempDir(), net: m.net}
	podNS := machine{t: s.t, net: newNamespace(s.t)}
	n.podNS = podNS
	m.do(func() {
		writeSysctl(s.t, "net/ipv4/ip_forward", "1")
		// What the kernel would drop of packets from a VIP it may drop: they must not pass it.
		writeSysctl(s.t, "net/ipv4/conf/all/rp_filter", "1")
		cfg := h.config()
		cfg.NodeAddr = netip.MustParsePrefix(addr).Addr()
		cfg.NodeAddr6 = inIPv6(cfg.NodeAddr)
		cfg.MSSClamp = 1440
		n.node = node{t: s.t, host: h, Kernel: openWith(s.t, cfg)}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(podNS.net)}
		m.must(netlink.LinkAdd(veth))
		m.must(netlink.LinkSetUp(m.dev("pod")))
		m.address("pod", "169.254.1.1/32")
		m.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.PrefixFrom(n.podAddr, 32)), LinkIndex: m.dev("pod").Attrs().Index, Scope: netlink.SCOPE_LINK}))
		_, err := n.Attach("eth1")
		m.must(err)
		m.must(n.AttachPod("pod"))
	})
	podNS.do(func() {
		eth0 := podNS.dev("eth0")
		m.must(netlink.LinkSetUp(eth0))
		podNS.address("eth0", pod+"/32")
		gateway := net.IPv4(169, 254, 1, 1)
		m.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.MustParsePrefix("169.254.1.1/32")), LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK}))
		m.must(netlink.RouteAdd(&netlink.Route{Gw: gateway, LinkIndex: eth0.Attrs().Index}))
		serve(s.t, pod)
		m.do(func() {
			n.put("endpoints", be32(n.podAddr), bpfEndpoint{
				Ifindex: uint32(m.dev("pod").Attrs().Index),
				PodMac:  [6]byte(eth0.Attrs().HardwareAddr), HostMac: [6]byte(m.dev("pod").Attrs().HardwareAddr),
			})
		})
	})
	return n
}

// serve answers in the thread's namespace, over IPv4 and IPv6: "name client" over
// TCP and then whatever comes, over UDP each datagram with the name before it.
func serve(t testing.TB, name string) {
	t.Helper()
	for _, version := range []string{"4", "6"} {
		serveOver(t, name, version)
	}
}

func serveOver(t testing.TB, name, version string) {
	t.Helper()
	tcp, err := net.Listen("tcp"+version, ":8080")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp"+version, ":8080")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		b := make([]byte, 2048)
		for {
			size, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(name+" "+string(b[:size])), from)
		}
	}()
}

// balance makes the VIP's port 80 of pods on this node and another, in turns of slots.
func (n *lbNode) balance(other *lbNode) {
	n.t.Helper()
	eth, otherEth := n.machine.eth.Attrs(), other.machine.eth.Attrs()
	n.put("next_hops", uint32(1), bpfNextHop{Ifindex: uint32(eth.Index), Saddr: be32(n.cfg.NodeAddr), Dmac: [6]byte(otherEth.HardwareAddr), Smac: [6]byte(eth.HardwareAddr)})
	n.put("backends", uint32(1), bpfBackend{Addr: be32(n.podAddr), Port: be16(8080), Flags: uint8(bpfBackendFlagsBACKEND_LOCAL)})
	n.put("backends", uint32(2), bpfBackend{Addr: be32(other.podAddr), Port: be16(8080), NextHop: 1})
	n.table(1, 0, []uint32{1, 2, 1, 2, 1, 2, 1})
	n.put("frontends", bpfFrontendKey{Addr: be32(vip)}, bpfFrontend{})
	for _, proto := range []uint8{packet.ProtoTCP, packet.ProtoUDP} {
		n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(80), Proto: proto}, bpfFrontend{Set: 1})
		n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(n.podAddr), Port: be16(80), Proto: proto}, bpfLocalTarget{Port: be16(8080)})
	}
}

// echo sends text and reads it back, over and over, until stop and once more.
func echo(c net.Conn, text string, stop <-chan struct{}) error {
	back := make([]byte, len(text))
	for last := false; ; {
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, text)
			written <- err
		}()
		if _, err := io.ReadFull(c, back); err != nil {
			return err
		}
		if err := <-written; err != nil {
			return err
		}
		if string(back) != text {
			return fmt.Errorf("other bytes came back than were sent")
		}
		if last {
			return nil
		}
		select {
		case <-stop:
			last = true
		default:
		}
	}
}

// A client's kernel, a VIP, and pods on the node that has it and on another:
// ARP, forwarding, DSR and the way back, with kernel stacks at both ends. And
// a daemon that restarts under way.
func TestPath(t *testing.T) {
	newHost(t) // skips when not root
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	two := s.joinNode("192.168.10.101/24", "172.20.1.7")
	one.balance(two)
	two.balance(one)
	one.put("announced", bpfAnnouncedKey{Addr: be32(vip), Ifindex: uint32(one.machine.eth.Attrs().Index)},
		bpfAnnounced{Generation: 1, Mac: [6]byte(one.machine.eth.Attrs().HardwareAddr)})
	one.renew(3600)

	dial := func(network string) (c net.Conn) {
		t.Helper()
		user.do(func() {
			var err error
			if c, err = net.DialTimeout(network, vip.String()+":80", 20*time.Second); err != nil {
				t.Fatalf("dial: %v\n%v\n%v", err, one.counts(), two.counts())
			}
		})
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
	var open []net.Conn
	seen := map[string]int{}
	for range 20 {
		c := dial("tcp4")
		var name, from string
		if _, err := fmt.Fscanln(c, &name, &from); err != nil {
			t.Fatalf("read: %v\n%v\n%v", err, one.counts(), two.counts())
		}
		if from != "192.168.10.200" {
			t.Errorf("the pod sees client %s", from)
		}
		seen["tcp "+name]++
		open = append(open, c)
	}
	for range 20 {
		c := dial("udp4")
		b := make([]byte, 100)
		for range 3 { // the third is of a flow that both sides have spoken in
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			size, err := c.Read(b)
			if err != nil {
				t.Fatalf("read: %v\n%v\n%v", err, one.counts(), two.counts())
			}
			name, text, _ := strings.Cut(string(b[:size]), " ")
			if text != "hello" {
				t.Errorf("answer = %q", b[:size])
			}
			seen["udp "+name]++
		}
	}
	for _, who := range []string{"tcp 172.20.0.5", "tcp 172.20.1.7", "udp 172.20.0.5", "udp 172.20.1.7"} {
		if seen[who] == 0 {
			t.Errorf("nothing went to %s: %v", who, seen)
		}
	}

	// Full segments, both ways, while both daemons restart, the second into
	// larger flow tables.
	text := strings.Repeat("0123456789abcdef", 4<<10)
	stop, done := make(chan struct{}), make(chan error, len(open))
	for _, c := range open {
		go func() { done <- echo(c, text, stop) }()
	}
	for i, n := range []*lbNode{one, two} {
		cfg := n.cfg
		cfg.Flows *= uint32(1 + i)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		n.machine.do(func() { n.Kernel = openWith(t, cfg) })
	}
	close(stop)
	for range open {
		if err := <-done; err != nil {
			t.Errorf("connection during restarts: %v\n%v\n%v", err, one.counts(), two.counts())
		}
	}
	for hook, n := range map[string]*lbNode{"one": one, "two": two} {
		for at := range n.counts() {
			if at.reason == "too_big" || at.reason == "stale_backend" || at.reason == "flow_table" {
				t.Errorf("node %s dropped packets for %s", hook, at.reason)
			}
		}
	}
}
