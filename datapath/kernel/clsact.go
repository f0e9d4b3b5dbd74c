package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kernels before 6.6 have no tcx: there the programs are filters of the clsact
// qdisc. A filter needs no pin, the device holds it.

const (
	filterPrefix   = "seamark-"
	filterPriority = 1
	filterHandle   = 0x5ea
)

// parents are the clsact's own, by where tcx has the program.
var parents = map[ebpf.AttachType]uint32{
	ebpf.AttachTCXIngress: netlink.HANDLE_MIN_INGRESS,
	ebpf.AttachTCXEgress:  netlink.HANDLE_MIN_EGRESS,
}

func filterOn(dev netlink.Link, kind string) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: dev.Attrs().Index,
			Parent:    parents[programs[kind].at],
			Handle:    filterHandle,
			Protocol:  unix.ETH_P_ALL,
			Priority:  filterPriority,
		},
		Name:         filterPrefix + kind,
		DirectAction: true,
	}
}

func kindOfFilter(f *netlink.BpfFilter) string { return strings.TrimPrefix(f.Name, filterPrefix) }

// attachFilter puts the program on the device, in place of an earlier one.
func attachFilter(dev netlink.Link, kind string, program *ebpf.Program) error {
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: dev.Attrs().Index,
			Parent:    netlink.HANDLE_CLSACT,
			Handle:    netlink.MakeHandle(0xffff, 0),
		},
		QdiscType: "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	filter := filterOn(dev, kind)
	filter.Fd = program.FD()
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// removeFilter takes the filter off, if it is of that kind; the qdisc may have
// others and stays.
func removeFilter(dev netlink.Link, kind string) error {
	if filterKind(dev, programs[kind].at) != kind {
		return nil
	}
	err := netlink.FilterDel(filterOn(dev, kind))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove filter: %w", err)
	}
	return nil
}

// filterKind is the kind of our filter on a device, at ingress or egress; "" when
// there is none.
func filterKind(dev netlink.Link, at ebpf.AttachType) string {
	filters, err := netlink.FilterList(dev, parents[at])
	if err != nil {
		return "" // no clsact there, or the device is gone
	}
	for _, f := range filters {
		if f, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(f.Name, filterPrefix) {
			return kindOfFilter(f)
		}
	}
	return ""
}

// eachFilter visits the filters that are ours on the devices of this namespace.
func eachFilter(visit func(netlink.Link, *netlink.BpfFilter) error) error {
	devices, err := allDevices()
	if err != nil {
		return err
	}
	var errs []error
	for _, dev := range devices {
		for _, parent := range parents {
			filters, err := netlink.FilterList(dev, parent)
			if err != nil {
				continue // no clsact there, or the device is gone
			}
			for _, f := range filters {
				if f, ok := f.(*netlink.BpfFilter); ok && strings.HasPrefix(f.Name, filterPrefix) {
					errs = append(errs, visit(dev, f))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func removeFilters() error {
	return eachFilter(func(dev netlink.Link, f *netlink.BpfFilter) error {
		return removeFilter(dev, kindOfFilter(f))
	})
}
