package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/state"
)

// Defaults are what Services get that say nothing else, and what of them this
// node serves. What is zero is as the comments say.
type Defaults struct {
	Forwarding state.Forwarding // ForwardDSR
	Dispatch   state.Dispatch   // DispatchIPIP
	Unserved   state.Unserved   // UnservedDrop
	// NodePortAddresses are the prefixes of those of the node's addresses that
	// node ports are served on; none: the addresses that outside machines use.
	NodePortAddresses    []netip.Prefix
	KubeProxyReplacement KubeProxyReplacement // ReplaceAuto
}

// KubeProxyReplacement says whether ClusterIPs and node ports are served here.
type KubeProxyReplacement string

// When they are.
const (
	ReplaceAuto  KubeProxyReplacement = "auto" // unless a kube-proxy runs, whose they are then
	ReplaceTrue  KubeProxyReplacement = "true"
	ReplaceFalse KubeProxyReplacement = "false"
)

// in says whether kube-proxy is replaced.
func (k KubeProxyReplacement) in(db *state.DB, r state.Reader) bool {
	if k == ReplaceTrue || k == ReplaceFalse {
		return k == ReplaceTrue
	}
	for a := range db.Agents.All(r) {
		if a.Role == state.AgentProxy {
			return false
		}
	}
	return true
}

// FrontendInput is what Frontends decides by.
type FrontendInput struct {
	// Node is this one. A Node that nobody registered has its name alone.
	Node state.Node
	// NodeIPs are the InternalIPs of all nodes.
	NodeIPs map[netip.Addr]bool
	// Services with the addresses that are rightfully theirs.
	Services []state.Service
	Slices   []state.EndpointSlice
	// Endpoints are this node's pods.
	Endpoints []state.Endpoint
	// Down are the backends outside the cluster that were checked and found so.
	Down map[Probed]bool
	// NodePortAddrs and HostPortAddrs are the addresses of this node that node
	// ports and the host ports of pods are served on.
	NodePortAddrs, HostPortAddrs []netip.Addr
	// Inside: ClusterIPs and node ports are served here, and not by kube-proxy.
	// (Never those of a Service that is labelled as another proxy's.)
	Inside bool
	// Exposed says of which Services the ClusterIPs are served from outside; nil: of none.
	Exposed  func(*state.Service) bool
	Defaults Defaults
}

// FrontendsOf is Frontends of what a snapshot holds, and what of it is not
// served. It waits for nothing: whoever calls it does, until the sources have
// said all, and the devices, the attachments and the pods are known.
func FrontendsOf(db *state.DB, snap state.Snapshot, node string, defaults Defaults) ([]state.Frontend, []state.Problem) {
	in, problems := frontendInput(db, snap, node, defaults)
	r := newFrontendRun(in)
	r.run()
	return r.rows, append(problems, r.problems...)
}

// frontendInput is what a snapshot holds, and the Problems of what is left out.
func frontendInput(db *state.DB, snap state.Snapshot, node string, defaults Defaults) (FrontendInput, []state.Problem) {
	in := FrontendInput{NodeIPs: map[netip.Addr]bool{}, Slices: db.EndpointSlices.Rows(snap), Endpoints: db.Endpoints.Rows(snap), Down: down(db, snap),
		Inside: defaults.KubeProxyReplacement.in(db, snap), Exposed: state.ExposedClusterIPs(db, snap), Defaults: defaults}
	var problems []state.Problem
	in.Services, problems = state.Rightful(db, snap)
	var registered bool
	if in.Node, registered = db.Nodes.Get(snap, node); !registered {
		in.Node = state.Node{Name: node}
	}
	for n := range db.Nodes.All(snap) {
		for _, a := range n.Addrs {
			in.NodeIPs[a.Unmap()] = true
		}
	}
	in.NodePortAddrs, in.HostPortAddrs = nodeAddrs(db, snap, in.Node, defaults.NodePortAddresses)
	return in, problems
}

// Frontends returns what the node serves, sorted by address, port and protocol,
// and what of what is asked for it does not serve. Served are
//
//   - the LoadBalancer ingress addresses, externalIPs and ClusterIPs of each
//     Service, times its ports;
//   - node ports, on the node's own addresses;
//   - the host ports of this node's pods, there too.
//
// Backends have the family of the address. spec.loadBalancerSourceRanges are
// for the ingress addresses alone, as in kube-proxy.
//
// An address of a Service without a single port that can be balanced gets one
// row with port and protocol 0, which stands for the address alone (it answers
// ping, and its ports are dropped).
//
// Of two Services that claim one addr:port/protocol the older has it; of the
// same age, the first by name. Of a Service and a pod, the Service.
func Frontends(in FrontendInput) ([]state.Frontend, []state.Problem) {
	r := newFrontendRun(in)
	r.run()
	return r.rows, r.problems
}

// run decides all.
func (r *frontendRun) run() {
	for i := range r.in.Services {
		r.service(&r.in.Services[i])
	}
	for _, pod := range r.in.Endpoints {
		r.hostPorts(pod)
	}
	for _, a := range r.alone {
		if !r.served[a.addr] {
			r.add(state.Frontend{Addr: a.addr, Service: a.service, Kind: a.kind})
		}
	}
	slices.SortFunc(r.rows, func(a, b state.Frontend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
}

// frontendRun is one run of Frontends.
type frontendRun struct {
	in       FrontendInput
	slicesOf map[state.ObjectName][]*state.EndpointSlice

	rows     []state.Frontend
	owners   map[listening]state.ObjectRef
	others   map[listening]state.ObjectRef // of an earlier run about all Services; nil in one that is
	served   map[netip.Addr]bool
	alone    []aloneAddr // addresses of Services, which may come out with no row
	problems []state.Problem
	reported map[state.Problem]bool
}

type aloneAddr struct {
	serviceAddr
	service state.ObjectName
}

// listening is what has one owner.
type listening struct {
	addr     netip.Addr
	port     uint16
	protocol state.Protocol
}

func newFrontendRun(in FrontendInput) *frontendRun {
	r := &frontendRun{in: in, slicesOf: make(map[state.ObjectName][]*state.EndpointSlice, len(in.Services)),
		owners: make(map[listening]state.ObjectRef, 2*len(in.Services)), served: make(map[netip.Addr]bool, 2*len(in.Services)),
		rows: make([]state.Frontend, 0, 2*len(in.Services)), reported: map[state.Problem]bool{}}
	for i := range in.Slices {
		s := &in.Slices[i]
		r.slicesOf[s.Service] = append(r.slicesOf[s.Service], s)
	}
	r.in.Services = slices.SortedFunc(slices.Values(in.Services), func(a, b state.Service) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Name.Compare(b.Name))
	})
	r.in.Endpoints = slices.SortedFunc(slices.Values(in.Endpoints), func(a, b state.Endpoint) int {
		return cmp.Or(a.Pod.Compare(b.Pod), cmp.Compare(a.RowKey(), b.RowKey()))
	})
	return r
}

// report adds a Problem, once.
func (r *frontendRun) report(object state.ObjectRef, field, message, cure string) {
	p := state.Problem{Object: object, Field: field, Message: message, Cure: cure}
	if !r.reported[p] {
		r.reported[p] = true
		r.problems = append(r.problems, p)
	}
}

// claim makes the row's addr:port/protocol its owner's, unless it is another's.
func (r *frontendRun) claim(row state.Frontend, owner state.ObjectRef) (by state.ObjectRef, ok bool) {
	key := listening{row.Addr, row.Port, row.Protocol}
	if by, taken := r.others[key]; taken && by != owner {
		return by, false
	}
	if by, taken := r.owners[key]; taken {
		return by, false
	}
	r.owners[key] = owner
	return owner, true
}

func (r *frontendRun) add(row state.Frontend) {
	r.served[row.Addr] = true
	r.rows = append(r.rows, row)
}

// serviceAddr is an address that a Service is reached at.
type serviceAddr struct {
	addr netip.Addr
	kind state.FrontendKind
}

// labelProxyName names the proxy that serves a Service in kube-proxy's place.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// inside says whether svc's ClusterIPs and node ports are served here.
func (r *frontendRun) inside(svc *state.Service) bool {
	_, others := svc.Labels[labelProxyName]
	return r.in.Inside && !others
}

// addresses returns the addresses of svc itself, each once. (Node ports are at
// the node's.)
func (r *frontendRun) addresses(svc *state.Service) []serviceAddr {
	all := make([]serviceAddr, 0, 4)
	add := func(addrs []netip.Addr, kind state.FrontendKind) {
		for _, a := range addrs {
			a = a.Unmap()
			if !slices.ContainsFunc(all, func(known serviceAddr) bool { return known.addr == a }) {
				all = append(all, serviceAddr{a, kind})
			}
		}
	}
	if svc.Type == "LoadBalancer" {
		add(svc.Ingress, state.KindLoadBalancer)
	}
	add(svc.ExternalIPs, state.KindExternalIP)
	if r.inside(svc) {
		add(svc.ClusterIPs, state.KindClusterIP)
	}
	return all
}

// service adds the frontends of svc.
func (r *frontendRun) service(svc *state.Service) {
	if svc.Type == "ExternalName" || svc.Headless {
		return
	}
	addrs := r.addresses(svc)
	var nodeAddrs []netip.Addr
	if r.inside(svc) && (svc.Type == "NodePort" || svc.Type == "LoadBalancer") {
		nodeAddrs = r.nodePortAddrs(svc)
	}
	for i, port := range svc.Ports {
		var choices [2]*choice // of IPv4 and IPv6
		serve := func(a serviceAddr, number uint16, field string) {
			family := 0
			if a.addr.Is6() {
				family = 1
			}
			if choices[family] == nil {
				choices[family] = r.choose(svc, port, a.addr.Is6())
			}
			r.serve(svc, servicePortAt{i, port, number, field}, a, choices[family])
		}
		for _, a := range addrs {
			serve(a, port.Port, "port")
		}
		if port.NodePort != 0 && len(nodeAddrs) > 0 && !r.forNAT(state.ServiceRef(svc.Name), fmt.Sprintf("spec.ports[%d].nodePort", i), port.NodePort, port.Protocol) {
			for _, a := range nodeAddrs {
				serve(serviceAddr{a, state.KindNodePort}, port.NodePort, "nodePort")
			}
		}
	}
	for _, a := range addrs {
		r.alone = append(r.alone, aloneAddr{a, svc.Name})
	}
}

// servicePortAt is a port of a Service, and the number it has at an address.
type servicePortAt struct {
	index int // in spec.ports
	state.ServicePort
	number uint16
	field  string // of the number
}

func (p servicePortAt) path(field string) string {
	return fmt.Sprintf("spec.ports[%d].%s", p.index, field)
}

// serve adds the frontend of one port of svc at one address.
func (r *frontendRun) serve(svc *state.Service, port servicePortAt, at serviceAddr, c *choice) {
	row := state.Frontend{Addr: at.addr, Port: port.number, Protocol: port.Protocol, Service: svc.Name, PortName: port.Name, Kind: at.kind,
		Affinity: svc.Affinity, TableSize: svc.TableSize,
		Refuse: cmp.Or(svc.Unserved, r.in.Defaults.Unserved) == state.UnservedRefuse}
	ref := state.ServiceRef(svc.Name)
	if by, ok := r.claim(row, ref); !ok {
		if by != ref {
			r.report(ref, port.path(port.field), row.RowKey()+" is served for the older "+by.String(), "give one of the two another port or address")
		}
		return
	}
	chosen := c.outside
	if at.kind == state.KindClusterIP {
		chosen = c.clusterIP
		row.Exposed = r.in.Exposed != nil && r.in.Exposed(svc)
	}
	row.Backends, row.Inside, row.Draining = chosen.backends, chosen.inside, chosen.draining
	row.Forwarding, row.Dispatch = r.forwarding(svc, port, row)
	if at.kind == state.KindLoadBalancer && svc.SourceRanges != nil {
		row.Sources = r.sources(svc, at.addr)
	}
	r.add(row)
}

// sources are the clients of the address's family that svc lets in.
func (r *frontendRun) sources(svc *state.Service, addr netip.Addr) []netip.Prefix {
	sources := []netip.Prefix{}
	for _, p := range svc.SourceRanges {
		if p.Addr().Is6() == addr.Is6() {
			sources = append(sources, p)
		}
	}
	if len(sources) == 0 {
		everybody := "0.0.0.0/0"
		if addr.Is6() {
			everybody = "::/0"
		}
		r.report(state.ServiceRef(svc.Name), svc.SourceRangesField, "has no range of the family of "+addr.String()+": nobody is let in there",
			"add the ranges of its clients, or "+everybody)
	}
	return sources
}

// HoldWhileAnnounced returns the Hold of the Frontends' reconciler: the last
// frontend of an address stays in the kernel until the address is no longer
// announced (DESIGN §1). Its reconciler must Wake on Announcements.
func HoldWhileAnnounced(db *state.DB) func(state.Snapshot, state.Frontend) state.Reason {
	return func(snap state.Snapshot, row state.Frontend) state.Reason {
		if row.Status.Wanted() {
			return ""
		}
		for other := range db.Frontends.By(snap, state.IndexAddr, row.Addr.String()) {
			if other.Status.Wanted() {
				return "" // the address lives on without this port
			}
		}
		for range db.Announcements.By(snap, state.IndexAddr, row.Addr.String()) {
			return state.ReasonStillAnnounced
		}
		for range db.BGPRoutes.By(snap, state.IndexAddr, row.Addr.String()) {
			return state.ReasonStillAnnounced
		}
		return ""
	}
}
