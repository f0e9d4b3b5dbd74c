package main

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// reporter says how the daemon is. announcer, kern and beside are nil in a
// daemon that is only a store.
type reporter struct {
	db        *state.DB
	node      string
	started   time.Time
	engine    engine
	announcer *announce.Announcer
	kern      *kernel.Kernel
	beside    *beside
}

func (r reporter) status() control.Status {
	snap := r.db.Snapshot()
	s := control.Status{Node: r.node, Started: r.started, Store: r.store(snap)}
	if !s.Store.Synced {
		s.NotReady = append(s.NotReady, "the store has not been read yet")
	}
	if r.announcer != nil {
		s.Lease, s.Coordinator, s.Wire = r.lease(snap), r.coordinator(), r.wire()
	}
	if r.kern != nil {
		s.Devices = r.devices(snap)
		s.NotReady = append(s.NotReady, r.missing(snap)...)
		s.Verdicts = r.verdicts()
	}
	if r.beside != nil {
		s.Notes = r.beside.notes()
	}
	s.Ready = len(s.NotReady) == 0
	return s
}

func (r reporter) store(snap state.Snapshot) control.StoreStatus {
	s := control.StoreStatus{Engine: r.engine.name, Endpoints: r.engine.endpoints, Synced: synced(r.db, snap)}
	if r.engine.requests != nil {
		s.Requests = r.engine.requests()
	}
	if err := r.engine.source.Err(); err != nil {
		s.Err = err.Error()
	}
	return s
}

// synced says whether the source has delivered all it holds.
func synced(db *state.DB, snap state.Snapshot) bool {
	return db.Services.Synced(snap) && db.EndpointSlices.Synced(snap) && db.Nodes.Synced(snap) && db.Namespaces.Synced(snap) &&
		db.Agents.Synced(snap) && db.Pools.Synced(snap) &&
		db.L2Policies.Synced(snap) && db.NodeLeases.Synced(snap) && db.Assigned.Synced(snap)
}

// missing are the reasons for which this node does not serve what it should yet.
func (r reporter) missing(snap state.Snapshot) []string {
	var missing []string
	for _, table := range []string{r.db.Frontends.Name(), r.db.Attachments.Name()} {
		if !state.Marked(snap, state.PrunedMark(table)) {
			missing = append(missing, fmt.Sprintf("%s are not in the kernel yet", table))
		}
	}
	for a := range r.db.Attachments.All(snap) {
		if a.Status.Phase == state.Failed {
			missing = append(missing, fmt.Sprintf("attach to %s: %s", a.Device, a.Status.Err))
		}
	}
	return missing
}

func (r reporter) lease(snap state.Snapshot) control.LeaseStatus {
	lease := r.announcer.Lease()
	row, _ := r.db.NodeLeases.Get(snap, r.node)
	s := control.LeaseStatus{State: "none", Left: lease.Left, Renewed: lease.Renewed}
	switch {
	case lease.Released:
		s.State = "released"
	case lease.Left > 0:
		s.State = "valid"
	case !lease.Renewed.IsZero():
		s.State = "expired"
	}
	s.Drained = row.Drained
	if lease.Err != nil {
		s.Err = lease.Err.Error()
	}
	return s
}

func (r reporter) coordinator() control.Coordinator {
	leader := r.announcer.Coordinator()
	return control.Coordinator{Identity: leader, Self: leader != "" && leader == r.node}
}

func (r reporter) wire() control.WireStatus {
	c := r.announcer.Counts
	return control.WireStatus{Gratuitous: c.Gratuitous.Load(), ClusterClaims: c.ClusterClaims.Load(), Kept: c.Kept.Load(),
		Yielded: c.Yielded.Load(), StrangerClaims: c.StrangerClaims.Load(), Defences: c.Defences.Load()}
}

func (r reporter) devices(snap state.Snapshot) []control.DeviceStatus {
	attached := map[string]kernel.Attachment{}
	for _, at := range r.kern.Attached() {
		attached[at.Device] = at
	}
	var devices []control.DeviceStatus
	for row := range r.db.Attachments.All(snap) {
		dev, _ := r.db.Devices.Get(snap, row.Device)
		s := control.DeviceStatus{Name: row.Device, MAC: row.MAC, Up: dev.Up, Err: row.Status.Err}
		if at, ok := attached[row.Device]; ok {
			s.Attach = at.String()
		}
		devices = append(devices, s)
	}
	return devices
}

func (r reporter) verdicts() []control.VerdictCount {
	verdicts, err := r.kern.Verdicts()
	if err != nil {
		return nil
	}
	counts := make([]control.VerdictCount, len(verdicts))
	for i, v := range verdicts {
		counts[i] = control.VerdictCount{Reason: v.Hook + "/" + v.Reason, Dropped: v.Dropped, Packets: v.Packets, Bytes: v.Bytes}
	}
	return counts
}

// maglevReader reads a frontend's Maglev table out of the kernel.
type maglevReader struct {
	maps datapath.Maps
	db   *state.DB
}

func (m maglevReader) read(addr netip.AddrPort, proto state.Protocol) (control.Maglev, error) {
	key := state.Frontend{Addr: addr.Addr(), Port: addr.Port(), Protocol: proto}.RowKey()
	row, ok := m.db.Frontends.Get(m.db.Snapshot(), key)
	if !ok {
		return control.Maglev{}, fmt.Errorf("frontend %s: %w", key, source.ErrNotFound)
	}
	table := control.Maglev{Addr: addr, Protocol: proto.String(), Service: row.Service.String()}
	slots, err := m.maps.MaglevSlots(datapath.FrontendKey{Addr: addr.Addr(), Port: addr.Port(), Proto: proto})
	if err != nil {
		return table, err
	}
	index := map[netip.AddrPort]int{}
	for _, b := range row.Backends {
		at := netip.AddrPortFrom(b.Addr, b.Port)
		index[at] = len(table.Backends)
		table.Backends = append(table.Backends, control.MaglevBackend{Addr: at, Node: b.Node, Weight: max(b.Weight, 1)})
	}
	for _, slot := range slots {
		i, known := index[slot.Backend]
		if !slot.Backend.IsValid() {
			i = -1 // leads nowhere
		} else if !known { // in the kernel, and no longer in the row
			i = len(table.Backends)
			index[slot.Backend] = i
			table.Backends = append(table.Backends, control.MaglevBackend{Addr: slot.Backend})
		}
		table.Slots = append(table.Slots, i)
	}
	return table, nil
}
