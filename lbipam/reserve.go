package lbipam

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// reservation is why LB-IPAM does not give an address: who has it, as "the
// address of node a". service is set when another field of a Service's has it.
type reservation struct {
	holder  string
	service state.ObjectName
}

// reserve is an address of a pool that a Service has by another field, or from
// another load balancer.
type reserve struct {
	addr   netip.Addr
	holder string // "" for a clusterIP, which Holders names
}

// reserveAll records which addresses of pools others have.
func (a *Allocator) reserveAll(in Inputs) {
	for addr, h := range state.Holders(in.Services, in.Nodes, in.Leases, nil) {
		if a.index.find(addr) != nil {
			a.reserved[addr] = []reservation{{holder: h.String()}}
		}
	}
	for i := range in.Services {
		svc := &in.Services[i]
		reserves := a.reservedBy(svc)
		if len(reserves) == 0 {
			continue
		}
		a.reserves[svc.Name] = reserves
		for _, r := range reserves {
			if r.holder != "" {
				a.reserved[r.addr] = append(a.reserved[r.addr], reservation{r.holder, svc.Name})
			}
		}
	}
	for _, all := range a.reserved {
		slices.SortFunc(all, func(r, s reservation) int {
			return cmp.Or(r.service.Compare(s.service), strings.Compare(r.holder, s.holder))
		})
	}
}

// reservedBy returns the addresses of pools that svc has besides those that
// LB-IPAM gives it.
func (a *Allocator) reservedBy(svc *state.Service) []reserve {
	var all []reserve
	add := func(addrs []netip.Addr, holder string) {
		for _, addr := range addrs {
			if a.index.find(addr.Unmap()) != nil {
				all = append(all, reserve{addr.Unmap(), holder})
			}
		}
	}
	add(svc.ClusterIPs, "")
	if len(svc.ExternalIPs) > 0 {
		add(svc.ExternalIPs, "in spec.externalIPs of Service "+svc.Name.String())
	}
	if svc.Type == "LoadBalancer" && len(svc.Ingress) > 0 && !a.in.serves(*svc) {
		whose := "of loadBalancerClass " + svc.Class
		if by := a.in.Left.Service(*svc); by != "" {
			whose = "which is left to " + by
		}
		add(svc.Ingress, "in the status of Service "+svc.Name.String()+", "+whose)
	}
	return all
}

// reservedFrom returns who but c has the address, "" when nobody has.
func (a *Allocator) reservedFrom(c *claim, addr netip.Addr) string {
	for _, r := range a.reserved[addr] {
		if r.service != c.svc.Name {
			return r.holder
		}
	}
	return ""
}
