package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// XDP in a driver can send a frame on by another device only if that one's driver takes
// frames so (ndo_xdp_xmit): a bridge, a bond or a tunnel may not, nor a card without queues
// for it. What it does not take is lost, and nobody counts it. In the stack, generic XDP
// sends by any device.

// LeaveBy says that next hops by a device are about to be written. Where XDP in other
// devices' drivers could not send to it, these have it in the stack from then on.
func (k *Kernel) LeaveBy(ifindex int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.leaving[ifindex] { // and the devices are as they are to be
		return
	}
	k.leaving[ifindex] = true
	devices, err := allDevices()
	if err != nil {
		k.cfg.Log.Warn("look for devices that take no frames from XDP", "err", err)
		return
	}
	for _, dev := range devices {
		if !k.outside(dev) {
			continue
		}
		if err := k.attach(dev); err != nil {
			k.cfg.Log.Warn("attach anew, for what leaves by another device", "device", dev.Attrs().Name, "err", err)
		}
	}
}

// waysOut are the devices that next hops lead out by.
func (k *Kernel) waysOut() (map[int]bool, error) {
	ways := map[int]bool{}
	hops := k.maps[bpfMapNextHops]
	keys, rows := make([]uint32, 1024), make([]bpfNextHop, 1024)
	var cursor ebpf.MapBatchCursor
	for {
		got, err := hops.BatchLookup(&cursor, keys, rows, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read map next_hops: %w", err)
		}
		for _, row := range rows[:got] {
			if row.Ifindex != 0 {
				ways[int(row.Ifindex)] = true
			}
		}
		if err != nil {
			break // that was all
		}
	}
	for way := range k.leaving {
		if ways[way] {
			delete(k.leaving, way) // it is written by now, and may be removed
		}
		ways[way] = true
	}
	return ways, nil
}

// deafWay says why XDP in a device's driver could not send on all that it is to; "" when
// it can.
func (k *Kernel) deafWay(dev netlink.Link) (string, error) {
	ways, err := k.waysOut()
	if err != nil {
		return "", err
	}
	own := dev.Attrs().Index
	if carrier, err := k.carriedBy(own); err != nil {
		return "", err
	} else if carrier != 0 {
		delete(ways, carrier)
	}
	delete(ways, own) // back out, by XDP_TX
	for way := range ways {
		out, err := netlink.LinkByIndex(way)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find device %d: %w", way, err)
		}
		features, known, err := xdpFeatures(way)
		if err != nil {
			return "", fmt.Errorf("read what XDP %s has: %w", out.Attrs().Name, err)
		}
		if xdp := out.Attrs().Xdp; !takesFrames(features, known, out.Type(), xdp != nil && xdp.Attached && xdp.AttachMode != nl.XDP_ATTACHED_SKB) {
			return "packets leave by " + out.Attrs().Name + ", which takes none from XDP in a driver", nil
		}
	}
	return "", nil
}

// takesFrames says whether a device takes frames from XDP in another's driver: as the kernel
// says. Kernels before 6.3 do not; most cards have queues for that when they have a
// program of their own, and of other devices nothing is certain.
func takesFrames(features uint64, known bool, kind string, native bool) bool {
	const transmits = 1 << 2 // NETDEV_XDP_ACT_NDO_XMIT of <linux/netdev.h>
	if known {
		return features&transmits != 0
	}
	return kind == "device" && native
}

// xdpFeatures asks the kernel what of XDP a device has (the generic netlink family netdev,
// since Linux 6.3).
func xdpFeatures(ifindex int) (features uint64, known bool, err error) {
	const devGet, attrIfindex, attrFeatures = 1, 1, 3 // of <linux/netdev.h>
	family, err := netlink.GenlFamilyGet("netdev")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	request := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	request.AddData(genericHeader{devGet, 1})
	request.AddData(nl.NewRtAttr(attrIfindex, nl.Uint32Attr(uint32(ifindex))))
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, false, err
	}
	for _, answer := range answers {
		if len(answer) < nl.SizeofGenlmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(answer[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, false, err
		}
		for _, a := range attrs {
			if a.Attr.Type == attrFeatures && len(a.Value) == 8 {
				return binary.NativeEndian.Uint64(a.Value), true, nil
			}
		}
	}
	return 0, false, nil
}

// genericHeader is a struct genlmsghdr: command, version, and two bytes that are to be 0.
type genericHeader [nl.SizeofGenlmsg]byte

func (h genericHeader) Len() int          { return len(h) }
func (h genericHeader) Serialize() []byte { return h[:] }
