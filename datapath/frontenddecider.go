package datapath

import (
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// FrontendDecider decides as FrontendsOf does, one snapshot after another. Where
// nothing but EndpointSlices and the health of backends has changed in between,
// which is most of what changes, it decides for their Services alone.
type FrontendDecider struct {
	DB       *state.DB
	Node     string
	Defaults Defaults

	last *frontendDecision
}

// frontendDecision is what is remembered of a decision.
type frontendDecision struct {
	// changed are closed when something else than that is no longer as it was.
	changed []<-chan struct{}
	in      FrontendInput
	slices  map[string]state.EndpointSlice // by RowKey
	// services by name, and who owns what.
	services map[state.ObjectName]state.Service
	owners   map[listening]state.ObjectRef
	// problems of rows, after the unrightful ones, which no endpoint changes.
	unrightful, problems []state.Problem
}

// Reads are the tables that frontends are decided by.
func (d *FrontendDecider) Reads() []state.Watch {
	return append(d.others(), d.DB.EndpointSlices.Watch(), d.DB.BackendHealth.Watch())
}

func (d *FrontendDecider) others() []state.Watch {
	db := d.DB
	return []state.Watch{db.Services.Watch(), db.Nodes.Watch(), db.Pools.Watch(), db.Devices.Watch(), db.Agents.Watch(),
		db.Endpoints.Watch(), db.Attachments.Watch(), db.BGPAdvertisements.Watch(), db.BGPInstances.Watch()}
}

// Decide returns the frontends of the snapshot, or when all is false, those that
// may be others than they were, and what is not served of all that is asked for.
// changed are the keys of the EndpointSlices that have changed since the snapshot of
// the last call, as of state.Collector. With anew all are decided, whatever has changed.
func (d *FrontendDecider) Decide(snap state.Snapshot, changed []string, anew bool) (rows []state.Frontend, problems []state.Problem, all bool) {
	if d.last != nil && !anew && !d.last.stale() {
		rows = d.last.again(d.DB, snap, changed)
		return rows, slices.Concat(d.last.unrightful, d.last.problems), false
	}
	in, unrightful := frontendInput(d.DB, snap, d.Node, d.Defaults)
	r := newFrontendRun(in)
	r.run()
	d.last = &frontendDecision{in: in, unrightful: unrightful, problems: r.problems, owners: r.owners,
		slices:   make(map[string]state.EndpointSlice, len(in.Slices)),
		services: make(map[state.ObjectName]state.Service, len(in.Services))}
	for _, s := range in.Slices {
		d.last.slices[s.RowKey()] = s
	}
	for _, watch := range d.others() {
		d.last.changed = append(d.last.changed, watch(snap))
	}
	for _, svc := range in.Services {
		d.last.services[svc.Name] = svc
	}
	return r.rows, slices.Concat(unrightful, r.problems), true
}

// stale says whether more than EndpointSlices and BackendHealth has changed.
func (f *frontendDecision) stale() bool {
	return slices.ContainsFunc(f.changed, func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	})
}

// again decides for the Services that have other EndpointSlices than before, or
// backends that are down and were not, or the other way round.
// What has which address:port depends on no endpoint.
func (f *frontendDecision) again(db *state.DB, snap state.Snapshot, keys []string) []state.Frontend {
	changed := f.follow(db, snap, keys)
	f.followHealth(down(db, snap), changed)
	in := f.in
	in.Services, in.Endpoints, in.Slices = nil, nil, nil
	refs := map[state.ObjectRef]bool{}
	for name := range changed {
		if svc, exists := f.services[name]; exists {
			in.Services = append(in.Services, svc)
			in.Slices = slices.AppendSeq(in.Slices, db.EndpointSlices.By(snap, state.IndexService, name.String()))
			refs[state.ServiceRef(name)] = true
		}
	}
	r := newFrontendRun(in)
	r.others = f.owners
	for i := range r.in.Services {
		r.service(&r.in.Services[i])
	}
	problems := slices.DeleteFunc(slices.Clone(f.problems), func(p state.Problem) bool { return refs[p.Object] })
	for _, p := range r.problems {
		if refs[p.Object] { // the node's were found before
			problems = append(problems, p)
		}
	}
	f.problems = problems
	return r.rows
}

// follow takes over the EndpointSlices of these keys as they are now, and returns
// the owners of those that are others than they were.
func (f *frontendDecision) follow(db *state.DB, snap state.Snapshot, keys []string) map[state.ObjectName]bool {
	changed := map[state.ObjectName]bool{}
	for _, key := range keys {
		old, known := f.slices[key]
		s, there := db.EndpointSlices.Get(snap, key)
		if known == there && sameSlice(old, s) {
			continue
		}
		if delete(f.slices, key); there {
			changed[s.Service], f.slices[key] = true, s
		}
		if known {
			changed[old.Service] = true
		}
	}
	return changed
}

// followHealth takes over which backends are down now, and adds the Services for
// which that has changed.
func (f *frontendDecision) followHealth(down map[Probed]bool, changed map[state.ObjectName]bool) {
	for at := range down {
		if !f.in.Down[at] {
			changed[at.Service] = true
		}
	}
	for at := range f.in.Down {
		if !down[at] {
			changed[at.Service] = true
		}
	}
	f.in.Down = down
}

func sameSlice(a, b state.EndpointSlice) bool {
	return a.Service == b.Service && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Endpoints, b.Endpoints)
}
