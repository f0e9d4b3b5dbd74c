package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// Probed is what a state.Probe is of.
type Probed struct {
	Service state.ObjectName
	Addr    netip.Addr
	Port    uint16 // that is checked
}

// probed is what of the backend of a Service's port is checked. Those in the
// cluster are not: its kubelets say whether they are ready. Nor is what only
// UDP or SCTP tells, unless a port to check is named.
func probed(svc *state.Service, port state.ServicePort, b state.Backend) (Probed, bool) {
	return Probed{svc.Name, b.Addr, cmp.Or(svc.Probing.Port, b.Port)},
		svc.Probing.By != "" && b.Node == "" && (port.Protocol == state.TCP || svc.Probing.Port != 0)
}

// down are the backends that were found so.
func down(db *state.DB, r state.Reader) map[Probed]bool {
	found := map[Probed]bool{}
	for h := range db.BackendHealth.All(r) {
		if !h.Up {
			found[Probed{h.Service, h.Addr, h.Port}] = true
		}
	}
	return found
}

// Probes returns the checks that the node makes: of the backends outside the
// cluster of each Service that asks for it and is served here. It waits for no
// source, as FrontendsOf.
func Probes(db *state.DB, snap state.Snapshot, node string, defaults Defaults) ([]state.Probe, []state.Problem) {
	asked := false
	for s := range db.Services.All(snap) {
		asked = asked || s.Probing.By != ""
	}
	if !asked {
		return nil, nil
	}
	in, _ := frontendInput(db, snap, node, defaults)
	in.Services = slices.DeleteFunc(in.Services, func(s state.Service) bool { return s.Probing.By == "" })
	in.Slices = nil
	for _, s := range in.Services {
		in.Slices = slices.AppendSeq(in.Slices, db.EndpointSlices.By(snap, state.IndexService, s.Name.String()))
	}
	r := newFrontendRun(in)
	var rows []state.Probe
	for i := range r.in.Services {
		if svc := &r.in.Services[i]; svc.Type != "ExternalName" && !svc.Headless && r.reached(svc) {
			rows = append(rows, r.probes(svc)...)
		}
	}
	slices.SortFunc(rows, state.Probe.Compare)
	return slices.CompactFunc(rows, state.Probe.SameSpec), r.problems
}

// reached says whether svc has a frontend on this node.
func (r *frontendRun) reached(svc *state.Service) bool {
	return len(r.addresses(svc)) > 0 ||
		r.inside(svc) && (svc.Type == "NodePort" || svc.Type == "LoadBalancer") && len(r.in.NodePortAddrs) > 0
}

// probes are the checks of svc, some of them twice.
func (r *frontendRun) probes(svc *state.Service) (rows []state.Probe) {
	for i, port := range svc.Ports {
		outside := false
		for _, ipv6 := range []bool{false, true} {
			for _, b := range r.endpoints(svc.Name, port, ipv6) {
				outside = outside || b.Node == ""
				if at, ok := probed(svc, port, b); ok && (b.Ready || b.Serving) {
					rows = append(rows, state.Probe{Service: svc.Name, Addr: at.Addr, Port: at.Port, Probing: svc.Probing})
				}
			}
		}
		if outside && port.Protocol != state.TCP && svc.Probing.Port == 0 {
			r.report(state.ServiceRef(svc.Name), fmt.Sprintf("spec.ports[%d].protocol", i),
				fmt.Sprintf("backends of port %d/%s are not checked: they are checked by TCP", port.Port, port.Protocol),
				"name a TCP port of theirs with annotation "+v1alpha1.AnnotationHealthCheckPort)
		}
	}
	return rows
}
