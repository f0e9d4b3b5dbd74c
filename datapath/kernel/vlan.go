package kernel

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kindXDPCarrier is XDP on a device for the VLAN devices on it alone: it is no outside
// device itself, or not yet.
const kindXDPCarrier = "xdp-carrier"

// carrier is the device whose driver has a VLAN device's frames first, and what they
// come in by there.
type carrier struct {
	dev netlink.Link
	key bpfVlanKey
}

// carrierOf finds a VLAN device's carrier. bar says why XDP cannot be there for it; "" when
// it can. What goes to other nodes leaves by the carrier, too, with a tag (next_hop, and
// device.carrier for those that the FIB finds), since no VLAN device takes frames from a
// driver's XDP.
func carrierOf(vlan *netlink.Vlan) (c carrier, bar string, err error) {
	a := vlan.Attrs()
	if a.NetNsID >= 0 {
		return c, "the device it is on is in another network namespace", nil
	}
	if c.dev, err = netlink.LinkByIndex(a.ParentIndex); err != nil {
		return c, "", fmt.Errorf("find the device that it is on: %w", err)
	}
	on := c.dev.Attrs()
	c.key = bpfVlanKey{Device: uint32(on.Index), Outer: uint16(vlan.VlanId)}
	switch kind := c.dev.Type(); {
	case vlan.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q:
		return c, "its tags are not of 802.1Q", nil
	case on.MasterIndex != 0:
		return c, fmt.Sprintf("%s, which it is on, is part of another device", on.Name), nil
	case kind != "device" && kind != "veth":
		return c, fmt.Sprintf("%s, which it is on, is a %s", on.Name, kind), nil
	}
	takes, err := takesTags(on.Name)
	if err != nil {
		return c, "", err
	}
	if takes {
		bar = fmt.Sprintf("%s takes the tags off before XDP can see them: ethtool -K %s rxvlan off", on.Name, on.Name)
	}
	return c, bar, nil
}

// takesTags says whether a device takes VLAN tags off its frames (ETHTOOL_GFLAGS).
func takesTags(device string) (bool, error) {
	const getFlags, rxVLAN = 0x25, 1 << 8
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	value := struct{ command, flags uint32 }{command: getFlags}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 && errno != unix.EOPNOTSUPP {
		return false, fmt.Errorf("read offloads of %s: %w", device, errno)
	}
	return value.flags&rxVLAN != 0, nil
}

// carry puts XDP on a VLAN device's carrier, unless it is there, and has it see the
// device's frames. bar says why that cannot be.
func (k *Kernel) carry(vlan *netlink.Vlan) (bar string, err error) {
	c, bar, err := carrierOf(vlan)
	if bar != "" || err != nil {
		return bar, err
	}
	a := c.dev.Attrs()
	switch {
	case k.alive(pinName(kindXDPCarrier, a.Index)):
	case k.alive(pinName(kindXDP, a.Index)):
		mode, err := xdpMode(a.Name)
		if err != nil {
			return "", err
		}
		if mode != ModeNative {
			return fmt.Sprintf("%s, which it is on, has XDP %s", a.Name, mode), nil
		}
	default:
		l, err := link.AttachXDP(link.XDPOptions{Program: k.programs[programs[kindXDP].name], Interface: a.Index, Flags: link.XDPDriverMode})
		if err != nil {
			return fmt.Sprintf("%s, which it is on: %v", a.Name, err), nil
		}
		if err := k.keepLink(pinName(kindXDPCarrier, a.Index), l); err != nil {
			return "", err
		}
	}
	if err := k.maps[bpfMapVlans].Put(c.key, uint32(vlan.Attrs().Index)); err != nil {
		return "", fmt.Errorf("write map vlans: %w", err)
	}
	return "", k.setCarrier(uint32(vlan.Attrs().Index), c.key.Device, c.key.Outer)
}

// setCarrier notes in a VLAN device's row what its frames leave by; 0: by itself.
func (k *Kernel) setCarrier(index, carrier uint32, vlan uint16) error {
	at := index % uint32(bpfMaxDevicesMAX_DEVICES)
	var row bpfDevice
	if err := k.maps[bpfMapDevices].Lookup(at, &row); err != nil {
		return fmt.Errorf("read map devices: %w", err)
	}
	if row.Ifindex != index || row.Carrier == carrier && row.Vlan == vlan {
		return nil
	}
	row.Carrier, row.Vlan = carrier, vlan
	if err := k.maps[bpfMapDevices].Put(at, row); err != nil {
		return fmt.Errorf("write map devices: %w", err)
	}
	return nil
}

// vlans are the rows of the map: VLAN devices by what their frames come in by.
func (k *Kernel) vlans() (map[bpfVlanKey]uint32, error) {
	rows := map[bpfVlanKey]uint32{}
	var key bpfVlanKey
	var index uint32
	it := k.maps[bpfMapVlans].Iterate()
	for it.Next(&key, &index) {
		rows[key] = index
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read map vlans: %w", err)
	}
	return rows, nil
}

// carriedBy returns the number of the carrier whose XDP sees a VLAN device's frames; 0: none does.
func (k *Kernel) carriedBy(index int) (int, error) {
	rows, err := k.vlans()
	if err != nil {
		return 0, err
	}
	for key, vlan := range rows {
		if int(vlan) == index && k.carries(key.Device) {
			return int(key.Device), nil
		}
	}
	return 0, nil
}

// carries says whether XDP is on a device.
func (k *Kernel) carries(index uint32) bool {
	return k.alive(pinName(kindXDPCarrier, int(index))) || k.alive(pinName(kindXDP, int(index)))
}

// uncarry has XDP no longer see the frames of the VLAN devices that gone says, and takes it
// off carriers that have none left.
func (k *Kernel) uncarry(gone func(key bpfVlanKey, index int) bool) error {
	rows, err := k.vlans()
	if err != nil {
		return err
	}
	var errs []error
	carriers := map[uint32]bool{}
	for key, index := range rows {
		if !gone(key, int(index)) {
			carriers[key.Device] = true
			continue
		}
		if err := k.maps[bpfMapVlans].Delete(key); err != nil {
			errs = append(errs, fmt.Errorf("write map vlans: %w", err))
		}
		errs = append(errs, k.setCarrier(index, 0, 0))
	}
	for name := range k.links {
		if kind, index := parsePinName(name); kind == kindXDPCarrier && !carriers[index] {
			errs = append(errs, k.dropLink(name))
		}
	}
	return errors.Join(errs...)
}

// uncarryDevice is uncarry of one VLAN device.
func (k *Kernel) uncarryDevice(index int) error {
	return k.uncarry(func(_ bpfVlanKey, of int) bool { return of == index })
}

// release ends XDP's being on a device for itself; it stays for the VLAN devices on it.
func (k *Kernel) release(index int) error {
	rows, err := k.vlans()
	if err != nil {
		return err
	}
	for key := range rows {
		if int(key.Device) == index && k.alive(pinName(kindXDP, index)) {
			return k.renameLink(pinName(kindXDP, index), pinName(kindXDPCarrier, index))
		}
	}
	return k.dropLink(pinName(kindXDP, index))
}
