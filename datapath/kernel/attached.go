package kernel

import (
	"cmp"
	"slices"

	"github.com/vishvananda/netlink"
)

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
