package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/cmd/internal/frame"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// monitor tells people of packets: what the datapath drops, and all that is of
// a Service, which it has traced while somebody watches.
type monitor struct {
	db      *state.DB
	reasons map[string]bool // whether packets are dropped for them
	watch   func(context.Context, kernel.EventFilter) (<-chan kernel.Event, error)
	trace   func(service state.ObjectName, on bool) error
	log     *slog.Logger

	mu     sync.Mutex
	traced map[state.ObjectName]int // how many watch each
}

// packets returns the packets that the filter means until ctx ends.
func (m *monitor) packets(ctx context.Context, filter control.MonitorFilter) (<-chan control.PacketEvent, error) {
	matches, err := m.matcher(filter)
	if err != nil {
		return nil, err
	}
	untrace := func() {}
	if filter.Service != (state.ObjectName{}) && !filter.Drops {
		if untrace, err = m.traceService(filter.Service); err != nil {
			return nil, err
		}
	}
	events, err := m.watch(ctx, kernel.EventFilter{Drops: filter.Drops, Match: matches})
	if err != nil {
		untrace()
		return nil, err
	}
	packets := make(chan control.PacketEvent)
	go func() {
		defer close(packets)
		defer untrace()
		names := deviceNames{}
		for e := range events { // closed when ctx ends
			select {
			case packets <- packetEvent(e, names):
			case <-ctx.Done():
			}
		}
	}()
	return packets, nil
}

// matcher returns what says of each event whether the filter means it.
func (m *monitor) matcher(filter control.MonitorFilter) (func(kernel.Event) bool, error) {
	if err := m.checkReason(filter); err != nil {
		return nil, err
	}
	device := 0
	if filter.Device != "" {
		dev, err := net.InterfaceByName(filter.Device)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", filter.Device, err)
		}
		device = dev.Index
	}
	if filter.Service != (state.ObjectName{}) {
		if _, ok := m.db.Services.Get(m.db.Snapshot(), filter.Service.String()); !ok {
			return nil, fmt.Errorf("service %s: %w", filter.Service, source.ErrNotFound)
		}
	}
	return func(e kernel.Event) bool {
		return (!filter.Drops || e.Action == kernel.ActionDrop) &&
			(filter.Reason == "" || e.Reason == filter.Reason) &&
			(device == 0 || e.Ifindex == device) &&
			(filter.Service == (state.ObjectName{}) || m.concerns(e, filter.Service))
	}, nil
}

// checkReason refuses a reason for which there can be nothing to tell.
func (m *monitor) checkReason(filter control.MonitorFilter) error {
	drops, known := m.reasons[filter.Reason]
	switch {
	case filter.Reason == "":
	case !known:
		return fmt.Errorf("unknown reason %q: want one of %s", filter.Reason, strings.Join(slices.Sorted(maps.Keys(m.reasons)), ", "))
	case filter.Drops && !drops:
		return fmt.Errorf("no packet is dropped for reason %q: packets that are not are told of one Service, with --service and without --drops", filter.Reason)
	}
	return nil
}

// concerns says whether a packet is from or to a frontend of the Service. One that
// is traced says which; in others its address stands.
func (m *monitor) concerns(e kernel.Event, service state.ObjectName) bool {
	snap := m.db.Snapshot()
	is := func(addr netip.AddrPort, proto uint8) bool {
		key := state.Frontend{Addr: addr.Addr(), Port: addr.Port(), Protocol: state.Protocol(proto)}.RowKey()
		row, ok := m.db.Frontends.Get(snap, key)
		return ok && row.Service == service
	}
	if e.Of.IsValid() {
		return is(e.Of, e.Proto)
	}
	return slices.ContainsFunc(frame.Decode(e.Head).IP, func(ip frame.IP) bool {
		return is(ip.Dst, ip.Protocol) || is(ip.Src, ip.Protocol)
	})
}

// traceService has a Service's packets told until the returned function is
// called, and the others who asked for it have called theirs.
func (m *monitor) traceService(service state.ObjectName) (end func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.traced[service] == 0 {
		if err := m.trace(service, true); err != nil {
			return nil, err
		}
	}
	m.traced[service]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.traced[service]--; m.traced[service] > 0 {
			return
		}
		delete(m.traced, service)
		if err := m.trace(service, false); err != nil {
			m.log.Warn("end tracing", "service", service, "err", err)
		}
	}, nil
}

// keep has the frontends traced, too, that Services which are watched get meanwhile.
func (m *monitor) keep(ctx context.Context) error {
	return m.db.FollowSparingly(ctx, redecide, func(state.Snapshot) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for service := range m.traced {
			if err := m.trace(service, true); err != nil {
				m.log.Warn("trace new frontends", "service", service, "retry", redecide, "err", err)
			}
		}
	}, m.db.Frontends.Watch())
}

func packetEvent(e kernel.Event, names deviceNames) control.PacketEvent {
	return control.PacketEvent{At: e.At, Device: names.of(e.Ifindex), Hook: e.Hook, Action: e.Action, Reason: e.Reason,
		Length: e.Length, Packet: frame.Decode(e.Head), Head: e.Head, Lost: e.Lost}
}

// deviceNames are the names of the devices seen so far, by index.
type deviceNames map[int]string

func (d deviceNames) of(index int) string {
	name, ok := d[index]
	if ok {
		return name
	}
	dev, err := net.InterfaceByIndex(index)
	if err != nil {
		return fmt.Sprintf("ifindex %d", index) // gone by now
	}
	d[index] = dev.Name
	return dev.Name
}
