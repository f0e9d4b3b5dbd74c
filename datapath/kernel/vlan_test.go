package kernel

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// On a VLAN device XDP runs in the stack, on frames without their tags, where the device it
// is on takes these off; and else in that one's driver.
func TestVLANDevice(t *testing.T) {
	newHost(t)
	needsDevice(t, &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "v", ParentIndex: parentIndex}, VlanId: 100})
	for name, inFrame := range map[string]bool{"tags taken off": false, "tags in the frame": true} {
		t.Run(name, func(t *testing.T) {
			newHost(t)
			s := newSegment(t)
			user := s.join("192.168.10.200/24")
			one := s.joinNode("192.168.10.100/24", "172.20.0.5")
			two := s.joinNode("192.168.10.101/24", "172.20.1.7")
			defer explain(t, one, two)
			if inFrame {
				s.do(func() {
					for port := range s.count {
						tagsInFrame(t, fmt.Sprintf("port%d", port+1))
					}
				})
			}
			addVLAN := func(m *machine) {
				m.do(func() {
					if inFrame {
						tagsInFrame(t, "eth1")
					}
					m.must(netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth1.100", ParentIndex: m.dev("eth1").Attrs().Index}, VlanId: 100}))
				})
			}
			addVLAN(&user)
			user.move("eth1.100")
			want := Attachment{Device: "eth1.100", XDP: "generic", TC: tcOf(one.Kernel), Why: "not native: eth1 takes the tags off before XDP can see them: ethtool -K eth1 rxvlan off"}
			if inFrame {
				want.XDP, want.Carrier, want.Why = "native", "eth1", ""
			}
			for _, n := range []*lbNode{one, two} {
				addVLAN(&n.machine)
				if at := n.moveTo("eth1.100"); at != want {
					t.Errorf("Attach = %+v, want %+v", at, want)
				}
			}
			one.balance(two)
			two.balance(one)
			if inFrame { // as next hops are given, and no VLAN device takes frames from a driver's XDP
				for _, n := range []*lbNode{one, two} {
					var hop bpfNextHop
					n.machine.must(n.maps["next_hops"].Lookup(uint32(1), &hop))
					n.machine.do(func() { hop.Ifindex, hop.Vlan = uint32(n.machine.dev("eth1").Attrs().Index), 100 })
					n.put("next_hops", uint32(1), hop)
				}
			}
			one.announceVIP()
			open := user.visit("172.20.0.5", "172.20.1.7")
			if inFrame {
				one.changesOfCarrier(want)
				goOn(t, open, "after them")
			}
		})
	}
}

// changesOfCarrier restarts the node, which has XDP on eth1 for eth1.100 alone, and then has
// eth1 come and go as an outside device of its own.
func (n *lbNode) changesOfCarrier(want Attachment) {
	t := n.t
	t.Helper()
	n.machine.must(n.Close())
	n.machine.do(func() {
		n.Kernel = openWith(t, n.cfg)
		expect := func(step string, want ...Attachment) {
			t.Helper()
			if got := n.Attached(); !slices.Equal(got, want) {
				t.Errorf("%s: Attached = %+v, want %+v", step, got, want)
			}
		}
		eth1 := Attachment{Device: "eth1", XDP: "native", TC: want.TC}
		restarted := want
		expect("after a restart", restarted)
		_, err := n.Attach("eth1")
		n.machine.must(err)
		expect("eth1 comes", eth1, restarted)
		n.machine.must(n.Detach("eth1"))
		expect("eth1 goes", restarted)
		n.machine.must(n.Detach("eth1.100"))
		expect("both have gone")
		if rows, err := n.vlans(); err != nil || len(rows) != 0 {
			t.Errorf("vlans = %v, %v", rows, err)
		}
		if left := pins(t, linkDir(n.bpffs)); slices.ContainsFunc(left, func(name string) bool { return strings.HasPrefix(name, kindXDP) }) {
			t.Errorf("links left: %v", left)
		}
		_, err = n.Attach("eth1")
		n.machine.must(err)
		_, err = n.Attach("eth1.100")
		n.machine.must(err)
		expect("eth1 first", eth1, want)
		n.machine.must(n.Detach("eth1.100"))
		expect("eth1 alone", eth1)
		_, err = n.Attach("eth1.100")
		n.machine.must(err)
	})
}

// tagsInFrame has a device leave VLAN tags where they are on the wire (ETHTOOL_SFLAGS).
func tagsInFrame(t testing.TB, device string) {
	t.Helper()
	flags := ethtoolFlags(t, device, 0x25, 0)
	ethtoolFlags(t, device, 0x26, flags&^(1<<7|1<<8))
	if takes, err := takesTags(device); takes || err != nil {
		t.Fatalf("%s takes tags off still: %v", device, err)
	}
}

func ethtoolFlags(t testing.TB, device string, command, flags uint32) uint32 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	value := struct{ command, flags uint32 }{command, flags}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("offloads of %s: %v", device, errno)
	}
	return value.flags
}
