package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// XDP in a driver sends a frame for a pod of this node into the pod itself
// (bpf/deliver.h), if the host's end of the pod's veth takes frames so: it does while the
// pod's end has GRO, or XDP of its own. In the stack, where XDP comes too late to gain
// anything, the frame is left to tc.

// noteDriver notes in a device's row whether XDP is in its driver, and can redirect frames there.
func (k *Kernel) noteDriver(dev netlink.Link, on bool) error {
	a := dev.Attrs()
	native := false
	if on && k.alive(pinName(kindXDP, a.Index)) {
		mode, err := xdpMode(a.Name)
		if err != nil {
			return fmt.Errorf("XDP: %w", err)
		}
		features, known, err := xdpFeatures(a.Index)
		if err != nil {
			return fmt.Errorf("read what XDP %s has: %w", a.Name, err)
		}
		whole, err := wholeChecksums(dev)
		if err != nil {
			return err
		}
		const redirects = 1 << 1 // NETDEV_XDP_ACT_REDIRECT of <linux/netdev.h>
		native = mode == ModeNative && known && features&redirects != 0 && whole
	}
	return k.setNative(uint32(a.Index), native)
}

// wholeChecksums says whether the checksums of a device's frames are finished: a veth's other
// end leaves them to a card that never comes, unless its offload (ethtool -K … tx) is off. The
// kernel tells of this end alone, which is taken to be as the other.
func wholeChecksums(dev netlink.Link) (bool, error) {
	if dev.Type() != "veth" {
		return true, nil
	}
	offload, err := ethtool(dev.Attrs().Name, unix.ETHTOOL_GTXCSUM)
	return offload == 0, err
}

func (k *Kernel) setNative(index uint32, native bool) error {
	at := index % uint32(bpfMaxDevicesMAX_DEVICES)
	var row bpfDevice
	if err := k.maps[bpfMapDevices].Lookup(at, &row); err != nil {
		return fmt.Errorf("read map devices: %w", err)
	}
	flags := row.Flags &^ uint16(bpfDeviceFlagsDEVICE_NATIVE)
	if native {
		flags |= uint16(bpfDeviceFlagsDEVICE_NATIVE)
	}
	if row.Ifindex != index || row.Flags == flags {
		return nil
	}
	row.Flags = flags
	if err := k.maps[bpfMapDevices].Put(at, row); err != nil {
		return fmt.Errorf("write map devices: %w", err)
	}
	return nil
}

// PodMTU returns the longest IP packet that XDP in a driver may send by the host's end
// of a pod's veth; 0: none. Kernels before 6.3 do not say whether it may.
func (k *Kernel) PodMTU(ifindex int) (uint16, error) {
	dev, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return 0, fmt.Errorf("find device %d: %w", ifindex, err)
	}
	features, known, err := xdpFeatures(ifindex)
	if err != nil {
		return 0, fmt.Errorf("read what XDP %s has: %w", dev.Attrs().Name, err)
	}
	const transmits, ofBuffers = 1 << 2, 1 << 6 // NETDEV_XDP_ACT_NDO_XMIT and _SG of <linux/netdev.h>
	if !known || features&transmits == 0 || features&ofBuffers == 0 {
		return 0, nil
	}
	return uint16(min(dev.Attrs().MTU, math.MaxUint16)), nil
}

// WatchXDPFeatures calls changed after every change of what XDP devices have, until ctx
// ends. Kernels before 6.3 tell of none.
func (k *Kernel) WatchXDPFeatures(ctx context.Context, changed func()) error {
	family, err := netlink.GenlFamilyGet("netdev")
	if errors.Is(err, fs.ErrNotExist) {
		<-ctx.Done()
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch what XDP devices have: %w", err)
	}
	sock, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return fmt.Errorf("watch what XDP devices have: %w", err)
	}
	defer sock.Close()
	for _, group := range family.Groups {
		if group.Name != "mgmt" {
			continue
		}
		if err := unix.SetsockoptInt(sock.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group.ID)); err != nil {
			return fmt.Errorf("watch what XDP devices have: %w", err)
		}
	}
	defer context.AfterFunc(ctx, sock.Close)()
	for {
		changed() // also before the first: it was not watched then
		if _, _, err := sock.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch what XDP devices have: %w", err)
		}
	}
}
