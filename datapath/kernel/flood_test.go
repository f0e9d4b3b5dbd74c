package kernel

import (
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connectMany opens connections from the machine to an address, some at once.
func (m machine) connectMany(count int, addr string) []net.Conn {
	m.t.Helper()
	open := make([]net.Conn, count)
	errs := make([]error, count)
	next := make(chan int)
	var workers sync.WaitGroup
	for range 20 {
		workers.Go(func() {
			for i := range next {
				if open[i], errs[i] = m.dialIn("tcp", addr); errs[i] == nil {
					_, _, errs[i] = hello(open[i])
				}
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	workers.Wait()
	for i, err := range errs {
		if open[i] != nil {
			m.t.Cleanup(func() { open[i].Close() })
		}
		if err != nil {
			m.t.Fatalf("connection %d: %v", i, err)
		}
	}
	return open
}

// flood sends that many SYNs from the machine's eth1 to the port 80 of a VIP, each from
// a client of its own in a /16 or, of IPv6, in a /32.
func (m machine) flood(dst packet.MAC, vip, clients netip.Addr, count int) {
	m.t.Helper()
	m.do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // receives nothing
		m.must(err)
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Ifindex: m.eth.Attrs().Index}
		eth := packet.Ethernet{Dst: dst, Src: packet.MAC(m.eth.Attrs().HardwareAddr)}
		f := family{v6: vip.Is6()}
		for i := range count {
			syn := packet.TCP{SrcPort: uint16(1024 + i%50000), DstPort: 80, Seq: uint32(i), Flags: packet.SYN}
			frame := f.packet(eth, wireAddr(clients, i>>8, i&0xff), vip, 64, syn)
			err := unix.Sendto(fd, frame, 0, to)
			for ; err == unix.ENOBUFS; err = unix.Sendto(fd, frame, 0, to) {
				runtime.Gosched() // the far end's ring is full
			}
			m.must(err)
		}
	})
}

// A thousand connections go on streaming through the VIP, to pods on the node that
// has it and on another, while both nodes and pods are flooded with first packets:
// of these, many times as many come as half_open has room for, and none takes an
// established flow's place. IPv6's tables have room for a quarter of all that.
func TestFloodBesideConnections(t *testing.T) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { floodBesideConnections(t, f) })
	}
}

func floodBesideConnections(t *testing.T, f family) {
	newHost(t)
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one, two := vipNodes(s)
	connections, flood := 1000, 40000 // half_open has room for a tenth
	from, vip, clients, behind := router, vip, netip.MustParseAddr("10.66.0.0"), 16
	if f.v6 {
		connections, flood = connections/4, flood/4
		from, vip, clients, behind = inIPv6(from), inIPv6(vip), netip.MustParseAddr("fd00:66::"), 32
		one.speakIPv6()
		two.speakIPv6()
		one.balanceIn(two, 0)
		two.balanceIn(one, 0)
		user.do(func() {
			user.enableIPv6("eth1", netip.PrefixFrom(from, 64))
			user.knows("eth1", vip, one.machine.eth.Attrs().HardwareAddr)
		})
	}
	for _, n := range []*lbNode{one, two} { // the flood's clients are behind the user
		n.machine.do(func() {
			n.machine.must(netlink.RouteAdd(&netlink.Route{Dst: ipnet(netip.PrefixFrom(clients, behind)), Gw: from.AsSlice()}))
		})
	}

	open := user.connectMany(connections, netip.AddrPortFrom(vip, 80).String())
	text := strings.Repeat("0123456789abcdef", 1<<7)
	stop, done := make(chan struct{}), make(chan error, connections)
	for _, c := range open {
		go func() { done <- echo(c, text, stop) }()
	}
	user.flood(packet.MAC(one.machine.eth.Attrs().HardwareAddr), vip, clients, flood)
	close(stop)
	var failed int
	var last error
	for range open {
		if err := <-done; err != nil {
			failed, last = failed+1, err
		}
	}
	if failed != 0 {
		t.Errorf("the flood broke %d connections of %d: %v\n%v\n%v", failed, connections, last, one.counts(), two.counts())
	}
	total := 0
	for name, n := range map[string]*lbNode{"one": one, "two": two} {
		// LRU tables drop some entries before they are full.
		if got, room := len(n.flowTable(f, "half_open")), int(n.maps[f.table("half_open")].MaxEntries()); got < room/2 {
			t.Errorf("node %s: half_open has %d entries of %d after a flood, want it full", name, got, room)
		}
		established := 0
		for flow := range n.flowTable(f, "flows") {
			if flow.dst.Addr() != from {
				t.Errorf("node %s: a flow of the flood is established: %+v", name, flow)
				break
			}
			established++
		}
		total += established
	}
	if total != connections {
		t.Errorf("%d flows are established after the flood, want %d", total, connections)
	}
}
