package announce

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// addr6 is fd00::1:i.
func addr6(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 13: 1, 14: byte(i >> 8), 15: byte(i)})
}

func TestUnsolicitedNA(t *testing.T) {
	got, err := unsolicitedNA(mac1, addr6(0x211))
	if err != nil {
		t.Fatal(err)
	}
	self, all := addr6(0x211).AsSlice(), allNodes.AsSlice()
	head := slicesConcat([]byte{0x60, 0, 0, 0, 0, 32, 58, 255}, self, all, []byte{136, 0})
	tail := slicesConcat([]byte{0x20, 0, 0, 0}, self, []byte{2, 1}, mac1)
	if len(got) != 72 || !bytes.HasPrefix(got, head) || !bytes.HasSuffix(got, tail) {
		t.Errorf("% x\nwant % x, a checksum, % x", got, head, tail)
	}
	if _, err := unsolicitedNA(mac1, addr(1)); err == nil {
		t.Error("no error for an IPv4 address")
	}
}

// cable is a device a0 in the namespace of the test, and b0 at its other end in
// another, with the address fd00::c8.
type cable struct {
	here, there netns.NsHandle
	a0, b0      netlink.Link
	far         *netlink.Handle
}

func newCable(t *testing.T) cable {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test and takes its namespace along
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	there, err := netns.New()
	must(err)
	t.Cleanup(func() { there.Close() })
	here, err := netns.New()
	must(err)
	t.Cleanup(func() { here.Close() })
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0", HardwareAddr: mac1}, PeerName: "b0", PeerNamespace: netlink.NsFd(there)}))
	a0, err := netlink.LinkByName("a0")
	must(err)
	must(netlink.LinkSetUp(a0))
	far, err := netlink.NewHandleAt(there)
	must(err)
	t.Cleanup(far.Close)
	b0, err := far.LinkByName("b0")
	must(err)
	six := &netlink.Addr{IPNet: &net.IPNet{IP: netip.MustParseAddr("fd00::c8").AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	must(far.AddrAdd(b0, six))
	must(far.LinkSetUp(b0))
	eventually(t, 5*sec, "carrier", func() bool {
		b0, err = far.LinkByName("b0")
		must(err)
		a0, err = netlink.LinkByName("a0") // drops what is sent before
		must(err)
		return b0.Attrs().OperState == netlink.OperUp && a0.Attrs().OperState == netlink.OperUp
	})
	return cable{here, there, a0, b0, far}
}

// A Linux neighbour that has an IPv6 address at another's hardware address
// changes its mind at an unsolicited advertisement.
func TestSocketMovesAnIPv6Neighbour(t *testing.T) {
	c := newCable(t)
	a0, far, b0 := c.a0, c.far, c.b0
	socket, err := OpenSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	vip := addr6(0x211)
	if err := far.NeighSet(&netlink.Neigh{LinkIndex: b0.Attrs().Index, Family: unix.AF_INET6, IP: vip.AsSlice(), State: netlink.NUD_STALE,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}); err != nil {
		t.Fatal(err)
	}
	neighbour := func() string {
		neighs, err := far.NeighList(b0.Attrs().Index, unix.AF_INET6)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range neighs {
			if n.IP.Equal(vip.AsSlice()) {
				return n.HardwareAddr.String()
			}
		}
		return "none"
	}
	if got := neighbour(); got != "02:00:00:00:00:09" {
		t.Fatalf("neighbour begins at %s", got)
	}
	if err := socket.Send(a0.Attrs().Index, mac1, vip); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*sec, "neighbour moves to "+mac1.String(), func() bool { return neighbour() == mac1.String() })
}

// joined are the solicited-node groups of a0 that the kernel of this thread's
// namespace has, without those of its own addresses.
func joined(t *testing.T) map[string]bool {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/net/igmp6")
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[1] == "a0" && strings.HasPrefix(f[2], "ff0200000000000000000001ff01") {
			groups[f[2]] = true
		}
	}
	return groups
}

func TestGroups(t *testing.T) {
	a0 := newCable(t).a0
	const many = 3000 // more than one socket may have
	g := newGroups()
	defer g.Close()
	index := a0.Attrs().Index
	join := func(ifindex int, addr netip.Addr) {
		t.Helper()
		if err := g.Join(ifindex, addr); err != nil {
			t.Fatal(err)
		}
	}
	has := func(what string, want int) {
		t.Helper()
		if got := len(joined(t)); got != want {
			t.Errorf("%s: %d groups, want %d", what, got, want)
		}
	}
	for i := range many {
		join(index, addr6(i))
	}
	has("joined", many)
	t.Logf("%d groups on %d sockets", many, len(g.sockets))
	group, err := ndp.SolicitedNodeMulticast(addr6(7))
	if err != nil {
		t.Fatal(err)
	}
	if !joined(t)[hex.EncodeToString(group.AsSlice())] {
		t.Errorf("%s is not joined", group)
	}
	join(index, addr6(7)) // again
	twin := netip.MustParseAddr("fd00:1::1:7")
	join(index, twin)
	g.Leave(index, addr6(7))
	has("another address has the same group", many)
	g.Leave(index, twin)
	g.Leave(index, twin)
	g.Leave(index, addr6(many)) // never joined
	has("left", many-1)
	join(index, addr(1)) // IPv4 has none
	has("IPv4", many-1)
	if err := g.Join(9999, addr6(1)); err == nil {
		t.Error("joined on an interface that is not there")
	}

	// The interface goes and comes back as another.
	if err := netlink.LinkDel(a0); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0"}, PeerName: "c0"}); err != nil {
		t.Fatal(err)
	}
	again, err := netlink.LinkByName("a0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(again); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		g.Leave(index, addr6(i))
		join(again.Attrs().Index, addr6(i))
	}
	has("made anew", many)
	g.Close()
	eventually(t, 5*sec, "none is left", func() bool { return len(joined(t)) == 0 })
}
