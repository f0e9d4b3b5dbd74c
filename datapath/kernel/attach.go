package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
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
	// XDP is "native" or "generic", or "" where tc alone does the work.
	XDP string
	// TC is "tcx", or "clsact" on kernels before 6.6.
	TC string
	// Why XDP is not there, or not in the driver; "" when it is.
	Why string
	// Carrier is the device that a VLAN device's XDP is on; "" where it is its own.
	Carrier string
	// Members are the devices of a bond, or the ports of a bridge: "eth0, eth1".
	Members string
}

// asConfigured is the Why of a device whose Mode says so.
const asConfigured = "as configured"

// String says it for people: "XDP native, tcx".
func (a Attachment) String() string {
	text := a.TC + " alone"
	if a.XDP != "" {
		on := ""
		if a.Carrier != "" {
			on = " on " + a.Carrier
		}
		text = "XDP " + a.XDP + on + ", " + a.TC
	}
	if a.Why != "" {
		text += " (" + a.Why + ")"
	}
	if a.Members != "" {
		text += ", members " + a.Members
	}
	return text
}

// The kinds of links; a pin is named kind_ifindex.
const (
	kindXDP       = "xdp"
	kindTCOutside = "tc-outside"
	kindTCBalance = "tc-balance" // in its place where there is no XDP
	kindTCPod     = "tc-pod"
	kindTCToPod   = "tc-to-pod"
)

// programs of the kinds, and where they are attached.
var programs = map[string]struct {
	name string
	at   ebpf.AttachType
}{
	kindXDP:        {"seamark_xdp", ebpf.AttachXDP},
	kindXDPCarrier: {"seamark_xdp", ebpf.AttachXDP},
	kindTCOutside:  {"seamark_tc_outside", ebpf.AttachTCXIngress},
	kindTCBalance:  {"seamark_tc_balance", ebpf.AttachTCXIngress},
	kindTCPod:      {"seamark_tc_pod", ebpf.AttachTCXIngress},
	kindTCToPod:    {"seamark_tc_to_pod", ebpf.AttachTCXEgress},
}

func pinName(kind string, ifindex int) string { return fmt.Sprintf("%s_%d", kind, ifindex) }

func parsePinName(name string) (kind string, ifindex uint32) {
	kind, number, _ := strings.Cut(name, "_")
	n, _ := strconv.ParseUint(number, 10, 32)
	return kind, uint32(n)
}

// program returns the program of a kind; nil when there is no such kind.
func (k *Kernel) program(kind string) (*ebpf.Program, error) {
	name := programs[kind].name
	if k.programs[name] == nil && k.waiting.Programs[name] != nil {
		if err := k.loadAll(k.waiting); err != nil {
			return nil, err
		}
	}
	return k.programs[name], nil
}

// Attach puts the programs on an outside device, as the Modes say. Called
// again, it notes a new MAC or MTU of the device.
func (k *Kernel) Attach(device string) (Attachment, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	if err != nil {
		return Attachment{}, fmt.Errorf("attach to %s: %w", device, err)
	}
	if err := k.attach(dev); err != nil {
		return Attachment{Device: device}, fmt.Errorf("attach to %s: %w", device, err)
	}
	at, err := k.attached(dev)
	if err != nil {
		return at, fmt.Errorf("attach to %s: %w", device, err)
	}
	return at, nil
}

func (k *Kernel) attach(dev netlink.Link) error {
	var master netlink.Link
	if index := dev.Attrs().MasterIndex; index != 0 {
		var err error
		if master, err = netlink.LinkByIndex(index); err != nil {
			return fmt.Errorf("find the device it is part of: %w", err)
		}
	}
	if why := unfit(dev, master); why != "" {
		return errors.New(why)
	}
	if err := k.putDevice(dev.Attrs()); err != nil {
		return err
	}
	on, err := k.attachXDP(dev, k.cfg.Modes.of(dev.Attrs().Name))
	if err != nil {
		return fmt.Errorf("XDP: %w", err)
	}
	// What is new comes before what it replaces goes: no packet meets a device without.
	wanted, other := kindTCOutside, kindTCBalance
	if !on {
		wanted, other = other, wanted
	}
	if err := k.attachTC(wanted, dev); err != nil {
		return fmt.Errorf("tc: %w", err)
	}
	if k.tcx { // a filter has been replaced
		err = k.dropLink(pinName(other, dev.Attrs().Index))
	}
	if !on {
		err = errors.Join(err, k.release(dev.Attrs().Index), k.uncarryDevice(dev.Attrs().Index))
	}
	return err
}

// attached says how the programs sit on a device.
func (k *Kernel) attached(dev netlink.Link) (Attachment, error) {
	a := dev.Attrs()
	at := Attachment{Device: a.Name, TC: "clsact", Why: k.why[a.Index]}
	if k.tcx {
		at.TC = "tcx"
	}
	if k.alive(pinName(kindXDP, a.Index)) {
		mode, err := xdpMode(a.Name)
		if err != nil {
			return at, err
		}
		at.XDP = string(mode)
	} else if index, err := k.carriedBy(a.Index); err != nil {
		return at, err
	} else if index != 0 {
		carrier, err := netlink.LinkByIndex(index)
		if err != nil {
			return at, err
		}
		at.Carrier = carrier.Attrs().Name
		mode, err := xdpMode(at.Carrier)
		if err != nil {
			return at, err
		}
		at.XDP = string(mode)
	}
	if at.Why == "" && at.XDP != string(ModeNative) {
		at.Why = "as an earlier daemon found it"
	}
	if kind := dev.Type(); kind != "bond" && kind != "bridge" {
		return at, nil
	}
	devices, err := allDevices()
	if err != nil {
		return at, err
	}
	var members []string
	for _, member := range devices {
		if member.Attrs().MasterIndex == a.Index {
			members = append(members, member.Attrs().Name)
		}
	}
	slices.Sort(members)
	at.Members = strings.Join(members, ", ")
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
	err = errors.Join(k.release(index), k.uncarryDevice(index), k.detachTC(kindTCOutside, dev), k.detachTC(kindTCBalance, dev),
		k.forgetDevice(uint32(index)))
	if err != nil {
		return fmt.Errorf("detach from %s: %w", device, err)
	}
	return nil
}

// podKinds are on the host's end of a pod's veth: what the pod sends, and what it gets.
var podKinds = []string{kindTCPod, kindTCToPod}

// AttachPod puts the programs on the host's end of a pod's veth.
func (k *Kernel) AttachPod(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	for _, kind := range podKinds {
		if err == nil {
			err = k.attachTC(kind, dev)
		}
	}
	if err != nil {
		return fmt.Errorf("attach to pod device %s: %w", device, err)
	}
	return nil
}

// DetachPod takes the programs off a pod's veth, which may be gone.
func (k *Kernel) DetachPod(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dev, err := netlink.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return k.sweepLinks()
	}
	for _, kind := range podKinds {
		if err == nil {
			err = k.detachTC(kind, dev)
		}
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
	devices, err := allDevices()
	if err != nil {
		k.cfg.Log.Warn("look for programs", "err", err)
		return nil
	}
	var all []Attachment
	for _, dev := range devices {
		if !k.outside(dev) {
			continue
		}
		if at, err := k.attached(dev); err == nil { // else it went in this moment
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(a, b Attachment) int { return cmp.Compare(a.Device, b.Device) })
	return all
}

// allDevices lists the devices of this namespace, again when they changed meanwhile.
func allDevices() ([]netlink.Link, error) {
	const tries = 10
	for i := 1; ; i++ {
		devices, err := netlink.LinkList()
		if i < tries && errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		return devices, nil
	}
}

// outside says whether programs of an outside device are on this one.
func (k *Kernel) outside(dev netlink.Link) bool {
	kinds := []string{kindXDP, kindTCOutside, kindTCBalance}
	if !k.tcx && slices.Contains(kinds, filterKind(dev, ebpf.AttachTCXIngress)) {
		return true
	}
	return slices.ContainsFunc(kinds, func(kind string) bool { return k.alive(pinName(kind, dev.Attrs().Index)) })
}

func (k *Kernel) putDevice(a *netlink.LinkAttrs) error {
	row := bpfDevice{Ifindex: uint32(a.Index), Mtu: uint16(min(a.MTU, 65535))}
	copy(row.Mac[:], a.HardwareAddr)
	at := row.Ifindex % uint32(bpfMaxDevicesMAX_DEVICES)
	var there bpfDevice
	if err := k.maps[bpfMapDevices].Lookup(at, &there); err != nil {
		return fmt.Errorf("read map devices: %w", err)
	}
	if there.Ifindex != 0 && there.Ifindex != row.Ifindex && k.inUse(int(there.Ifindex)) {
		return fmt.Errorf("device number %d has the place of number %d, a multiple of %d away: make one of them anew", there.Ifindex, row.Ifindex, bpfMaxDevicesMAX_DEVICES)
	}
	if there.Ifindex == row.Ifindex {
		row.Carrier, row.Vlan = there.Carrier, there.Vlan
	}
	if err := k.maps[bpfMapDevices].Put(at, row); err != nil {
		return fmt.Errorf("write map devices: %w", err)
	}
	return nil
}

// inUse says whether there is an outside device of that number.
func (k *Kernel) inUse(ifindex int) bool {
	dev, err := netlink.LinkByIndex(ifindex)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false
	}
	return err != nil || k.outside(dev)
}

func (k *Kernel) forgetDevice(ifindex uint32) error {
	delete(k.why, int(ifindex))
	delete(k.kept, int(ifindex))
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

// attachXDP puts XDP on a device, in the best way that the mode allows; on is
// false when that is none, and the work is for tc.
func (k *Kernel) attachXDP(dev netlink.Link, mode Mode) (on bool, err error) {
	a := dev.Attrs()
	name := pinName(kindXDP, a.Index)
	if forVLANs := pinName(kindXDPCarrier, a.Index); k.alive(forVLANs) && mode != ModeTC {
		if err := k.renameLink(forVLANs, name); err != nil {
			return false, err
		}
	}
	deaf := ""
	if mode == ModeAuto || mode == ModeNative {
		if deaf, err = k.deafWay(dev); err != nil {
			return false, err
		}
		if deaf != "" && mode == ModeNative {
			return false, fmt.Errorf("not native: %s", deaf)
		}
	}
	if on, err := k.carriedBy(a.Index); err != nil || deaf == "" && on != 0 && (mode == ModeAuto || mode == ModeNative) {
		return true, err
	}
	before := k.kept[a.Index]
	k.kept[a.Index] = deaf != ""
	if k.alive(name) {
		now, err := xdpMode(a.Name)
		if now == mode && mode == ModeGeneric {
			k.why[a.Index] = asConfigured
		}
		if now == ModeGeneric && deaf != "" {
			k.why[a.Index] = fmt.Sprintf("not %s: %s", ModeNative, deaf)
		}
		stays := now == mode || mode == ModeAuto && (deaf == "" && !before || deaf != "" && now == ModeGeneric)
		if err != nil || stays {
			return true, err
		}
		if mode != ModeTC { // which takes over before it goes
			if err := k.dropLink(name); err != nil {
				return false, err
			}
		}
	}
	if mode == ModeTC {
		k.why[a.Index] = asConfigured
		return false, nil
	}
	var not []string
	for _, w := range mode.ways(dev) {
		bar := w.bar
		if bar == "" && w.mode == ModeNative {
			bar = deaf
		}
		vlan, tagged := dev.(*netlink.Vlan)
		if bar == "" && tagged && w.mode == ModeNative {
			if bar, err = k.carry(vlan); err != nil {
				return false, err
			}
			if bar == "" {
				k.why[a.Index] = ""
				return true, nil
			}
		}
		if bar == "" {
			l, err := link.AttachXDP(link.XDPOptions{Program: k.programs[programs[kindXDP].name], Interface: a.Index, Flags: xdpFlags[w.mode]})
			if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
				return false, fmt.Errorf("another program has the device: take it off, or use --datapath-mode=^%s$=tc: %w", regexp.QuoteMeta(a.Name), err)
			}
			if err == nil {
				k.why[a.Index] = strings.Join(not, "; ")
				if mode == ModeGeneric {
					k.why[a.Index] = asConfigured
				}
				return true, errors.Join(k.keepLink(name, l), k.uncarryDevice(a.Index))
			}
			bar = err.Error()
		}
		not = append(not, fmt.Sprintf("not %s: %s", w.mode, bar))
	}
	k.why[a.Index] = strings.Join(not, "; ")
	if mode != ModeAuto {
		return false, errors.New(k.why[a.Index])
	}
	return false, nil
}

var xdpFlags = map[Mode]link.XDPAttachFlags{ModeNative: link.XDPDriverMode, ModeGeneric: link.XDPGenericMode}

// xdpMode asks the kernel, which knows it also for links of an earlier daemon.
func xdpMode(device string) (Mode, error) {
	dev, err := netlink.LinkByName(device)
	if err != nil {
		return "", err
	}
	xdp := dev.Attrs().Xdp
	switch {
	case xdp == nil || !xdp.Attached:
		return "", errors.New("the kernel says that none is")
	case xdp.AttachMode == nl.XDP_ATTACHED_SKB:
		return ModeGeneric, nil
	}
	return ModeNative, nil
}

func (k *Kernel) attachTC(kind string, dev netlink.Link) error {
	program, err := k.program(kind)
	if err != nil {
		return err
	}
	if !k.tcx {
		return attachFilter(dev, kind, program)
	}
	name := pinName(kind, dev.Attrs().Index)
	if k.alive(name) {
		return nil
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: dev.Attrs().Index, Program: program, Attach: programs[kind].at, Anchor: link.Head(),
	})
	if err != nil {
		return err
	}
	return k.keepLink(name, l)
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

// renameLink gives a link and its pin another name.
func (k *Kernel) renameLink(from, to string) error {
	l := k.links[from]
	if err := l.Pin(filepath.Join(linkDir(k.cfg.BPFFS), to)); err != nil {
		return fmt.Errorf("rename link %s: %w", from, err)
	}
	delete(k.links, from)
	k.links[to] = l
	return nil
}

func (k *Kernel) dropLink(name string) error {
	l, ok := k.links[name]
	if !ok {
		return nil
	}
	delete(k.links, name)
	if err := errors.Join(l.Unpin(), l.Close()); err != nil {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// sweepLinks drops the links, and the rows, of devices that are gone.
func (k *Kernel) sweepLinks() error {
	var errs []error
	for name, l := range k.links {
		if dead(l) {
			errs = append(errs, k.dropLink(name))
		}
	}
	var at uint32
	var row bpfDevice
	for rows := k.maps[bpfMapDevices].Iterate(); rows.Next(&at, &row); {
		if row.Ifindex != 0 && !k.inUse(int(row.Ifindex)) {
			errs = append(errs, k.forgetDevice(row.Ifindex))
		}
	}
	errs = append(errs, k.uncarry(func(key bpfVlanKey, index int) bool { return !k.carries(key.Device) || !k.inUse(index) }))
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
		program, err := k.program(kind)
		if err != nil {
			return err
		}
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
	if !k.tcx {
		err := eachFilter(func(dev netlink.Link, f *netlink.BpfFilter) error {
			kind := kindOfFilter(f)
			program, err := k.program(kind)
			if err != nil {
				return err
			}
			if program == nil {
				return removeFilter(dev, kind)
			}
			return attachFilter(dev, kind, program)
		})
		if err != nil {
			return err
		}
	}
	return k.sweepLinks()
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
