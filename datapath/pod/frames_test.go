package pod_test

import (
	"encoding/binary"
	"net"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// XDP may send frames into a pod that was wired.
func TestPodTakesFrames(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	a := newNetns(t)
	n.add("a", a)
	row, _ := n.db.Endpoints.Get(n.db.Snapshot(), "a/eth0")
	const transmits, ofBuffers = 1 << 2, 1 << 6 // NETDEV_XDP_ACT_NDO_XMIT and _SG of <linux/netdev.h>
	features, known := xdpFeatures(t, row.HostDevice)
	if !known {
		t.Skip("the kernel does not say what devices take")
	}
	if features&transmits == 0 || features&ofBuffers == 0 {
		t.Errorf("%s has XDP features %#x: it takes no frames", row.HostDevice, features)
	}
	channels := [9]uint32{unix.ETHTOOL_GCHANNELS} // then the most and the numbers there are of RX, TX, other, both
	ethtool(t, a, &channels)
	if want := min(channels[1], 8); channels[5] != want {
		t.Errorf("the pod's end has %d queues, want %d", channels[5], want)
	}
	run(t, "", "ping -c1 -W2 172.20.1.1")
	// What takes no frames works all the same.
	ethtool(t, a, &[9]uint32{unix.ETHTOOL_SGRO, 0})
	if features, _ := xdpFeatures(t, row.HostDevice); features&transmits != 0 {
		t.Errorf("%s has XDP features %#x without GRO", row.HostDevice, features)
	}
	n.must("check", "a", a)
	run(t, "", "ping -c1 -W2 172.20.1.1")
}

// ethtool is one command about eth0 of a pod.
func ethtool(t *testing.T, path string, command *[9]uint32) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	sock, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{name: [unix.IFNAMSIZ]byte{'e', 't', 'h', '0'}, data: unsafe.Pointer(command)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock.GetFd()), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatalf("ethtool: %v", errno)
	}
}

// xdpFeatures asks the kernel what of XDP a device has.
func xdpFeatures(t *testing.T, device string) (features uint64, known bool) {
	t.Helper()
	dev, err := net.InterfaceByName(device)
	if err != nil {
		t.Fatal(err)
	}
	family, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return 0, false
	}
	const devGet, attrIfindex, attrFeatures = 1, 1, 3
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddRawData([]byte{devGet, 1, 0, 0}) // a struct genlmsghdr
	request.AddRawData(nl.NewRtAttr(attrIfindex, nl.Uint32Attr(uint32(dev.Index))).Serialize())
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(answers) == 0 {
		t.Fatalf("what XDP %s has: %v", device, err)
	}
	attrs, err := nl.ParseRouteAttr(answers[0][nl.SizeofGenlmsg:])
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attrs {
		if a.Attr.Type == attrFeatures {
			return binary.NativeEndian.Uint64(a.Value), true
		}
	}
	return 0, false
}
