package datapath

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/seamark-lb/seamark/state"
)

// nodeAddrs are the addresses of this node that node ports and host ports are
// served on: its InternalIPs and what the devices have that carry one, or that
// the programs are attached to; or for node ports, of all its addresses, those
// in the prefixes.
func nodeAddrs(db *state.DB, snap state.Snapshot, node state.Node, chosen []netip.Prefix) (nodePort, hostPort []netip.Addr) {
	devices := db.Devices.Rows(snap)
	carried := state.CarriedBy(db.Services.All(snap))
	internal := slices.DeleteFunc(slices.Clone(node.Addrs), func(a netip.Addr) bool {
		return a.IsLoopback() || a.IsLinkLocalUnicast()
	})
	with := func(own []netip.Addr) []netip.Addr {
		all := slices.Concat(own, internal)
		for i := range all {
			all[i] = all[i].Unmap()
		}
		slices.SortFunc(all, netip.Addr.Compare)
		return slices.Compact(all)
	}
	outside := slices.DeleteFunc(slices.Clone(devices), func(d state.Device) bool {
		if _, attached := db.Attachments.Get(snap, d.Name); attached {
			return false
		}
		return !slices.ContainsFunc(d.Prefixes, func(p netip.Prefix) bool { return slices.Contains(node.Addrs, p.Addr()) })
	})
	hostPort = with(state.OwnAddrs(outside, carried))
	if len(chosen) == 0 {
		return hostPort, hostPort
	}
	nodePort = slices.DeleteFunc(with(state.OwnAddrs(devices, carried)), func(a netip.Addr) bool {
		return !slices.ContainsFunc(chosen, func(p netip.Prefix) bool { return p.Contains(a) })
	})
	return nodePort, hostPort
}

// nodePortAddrs are the addresses that the node ports of svc are served on: those
// of the families it has.
func (r *frontendRun) nodePortAddrs(svc *state.Service) []netip.Addr {
	if !slices.ContainsFunc(svc.Ports, func(p state.ServicePort) bool { return p.NodePort != 0 }) {
		return nil
	}
	if len(r.in.NodePortAddrs) == 0 {
		message, cure := "has no address that node ports could be served on", "give the Node an InternalIP"
		if len(r.in.Defaults.NodePortAddresses) > 0 {
			message, cure = "has no address in --node-port-addresses: its node ports are not served", "add a prefix of its addresses"
		}
		r.report(state.NodeRef(r.in.Node.Name), "", message, cure)
	}
	var addrs []netip.Addr
	for _, a := range r.in.NodePortAddrs {
		if svc.HasFamily(a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// forNAT says whether a port of this node is none to serve something on, and
// reports it.
func (r *frontendRun) forNAT(ref state.ObjectRef, field string, port uint16, protocol state.Protocol) bool {
	if port < firstNATPort {
		return false
	}
	r.report(ref, field, strconv.Itoa(int(port))+"/"+protocol.String()+" is not served: ports from "+strconv.Itoa(firstNATPort)+" are for translated flows",
		"use a lower port")
	return true
}

// hostPorts adds the frontends of the pod's host ports.
func (r *frontendRun) hostPorts(pod state.Endpoint) {
	if !pod.Status.Wanted() {
		return
	}
	const field = "spec.containers[].ports[].hostPort"
	ref := state.ObjectRef{Kind: "Pod", Namespace: pod.Pod.Namespace, Name: pod.Pod.Name}
	for _, p := range pod.HostPorts {
		if r.forNAT(ref, field, p.Port, p.Protocol) {
			continue
		}
		addrs := r.in.HostPortAddrs
		if p.Addr.IsValid() {
			if !slices.Contains(addrs, p.Addr) {
				r.report(ref, field, "host port "+p.String()+" is not served: the address is none that other machines reach this node by",
					"remove hostIP, or write one of the node's addresses")
				continue
			}
			addrs = []netip.Addr{p.Addr}
		}
		backends := []state.Backend{{Addr: pod.Addr, Port: p.Target, Node: r.in.Node.Name, Ready: true, Serving: true}}
		for _, a := range addrs {
			if a.Is6() != pod.Addr.Is6() {
				continue
			}
			row := state.Frontend{Addr: a, Port: p.Port, Protocol: p.Protocol, Kind: state.KindHostPort,
				// No port of a Service has such a name.
				Service: pod.Pod, PortName: netip.AddrPortFrom(pod.Addr, p.Target).String(),
				Backends: backends, Inside: backends, Forwarding: state.ForwardDSR, Dispatch: state.DispatchIPIP,
				Refuse: r.in.Defaults.Unserved == state.UnservedRefuse}
			if by, ok := r.claim(row, ref); !ok {
				r.report(ref, field, row.RowKey()+" is served for "+by.String(), "give one of the two another port")
				continue
			}
			r.add(row)
		}
	}
}
