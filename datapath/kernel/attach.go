package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attachment is how the programs sit on an outside device.
type Attachment struct {
	Device string
	// XDP is "native" or "generic".
	XDP string
	// TC is "tcx", or "clsact" on kernels before 6.6.
	TC string
}

// The kinds of links; a pin is named kind_ifindex.
const (
	kindXDP       = "xdp"
	kindTCOutside = "tc-outside"
	kindTCPod     = "tc-pod"
	kindTCToPod   = "tc-to-pod"
)

func pinName(kind string, ifindex int) string { return fmt.Sprintf("%s_%d", kind, ifindex) }

func parsePinName(name string) (kind string, ifindex uint32) {
	kind, number, _ := strings.Cut(name, "_")
	n, _ := strconv.ParseUint(number, 10, 32)
	return kind, uint32(n)
}

func (k *Kernel) program(kind string) *ebpf.Program {
	switch kind {
	case kindXDP:
		return k.objects.SeamarkXdp
	case kindTCOutside:
		return k.objects.SeamarkTcOutside
	case kindTCPod:
		return k.objects.SeamarkTcPod
	case kindTCToPod:
		return k.objects.SeamarkTcToPod
	}
	return nil
}

// Attach puts the programs on an outside device, XDP in the driver if that can
// and else in the stack. Called again, it notes a new MAC or MTU of the device.
func (k *Kernel) Attach(device string) (Attachment, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach to %s: %w", device, err)
	}
	at := Attachment{Device: device}
	if err := k.putDevice(dev.Attrs()); err != nil {
		return at, fmt.Errorf("attach to %s: %w", device, err)
	}
	if err := k.attachXDP(dev.Attrs().Index); err != nil {
		return at, fmt.Errorf("attach XDP to %s: %w", device, err)
	}
	if at.TC, err = k.attachTC(kindTCOutside, dev); err != nil {
		return at, fmt.Errorf("attach tc to %s: %w", device, err)
	}
	if at.XDP, err = xdpMode(device); err != nil {
		return at, fmt.Errorf("attach XDP to %s: %w", device, err)
	}
	return at, nil
}

// Detach takes the programs off an outside device, which may be gone.
func (k *Kernel) Detach(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return k.sweepLinks()
	}
	if err != nil {
		return fmt.Errorf("detach from %s: %w", device, err)
	}
	index := dev.Attrs().Index
	err = errors.Join(k.dropLink(pinName(kindXDP, index)), k.detachTC(kindTCOutside, dev))
	if err != nil {
		return fmt.Errorf("detach from %s: %w", device, err)
	}
	return nil
}

// AttachPod puts the program on the host's end of a pod's veth.
func (k *Kernel) AttachPod(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	if err == nil {
		_, err = k.attachTC(kindTCPod, dev)
	}
	if err == nil {
		_, err = k.attachTC(kindTCToPod, dev)
	}
	if err != nil {
		return fmt.Errorf("attach to pod device %s: %w", device, err)
	}
	return nil
}

// DetachPod takes the program off a pod's veth, which may be gone.
func (k *Kernel) DetachPod(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return k.sweepLinks()
	}
	if err == nil {
		err = k.detachTC(kindTCPod, dev)
	}
	if err != nil {
		return fmt.Errorf("detach from pod device %s: %w", device, err)
	}
	return nil
}

// Attached returns the outside devices that the programs are on, by name.
func (k *Kernel) Attached() []Attachment {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []Attachment
	for name, l := range k.links {
		kind, ifindex := parsePinName(name)
		if kind != kindXDP || dead(l) {
			continue
		}
		dev, err := netlink.LinkByIndex(int(ifindex))
		if err != nil {
			continue // it went in this moment
		}
		at := Attachment{Device: dev.Attrs().Name, TC: "clsact"}
		if k.tcx {
			at.TC = "tcx"
		}
		if at.XDP, err = xdpMode(at.Device); err == nil {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(a, b Attachment) int { return cmp.Compare(a.Device, b.Device) })
	return all
}

func (k *Kernel) putDevice(a *netlink.LinkAttrs) error {
	row := bpfDevice{Ifindex: uint32(a.Index), Mtu: uint16(min(a.MTU, 65535))}
	if len(a.HardwareAddr) != len(row.Mac) {
		return fmt.Errorf("its address %q is not an Ethernet one", a.HardwareAddr)
	}
	copy(row.Mac[:], a.HardwareAddr)
	at := row.Ifindex % uint32(bpfMaxDevicesMAX_DEVICES)
	var there bpfDevice
	if err := k.maps[bpfMapDevices].Lookup(at, &there); err != nil {
		return fmt.Errorf("read map devices: %w", err)
	}
	if there.Ifindex != 0 && there.Ifindex != row.Ifindex && k.alive(pinName(kindXDP, int(there.Ifindex))) {
		return fmt.Errorf("device number %d has the place of number %d, a multiple of %d away: make one of them anew", there.Ifindex, row.Ifindex, bpfMaxDevicesMAX_DEVICES)
	}
	if err := k.maps[bpfMapDevices].Put(at, row); err != nil {
		return fmt.Errorf("write map devices: %w", err)
	}
	return nil
}

func (k *Kernel) forgetDevice(ifindex uint32) error {
	at := ifindex % uint32(bpfMaxDevicesMAX_DEVICES)
	var there bpfDevice
	err := k.maps[bpfMapDevices].Lookup(at, &there)
	if err == nil && there.Ifindex == ifindex {
		err = k.maps[bpfMapDevices].Put(at, bpfDevice{})
	}
	if err != nil {
		return fmt.Errorf("write map devices: %w", err)
	}
	return nil
}

func (k *Kernel) attachXDP(ifindex int) error {
	name := pinName(kindXDP, ifindex)
	if k.alive(name) {
		return nil
	}
	opts := link.XDPOptions{Program: k.program(kindXDP), Interface: ifindex, Flags: link.XDPDriverMode}
	l, native := link.AttachXDP(opts)
	if native != nil {
		opts.Flags = link.XDPGenericMode
		var err error
		if l, err = link.AttachXDP(opts); err != nil {
			if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("another program has the device: %w", native)
			}
			return errors.Join(native, err)
		}
		k.cfg.Log.Warn("driver takes no XDP, using generic", "ifindex", ifindex, "err", native)
	}
	return k.keepLink(name, l)
}

// xdpMode asks the kernel, which knows it also for links of an earlier daemon.
func xdpMode(device string) (string, error) {
	dev, err := netlink.LinkByName(device)
	if err != nil {
		return "", err
	}
	xdp := dev.Attrs().Xdp
	switch {
	case xdp == nil || !xdp.Attached:
		return "", errors.New("the kernel says that none is")
	case xdp.AttachMode == nl.XDP_ATTACHED_SKB:
		return "generic", nil
	}
	return "native", nil
}

func direction(kind string) ebpf.AttachType {
	if kind == kindTCToPod {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

func (k *Kernel) attachTC(kind string, dev netlink.Link) (string, error) {
	if !k.tcx {
		return "clsact", attachFilter(dev, kind, k.program(kind))
	}
	name := pinName(kind, dev.Attrs().Index)
	if k.alive(name) {
		return "tcx", nil
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: dev.Attrs().Index, Program: k.program(kind), Attach: direction(kind), Anchor: link.Head(),
	})
	if err != nil {
		return "", err
	}
	return "tcx", k.keepLink(name, l)
}

func (k *Kernel) detachTC(kind string, dev netlink.Link) error {
	if !k.tcx {
		return removeFilter(dev, kind)
	}
	return k.dropLink(pinName(kind, dev.Attrs().Index))
}

// alive says whether we have the link and its device is there. Of a device that
// went and came back with the same number, only a dead link is left: drop it.
func (k *Kernel) alive(name string) bool {
	l, ok := k.links[name]
	if !ok {
		return false
	}
	if dead(l) {
		if err := k.dropLink(name); err != nil {
			k.cfg.Log.Warn("remove link of a device that is gone", "link", name, "err", err)
		}
		return false
	}
	return true
}

// dead says whether the link's device is gone.
func dead(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	if xdp := info.XDP(); xdp != nil {
		return xdp.Ifindex == 0
	}
	if tcx := info.TCX(); tcx != nil {
		return tcx.Ifindex == 0
	}
	return false
}

func (k *Kernel) keepLink(name string, l link.Link) error {
	if err := l.Pin(filepath.Join(linkDir(k.cfg.BPFFS), name)); err != nil {
		l.Close()
		return fmt.Errorf("pin link: %w", err)
	}
	k.links[name] = l
	return nil
}

func (k *Kernel) dropLink(name string) error {
	l, ok := k.links[name]
	if !ok {
		return nil
	}
	delete(k.links, name)
	err := errors.Join(l.Unpin(), l.Close())
	if kind, ifindex := parsePinName(name); kind == kindXDP {
		err = errors.Join(err, k.forgetDevice(ifindex))
	}
	if err != nil {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// sweepLinks drops the links of devices that are gone.
func (k *Kernel) sweepLinks() error {
	var errs []error
	for name, l := range k.links {
		if dead(l) {
			errs = append(errs, k.dropLink(name))
		}
	}
	return errors.Join(errs...)
}

// replacePrograms puts this Kernel's programs in the place of those an earlier
// daemon left: no packet meets a device without.
func (k *Kernel) replacePrograms() error {
	pins, err := os.ReadDir(linkDir(k.cfg.BPFFS))
	if err != nil {
		return fmt.Errorf("read pinned links: %w", err)
	}
	for _, pin := range pins {
		path := filepath.Join(linkDir(k.cfg.BPFFS), pin.Name())
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return fmt.Errorf("open pinned link %s: %w", path, err)
		}
		k.links[pin.Name()] = l
		kind, _ := parsePinName(pin.Name())
		program := k.program(kind)
		if program == nil || dead(l) {
			if err := k.dropLink(pin.Name()); err != nil {
				return err
			}
			continue
		}
		if err := l.Update(program); err != nil {
			return fmt.Errorf("replace program of %s: %w", path, err)
		}
	}
	if k.tcx {
		return nil
	}
	return eachFilter(func(dev netlink.Link, f *netlink.BpfFilter) error {
		return attachFilter(dev, kindOfFilter(f), k.program(kindOfFilter(f)))
	})
}

// haveTCX returns why the kernel has no tcx, or nil.
func haveTCX() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	_, err = link.QueryPrograms(link.QueryOptions{Target: lo.Index, Attach: ebpf.AttachTCXIngress})
	return err
}
