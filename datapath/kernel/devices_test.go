package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// needs skips where the kernel has no devices of a kind, or no such sockets.
func needs(t testing.TB, what string, err error) {
	t.Helper()
	for _, lacks := range []error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.ESOCKTNOSUPPORT, unix.ENOENT} {
		if errors.Is(err, lacks) {
			t.Skipf("this kernel has no %s: %v", what, err)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// explain logs what became of packets, when the test has failed; to be deferred,
// since what is cleaned up cannot be asked.
func explain(t *testing.T, nodes ...*lbNode) {
	if !t.Failed() {
		return
	}
	for _, n := range nodes {
		t.Log(n.cfg.NodeAddr, n.counts())
	}
}

// parentIndex is the number of a device that needsDevice may use for the parent.
const parentIndex = 100

// needsDevice makes a device in a namespace of its own, to see whether there are such.
func needsDevice(t testing.TB, dev netlink.Link) {
	t.Helper()
	m := machine{t: t, net: newNamespace(t)}
	m.do(func() {
		parent := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "parent", Index: parentIndex}, PeerName: "peer"}
		m.must(netlink.LinkAdd(parent))
		needs(t, dev.Type()+" devices", netlink.LinkAdd(dev))
	})
}

// move gives the machine's addresses of eth1 to another of its devices.
func (m *machine) move(device string) {
	m.t.Helper()
	m.do(func() {
		addrs, err := netlink.AddrList(m.eth, netlink.FAMILY_V4)
		m.must(err)
		m.eth = m.dev(device)
		m.must(netlink.LinkSetUp(m.eth))
		for _, a := range addrs {
			m.must(netlink.AddrDel(m.dev("eth1"), &a))
			m.must(netlink.AddrAdd(m.eth, &netlink.Addr{IPNet: a.IPNet}))
		}
	})
}

// moveTo makes another device the node's outside one, in place of eth1.
func (n *lbNode) moveTo(device string) Attachment {
	n.t.Helper()
	var at Attachment
	n.machine.do(func() { n.machine.must(n.Detach("eth1")) })
	n.machine.move(device)
	n.machine.do(func() {
		var err error
		at, err = n.Attach(device)
		n.machine.must(err)
	})
	return at
}

func (n *lbNode) announceVIP() {
	n.t.Helper()
	eth := n.machine.eth.Attrs()
	n.put("announced", bpfAnnouncedKey{Addr: be32(vip), Ifindex: uint32(eth.Index)},
		bpfAnnounced{Generation: 1, Mac: [6]byte(eth.HardwareAddr)})
	n.renew(3600)
}

// visit connects to the VIP's TCP port 80 until all of names have answered, and
// exchanges some data with each; it returns the connections.
func (m machine) visit(names ...string) []net.Conn {
	m.t.Helper()
	var open []net.Conn
	seen := map[string]bool{}
	stop := make(chan struct{})
	close(stop)
	for range 40 {
		var c net.Conn
		m.do(func() {
			var err error
			c, err = net.DialTimeout("tcp4", vip.String()+":80", 10*time.Second)
			m.must(err)
		})
		m.t.Cleanup(func() { c.Close() })
		m.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
		var name, from string
		_, err := fmt.Fscanln(c, &name, &from)
		m.must(err)
		m.must(echo(c, strings.Repeat("0123456789abcdef", 1<<10), stop))
		seen[name] = true
		open = append(open, c)
		if !slices.ContainsFunc(names, func(name string) bool { return !seen[name] }) {
			return open
		}
	}
	m.t.Fatalf("answers are of %v, want %v", seen, names)
	return nil
}

// goOn exchanges data with connections that visit has made, some time after.
func goOn(t *testing.T, open []net.Conn, when string) {
	t.Helper()
	stop := make(chan struct{})
	close(stop)
	for _, c := range open {
		if err := errors.Join(c.SetDeadline(time.Now().Add(20*time.Second)), echo(c, "still there", stop)); err != nil {
			t.Errorf("connection %s: %v", when, err)
		}
	}
}

// A bond is balanced on as a whole; its members are refused. Connections
// outlive the link that they began on.
func TestBond(t *testing.T) {
	newHost(t)
	needsDevice(t, netlink.NewLinkBond(netlink.LinkAttrs{Name: "b"}))
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	two := s.joinNode("192.168.10.101/24", "172.20.1.7")
	defer explain(t, one, two)
	s.do(func() {
		s.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "spare"}, PeerName: "eth2", PeerNamespace: netlink.NsFd(one.machine.net)}))
		s.must(netlink.LinkSetMaster(s.dev("spare"), s.bridge))
		wholeChecksums(t, "spare")
		s.must(netlink.LinkSetUp(s.dev("spare")))
	})
	m := &one.machine
	m.do(func() {
		m.must(one.Detach("eth1"))
		bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond0"})
		bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 50
		m.must(netlink.LinkAdd(bond))
		wholeChecksums(t, "eth2")
		for _, name := range []string{"eth1", "eth2"} {
			m.must(netlink.LinkSetDown(m.dev(name)))
			m.must(netlink.LinkSetMaster(m.dev(name), m.dev("bond0")))
		}
	})
	m.move("bond0")
	m.do(func() {
		if _, err := one.Attach("eth1"); err == nil || !strings.Contains(err.Error(), "it is a member of the bond bond0: name bond0 in its place") {
			t.Errorf("Attach to a member = %v", err)
		}
		at, err := one.Attach("bond0")
		if err != nil || at.XDP != "generic" || at.Members != "eth1, eth2" || !strings.Contains(at.Why, "a bond's frames come in by its members") {
			t.Fatalf("Attach = %+v, %v", at, err)
		}
	})
	one.balance(two)
	two.balance(one)
	one.announceVIP()
	open := user.visit("172.20.0.5", "172.20.1.7")
	m.do(func() { m.must(netlink.LinkSetDown(m.dev("eth1"))) })
	goOn(t, open, "after its link went")
}

// Without XDP, tc does it all: what is configured, and where XDP cannot be.
func TestTCAlone(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	two := s.joinNode("192.168.10.101/24", "172.20.1.7")
	defer explain(t, one, two)
	one.balance(two)
	two.balance(one)
	one.announceVIP()
	open := user.visit("172.20.0.5", "172.20.1.7")
	// Into tc and out of it again, by a restart each: connections go on.
	for _, mode := range []Mode{ModeTC, ModeGeneric, ModeNative} {
		for _, n := range []*lbNode{one, two} {
			n.machine.must(n.Close())
			n.machine.do(func() {
				cfg := n.cfg
				cfg.Modes.Default = mode
				n.Kernel = openWith(t, cfg)
				at, err := n.Attach("eth1")
				want := Attachment{Device: "eth1", XDP: string(mode), TC: tcOf(n.Kernel), Why: asConfigured}
				switch mode {
				case ModeTC:
					want.XDP = ""
				case ModeNative:
					want.Why = ""
				}
				if err != nil || at != want {
					t.Fatalf("Attach = %+v, %v, want %+v", at, err, want)
				}
				if got := n.Attached(); len(got) != 1 || got[0] != want {
					t.Errorf("Attached = %+v, want %+v", got, want)
				}
			})
		}
		goOn(t, open, "in mode "+string(mode))
		user.visit("172.20.0.5", "172.20.1.7")
	}
}

// A device whose frames fill more than one buffer has XDP natively if the program
// is made for such frames, and else in the stack, which makes one of them.
func TestJumbo(t *testing.T) {
	h := newHost(t)
	compiled, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	want := ModeGeneric
	if compiled.Programs["seamark_xdp"].Flags&unix.BPF_F_XDP_HAS_FRAGS != 0 {
		want = ModeNative
	}
	k := h.open(t)
	out := addVeth(t, "out", "out-peer")
	for _, dev := range []netlink.Link{out, machine{t: t}.dev("out-peer")} {
		if err := netlink.LinkSetMTU(dev, 9000); err != nil {
			t.Fatal(err)
		}
	}
	if at, err := k.Attach("out"); err != nil || at.XDP != string(want) || (at.Why == "") != (want == ModeNative) {
		t.Errorf("Attach = %+v, %v, want it %s", at, err, want)
	}
}

// A bridge's own device is balanced on in the stack; its ports are refused.
func TestBridgePort(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	addVeth(t, "port", "port-peer")
	for _, err := range []error{
		netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}),
		netlink.LinkSetMaster(machine{t: t}.dev("port"), machine{t: t}.dev("br0")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Attach("port"); err == nil || !strings.Contains(err.Error(), "attach to port: it is a port of the bridge br0: name br0 in its place") {
		t.Errorf("Attach to a port = %v", err)
	}
	if at, err := k.Attach("br0"); err != nil || at.XDP != "generic" || at.Members != "port" {
		t.Errorf("Attach to the bridge = %+v, %v", at, err)
	}
}

// Devices whose packets begin with the IP header are refused.
func TestNoEthernet(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	for _, dev := range []netlink.Link{
		&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun9"}, Mode: netlink.TUNTAP_MODE_TUN},
		&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wg9"}},
	} {
		t.Run(dev.Type(), func(t *testing.T) {
			enter(t, h.net)
			needs(t, dev.Type()+" devices", netlink.LinkAdd(dev))
			name := dev.Attrs().Name
			if _, err := k.Attach(name); err == nil || !strings.Contains(err.Error(), "attach to "+name+": its packets have no Ethernet header") {
				t.Errorf("Attach = %v", err)
			}
		})
	}
}

// A backend outside the cluster takes IP in IP on its tunl0, and answers the
// client itself.
func TestIPIPReceiver(t *testing.T) {
	newHost(t)
	needsDevice(t, &netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "t"}, Local: net.IPv4(10, 0, 0, 1), Remote: net.IPv4(10, 0, 0, 2)})
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	outside := s.join("192.168.10.150/24")
	defer explain(t, one)
	outside.do(func() {
		writeSysctl(t, "net/ipv4/conf/all/rp_filter", "0")
		// The VIP is not its to answer ARP for, nor to ask from.
		writeSysctl(t, "net/ipv4/conf/all/arp_ignore", "1")
		writeSysctl(t, "net/ipv4/conf/all/arp_announce", "2")
		writeSysctl(t, "net/ipv4/conf/tunl0/rp_filter", "0")
		outside.must(netlink.LinkSetUp(outside.dev("tunl0")))
		outside.address("tunl0", vip.String()+"/32")
		l, err := net.Listen("tcp4", vip.String()+":80")
		outside.must(err)
		t.Cleanup(func() { l.Close() })
		go greetAll(l, "outside")
	})
	eth := one.machine.eth.Attrs()
	one.balance(one)
	one.put("next_hops", uint32(1), bpfNextHop{Ifindex: uint32(eth.Index), Saddr: be32(one.cfg.NodeAddr), Mtu: 1500,
		Dmac: [6]byte(outside.eth.Attrs().HardwareAddr), Smac: [6]byte(eth.HardwareAddr)})
	one.put("backends", uint32(2), bpfBackend{Addr: outside.addr(), Port: be16(80), NextHop: 1})
	one.announceVIP()
	user.visit("172.20.0.5", "outside")
}

// greetAll says its name and the client's address to whoever connects, and then
// whatever comes.
func greetAll(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
			io.Copy(c, c)
		}()
	}
}

// addr is the machine's address on the segment.
func (m machine) addr() (addr uint32) {
	m.t.Helper()
	m.do(func() {
		addrs, err := netlink.AddrList(m.eth, netlink.FAMILY_V4)
		m.must(err)
		found, _ := netip.AddrFromSlice(addrs[0].IP.To4())
		addr = be32(found)
	})
	return addr
}

// SCTP, between kernel stacks, to another port than the pods', which the checksum covers:
// without translation of addresses between nodes and with it, and from a pod, whose
// packets the kernel has not summed up yet.
func TestSCTP(t *testing.T) {
	newHost(t)
	probe, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	needs(t, "SCTP", err)
	unix.Close(probe)
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one := s.joinNode("192.168.10.100/24", "172.20.0.5")
	two := s.joinNode("192.168.10.101/24", "172.20.1.7")
	defer explain(t, one, two)
	one.balance(two)
	two.balance(one)
	one.routeTo(two, "172.20.1.0/24")
	two.routeTo(one, "172.20.0.0/24")
	for _, n := range []*lbNode{one, two} {
		n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(80), Proto: packet.ProtoSCTP}, bpfFrontend{Set: 1})
		n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(81), Proto: packet.ProtoSCTP}, bpfFrontend{Set: 1, Flags: uint32(bpfFrontendFlagsFRONTEND_SNAT)})
		n.put("frontends", bpfFrontendKey{Addr: be32(clusterIP), Port: be16(80), Proto: packet.ProtoSCTP}, bpfFrontend{Inside: 1, Flags: uint32(bpfFrontendFlagsFRONTEND_INSIDE)})
		n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(n.podAddr), Port: be16(80), Proto: packet.ProtoSCTP}, bpfLocalTarget{Port: be16(8080)})
		n.put("local_targets", bpfLocalKey{Vip: be32(vip), Pod: be32(n.podAddr), Port: be16(81), Proto: packet.ProtoSCTP}, bpfLocalTarget{Port: be16(8080)})
		n.podNS.do(func() { serveSCTP(t, n.podAddr.As4()) })
	}
	one.announceVIP()
	for _, c := range []struct {
		name string
		from machine
		addr netip.Addr
		port int
	}{{"another target port", user, vip, 80}, {"snat", user, vip, 81}, {"from a pod", one.podNS, clusterIP, 80}} {
		seen := map[string]bool{}
		for range 40 {
			c.from.do(func() { seen[greetSCTP(c.from, c.addr, c.port)] = true })
			if len(seen) == 2 {
				break
			}
		}
		for _, want := range []string{"172.20.0.5 hello", "172.20.1.7 hello"} {
			if !seen[want] {
				t.Errorf("%s: answers are %v, and none is %q", c.name, seen, want)
			}
		}
	}
	if entries := one.entries("nat_out"); entries == 0 {
		t.Error("no association was translated")
	}
}

// greetSCTP says hello, from the namespace it is called in, and returns the answer.
func greetSCTP(m machine, addr netip.Addr, port int) string {
	m.t.Helper()
	fd := sctpSocket(m.t)
	defer unix.Close(fd)
	m.must(unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.As4(), Port: port}))
	_, err := unix.Write(fd, []byte("hello"))
	m.must(err)
	b := make([]byte, 100)
	size, err := unix.Read(fd, b)
	m.must(err)
	return string(b[:size])
}

// sctpSocket makes a socket that gives up after ten seconds.
func sctpSocket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: 10}); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// serveSCTP answers what comes to addr's port 8080 with the address before it.
func serveSCTP(t testing.TB, addr [4]byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: addr, Port: 8080}), unix.Listen(fd, 16))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Shutdown(fd, unix.SHUT_RDWR); unix.Close(fd) })
	go func() {
		for {
			c, _, err := unix.Accept(fd)
			if err != nil {
				return
			}
			go func() {
				defer unix.Close(c)
				b := make([]byte, 100)
				for {
					size, err := unix.Read(c, b)
					if err != nil || size == 0 {
						return
					}
					unix.Write(c, append([]byte(net.IP(addr[:]).String()+" "), b[:size]...))
				}
			}()
		}
	}()
}

// emulated says whether this is a machine of make test-vm.
func emulated() bool { return os.Getenv("SEAMARK_VM_GUEST") != "" }

// An emulated machine has two network cards of a real driver on one wire, and
// nobody else uses them.
func TestVirtioCard(t *testing.T) {
	if !emulated() {
		t.Skip("for an emulated machine, whose network cards are nobody's")
	}
	var cards []string
	for _, driver := range []string{"virtio_net"} {
		found, err := filepath.Glob("/sys/bus/virtio/drivers/" + driver + "/virtio*/net/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			cards = append(cards, filepath.Base(path))
		}
	}
	if len(cards) != 2 {
		t.Fatalf("cards = %v", cards)
	}
	h := host{bpffs: mountBPFFS(t), runDir: t.TempDir()}
	k := h.open(t)
	for _, card := range cards {
		at, err := k.Attach(card)
		if err != nil || at.XDP != "native" || at.Why != "" {
			t.Errorf("Attach to %s = %+v, %v", card, at, err)
		}
		if err := k.Detach(card); err != nil {
			t.Error(err)
		}
	}
}
