package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/seamark-lb/seamark/state"
)

// PodPrograms attaches the pod program to the host ends of veths.
type PodPrograms interface {
	// AttachPod attaches to the device, or updates what is attached in place.
	AttachPod(device string) error
	// DetachPod detaches; a device that is gone is no error.
	DetachPod(device string) error
}

// EndpointTarget is the state.Target of Endpoints: the pods of this node that
// packets are redirected into.
type EndpointTarget struct {
	maps     Maps
	programs PodPrograms
	ifindex  func(device string) (int, error)
}

// NewEndpointTarget returns the target. Devices are looked up in the network
// namespace of the calling thread.
func NewEndpointTarget(maps Maps, programs PodPrograms) *EndpointTarget {
	return &EndpointTarget{maps, programs, func(device string) (int, error) {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return 0, err
		}
		return dev.Index, nil
	}}
}

// Update attaches the pod's program, then makes the pod reachable: its
// answers need the program.
func (t *EndpointTarget) Update(_ context.Context, row state.Endpoint) error {
	addr, entry, err := t.entry(row)
	if err != nil {
		return fmt.Errorf("program endpoint %s: %w", row.RowKey(), err)
	}
	if err := t.programs.AttachPod(row.HostDevice); err != nil {
		return fmt.Errorf("program endpoint %s: attach to %s: %w", row.RowKey(), row.HostDevice, err)
	}
	held, ok, err := t.maps.Endpoints.Lookup(addr)
	if err != nil {
		return fmt.Errorf("program endpoint %s: read map endpoints: %w", row.RowKey(), err)
	}
	if ok && held == entry {
		return nil
	}
	if err := t.maps.Endpoints.Update(addr, entry); err != nil {
		return fmt.Errorf("program endpoint %s: write map endpoints: %w", row.RowKey(), err)
	}
	return nil
}

// Delete makes the pod unreachable, unless its address is another pod's by
// now, and detaches its program.
func (t *EndpointTarget) Delete(_ context.Context, row state.Endpoint) error {
	addr := row.Addr.Unmap()
	if !addr.IsValid() {
		return nil // never written
	}
	held, ok, err := t.maps.Endpoints.Lookup(addr)
	if err != nil {
		return fmt.Errorf("remove endpoint %s: read map endpoints: %w", row.RowKey(), err)
	}
	if mac, err := ParseMAC(row.PodMAC); ok && err == nil && held.PodMAC == mac {
		if err := t.maps.Endpoints.Delete(addr); err != nil {
			return fmt.Errorf("remove endpoint %s: write map endpoints: %w", row.RowKey(), err)
		}
	}
	if err := t.programs.DetachPod(row.HostDevice); err != nil {
		return fmt.Errorf("remove endpoint %s: detach from %s: %w", row.RowKey(), row.HostDevice, err)
	}
	return nil
}

// Prune removes the pods that are in the map and not in wanted. Their
// programs went with their devices.
func (t *EndpointTarget) Prune(_ context.Context, wanted []state.Endpoint) error {
	have, err := t.maps.Endpoints.All()
	if err != nil {
		return fmt.Errorf("prune endpoints: read map endpoints: %w", err)
	}
	keep := map[netip.Addr]bool{}
	for _, row := range wanted {
		keep[row.Addr.Unmap()] = true
	}
	for addr := range have {
		if keep[addr] {
			continue
		}
		if err := t.maps.Endpoints.Delete(addr); err != nil {
			return fmt.Errorf("prune endpoints: delete %s from map endpoints: %w", addr, err)
		}
	}
	return nil
}

func (t *EndpointTarget) entry(row state.Endpoint) (addr netip.Addr, entry EndpointEntry, err error) {
	addr = row.Addr.Unmap()
	var errAddr error
	if !addr.IsValid() {
		errAddr = errors.New("it has no address")
	}
	pod, errPod := ParseMAC(row.PodMAC)
	host, errHost := ParseMAC(row.HostMAC)
	index, errIndex := t.ifindex(row.HostDevice)
	if errIndex != nil {
		errIndex = fmt.Errorf("find device %s: %w", row.HostDevice, errIndex)
	}
	return addr, EndpointEntry{Ifindex: uint32(index), PodMAC: pod, HostMAC: host}, errors.Join(errAddr, errPod, errHost, errIndex)
}
