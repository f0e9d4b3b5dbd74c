package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// lister lists the datapath's tables for people.
type lister struct {
	maps datapath.Maps
	db   *state.DB
}

// list is control.Server's List.
func (l lister) list(ctx context.Context, table string, query control.ListQuery, row func(any) error) (more int, err error) {
	lists := map[string]func(*listing) error{
		control.TableFlows:     l.flows,
		control.TableNAT:       l.nat,
		control.TablePins:      l.pins,
		control.TableAffinity:  l.affinity,
		control.TableSources:   l.sources,
		control.TableFragments: l.fragments,
		control.TableMaglev:    l.maglev,
	}
	list, ok := lists[table]
	if !ok {
		return 0, fmt.Errorf("table %q: %w", table, source.ErrNotFound)
	}
	names, err := namesOf(l.maps, l.db)
	if err != nil {
		return 0, err
	}
	backends, err := backendAddrs(l.maps)
	if err != nil {
		return 0, err
	}
	out := &listing{ctx: ctx, query: query, now: collect.Now(), names: names, backends: backends, row: row}
	if err := list(out); err != nil {
		return 0, fmt.Errorf("list %s: %w", table, err)
	}
	return out.more, nil
}

// dump is control.Server's DumpLB.
func (l lister) dump(w io.Writer, service state.ObjectName) error {
	if service == (state.ObjectName{}) {
		return l.maps.Dump(w, nil)
	}
	snap := l.db.Snapshot()
	if _, ok := l.db.Services.Get(snap, service.String()); !ok {
		return fmt.Errorf("service %s: %w", service, source.ErrNotFound)
	}
	return l.maps.Dump(w, func(k datapath.FrontendKey) bool {
		row, ok := l.db.Frontends.Get(snap, state.Frontend{Addr: k.Addr, Port: k.Port, Protocol: k.Proto}.RowKey())
		return ok && row.Service == service
	})
}

func (l lister) flows(out *listing) error {
	rows := newRows(out, func(a, b control.Flow) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), a.Client.Compare(b.Client), cmp.Compare(a.Protocol, b.Protocol), a.Pod.Compare(b.Pod))
	})
	add := func(state string) func(datapath.FlowKey, datapath.FlowEntry) bool {
		return func(k datapath.FlowKey, v datapath.FlowEntry) bool {
			f := control.Flow{Client: netip.AddrPortFrom(k.Client, k.ClientPort), Frontend: netip.AddrPortFrom(v.VIP, v.Port),
				Pod: netip.AddrPortFrom(k.Pod, k.PodPort), Protocol: k.Proto.String(), State: state, Idle: out.idle(v.Seen)}
			if v.Flags&datapath.FlowClosing != 0 {
				f.State = stateClosing
			}
			service := out.names.ofFrontend(f.Frontend, k.Proto)
			f.Service = text(service)
			return rows.add(f, service)
		}
	}
	return rows.end(l.maps.Flows.Each(add(stateEstablished)), l.maps.HalfOpen.Each(add(stateHalfOpen)))
}

const (
	stateHalfOpen    = "half-open"
	stateEstablished = "established"
	stateClosing     = "closing"
)

// nat lists the answers' side, which knows whether there were any.
func (l lister) nat(out *listing) error {
	rows := newRows(out, func(a, b control.NATFlow) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), a.Client.Compare(b.Client), cmp.Compare(a.Protocol, b.Protocol), a.Source.Compare(b.Source))
	})
	rows.complete = func(f *control.NATFlow) error { // by what the client's side knows
		proto, err := control.ParseProtocol(f.Protocol)
		if err != nil {
			return err
		}
		v, ok, err := l.maps.NATOut.Lookup(datapath.Tuple{Src: f.Client, Dst: f.Frontend, Proto: proto})
		if !ok || err != nil {
			return err
		}
		f.Idle = min(f.Idle, out.idle(v.Seen))
		if v.Flags&datapath.NATClosing != 0 {
			f.State = stateClosing
		}
		return nil
	}
	return rows.end(l.maps.NATIn.Each(func(k datapath.Tuple, v datapath.NATEntry) bool {
		f := control.NATFlow{Client: v.Dst, Frontend: v.Src, Source: k.Dst, Backend: k.Src, Protocol: k.Proto.String(),
			State: stateHalfOpen, Inside: v.Flags&datapath.NATInside != 0, Idle: out.idle(v.Seen)}
		switch {
		case v.Flags&datapath.NATClosing != 0:
			f.State = stateClosing
		case v.Flags&datapath.NATReplied != 0:
			f.State = stateEstablished
		}
		service := out.names.ofFrontend(f.Frontend, k.Proto)
		f.Service = text(service)
		return rows.add(f, service)
	}))
}

func (l lister) pins(out *listing) error {
	rows := newRows(out, func(a, b control.Pin) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), a.Client.Compare(b.Client), cmp.Compare(a.Protocol, b.Protocol))
	})
	return rows.end(l.maps.Pins.Each(func(k datapath.Tuple, v datapath.Pin) bool {
		p := control.Pin{Client: k.Src, Frontend: k.Dst, Backend: out.backends[v.Backend], Protocol: k.Proto.String(),
			State: stateHalfOpen, Idle: out.idle(v.Seen)}
		switch {
		case v.Flags&datapath.FlowClosing != 0:
			p.State = stateClosing
		case v.Flags&datapath.FlowReplied != 0:
			p.State = stateEstablished
		}
		service := out.names.ofFrontend(p.Frontend, k.Proto)
		p.Service = text(service)
		return rows.add(p, service)
	}))
}

func (l lister) affinity(out *listing) error {
	rows := newRows(out, func(a, b control.Affinity) int {
		return cmp.Or(a.Client.Compare(b.Client), cmp.Compare(a.Service, b.Service))
	})
	return rows.end(l.maps.Affinity.Each(func(k datapath.AffinityKey, v datapath.AffinityEntry) bool {
		service := out.names.services[k.Service].Service
		return rows.add(control.Affinity{Client: k.Client, Backend: out.backends[v.Backend], Idle: out.idle(v.Seen), Service: text(service)}, service)
	}))
}

func (l lister) sources(out *listing) error {
	rows := newRows(out, func(a, b control.SourceRange) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return rows.end(l.maps.Sources.Each(func(k datapath.SourceKey, _ uint32) bool {
		service := out.names.services[k.Service].Service
		return rows.add(control.SourceRange{Prefix: k.Prefix, Service: text(service)}, service)
	}))
}

func (l lister) fragments(out *listing) error {
	rows := newRows(out, func(a, b control.Fragment) int {
		return cmp.Or(a.Dest.Compare(b.Dest), a.Source.Compare(b.Source), cmp.Compare(a.ID, b.ID))
	})
	return rows.end(l.maps.Fragments.Each(func(k datapath.FragmentKey, v datapath.FragmentEntry) bool {
		f := control.Fragment{Source: netip.AddrPortFrom(k.Src, v.Sport), Dest: netip.AddrPortFrom(k.Dst, v.Dport), ID: k.ID,
			Protocol: v.Proto.String(), Idle: out.idle(v.Seen)}
		service := out.names.ofFrontend(f.Dest, v.Proto)
		f.Service = text(service)
		return rows.add(f, service)
	}))
}

func (l lister) maglev(out *listing) error {
	rows := newRows(out, func(a, b control.MaglevTable) int {
		return cmp.Or(a.Frontend.Compare(b.Frontend), cmp.Compare(a.Protocol, b.Protocol))
	})
	rows.complete = func(m *control.MaglevTable) error {
		proto, err := control.ParseProtocol(m.Protocol)
		if err != nil {
			return err
		}
		slots, err := l.maps.MaglevSlots(datapath.FrontendKey{Addr: m.Frontend.Addr(), Port: m.Frontend.Port(), Proto: proto})
		if err != nil {
			return err
		}
		backends := map[netip.AddrPort]bool{}
		for _, slot := range slots {
			if slot.Moved {
				m.Moved++
			}
			if slot.Backend.IsValid() {
				backends[slot.Backend] = true
			}
		}
		m.Slots, m.Backends = len(slots), len(backends)
		return nil
	}
	return rows.end(l.maps.Frontends.Each(func(k datapath.FrontendKey, v datapath.FrontendEntry) bool {
		if v.Flags&datapath.FrontendVIP != 0 {
			return true // an address has no table
		}
		at := netip.AddrPortFrom(k.Addr, k.Port)
		service := out.names.ofFrontend(at, k.Proto)
		return rows.add(control.MaglevTable{Frontend: at, Protocol: k.Proto.String(), Set: v.Set, Service: text(service)}, service)
	}))
}

// listing is one list on its way out.
type listing struct {
	ctx   context.Context
	query control.ListQuery
	now   uint32 // ticks
	names names
	// backends by their ids.
	backends map[uint32]netip.AddrPort
	row      func(any) error
	more     int
}

// idle is the time since seen, in whole seconds.
func (l *listing) idle(seen uint32) uint32 { return uint32(collect.Idle(seen, l.now).Seconds()) }

// rows are the rows of one listing: the first ones of all, when there is a
// limit, and otherwise each as it comes, so that there are never more than
// twice the limit of them in memory.
type rows[T any] struct {
	*listing
	compare func(a, b T) int
	// complete says of a row that is listed what is dear to find out; may be nil.
	complete func(*T) error
	kept     []T
	added    int
	err      error
}

func newRows[T any](l *listing, compare func(a, b T) int) *rows[T] {
	return &rows[T]{listing: l, compare: compare}
}

// add takes a row of that service. It returns false when it is of no use to go on.
func (r *rows[T]) add(row T, service state.ObjectName) bool {
	if r.query.Service != (state.ObjectName{}) && service != r.query.Service {
		return true
	}
	if r.added++; r.added%1024 == 0 && r.ctx.Err() != nil {
		r.err = r.ctx.Err()
		return false
	}
	if r.query.Limit == 0 {
		r.err = r.write(row)
		return r.err == nil
	}
	if r.kept = append(r.kept, row); len(r.kept) >= 2*r.query.Limit {
		r.cut()
	}
	return true
}

// cut keeps the first rows, up to the limit.
func (r *rows[T]) cut() {
	slices.SortFunc(r.kept, r.compare)
	r.kept = r.kept[:min(len(r.kept), r.query.Limit)]
}

func (r *rows[T]) write(row T) error {
	if r.complete != nil {
		if err := r.complete(&row); err != nil {
			return err
		}
	}
	return r.row(row)
}

// end lists what was kept, when the walks over the tables went well.
func (r *rows[T]) end(walks ...error) error {
	if err := cmp.Or(append([]error{r.err}, walks...)...); err != nil {
		return err
	}
	r.cut()
	for _, row := range r.kept {
		if err := r.write(row); err != nil {
			return err
		}
	}
	if r.query.Limit > 0 {
		r.more = r.added - len(r.kept)
	}
	return nil
}

// names are what people call what the tables have numbers for.
type names struct {
	db       *state.DB
	snap     state.Snapshot
	services map[uint32]state.Frontend          // a frontend of each service port
	numbers  map[collect.Place]uint32           // of service ports, by their frontends
	found    map[collect.Place]state.ObjectName // by ofFrontend
}

func namesOf(maps datapath.Maps, db *state.DB) (names, error) {
	n := names{db, db.Snapshot(), map[uint32]state.Frontend{}, map[collect.Place]uint32{}, map[collect.Place]state.ObjectName{}}
	err := maps.Frontends.Each(func(k datapath.FrontendKey, v datapath.FrontendEntry) bool {
		at := collect.Place{Addr: netip.AddrPortFrom(k.Addr, k.Port), Protocol: k.Proto}
		if row, ok := n.frontend(at.Addr, at.Protocol); ok {
			n.services[v.Service], n.numbers[at] = row, v.Service
		}
		return true
	})
	if err != nil {
		return n, fmt.Errorf("read map frontends: %w", err)
	}
	return n, nil
}

// backendAddrs are the addresses of the backends, by their ids.
func backendAddrs(maps datapath.Maps) (map[uint32]netip.AddrPort, error) {
	addrs := map[uint32]netip.AddrPort{}
	err := maps.Backends.Each(func(id uint32, b datapath.BackendEntry) bool {
		addrs[id] = netip.AddrPortFrom(b.Addr, b.Port)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read map backends: %w", err)
	}
	return addrs, nil
}

func (n names) frontend(addr netip.AddrPort, proto state.Protocol) (state.Frontend, bool) {
	return n.db.Frontends.Get(n.snap, state.Frontend{Addr: addr.Addr(), Port: addr.Port(), Protocol: proto}.RowKey())
}

// ofFrontend is the Service of a frontend; zero when there is none.
func (n names) ofFrontend(addr netip.AddrPort, proto state.Protocol) state.ObjectName {
	at := collect.Place{Addr: addr, Protocol: proto}
	service, ok := n.found[at]
	if !ok {
		row, _ := n.frontend(addr, proto)
		service = row.Service
		n.found[at] = service
	}
	return service
}

// text is a Service's name, "" for none.
func text(name state.ObjectName) string {
	if name == (state.ObjectName{}) {
		return ""
	}
	return name.String()
}
