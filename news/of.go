package news

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
)

// allocation tells of the addresses that a Service is given and loses, and of
// those that it asks for in vain.
func (t *teller) allocation(was, is *state.Allocation) {
	var row state.Allocation
	switch {
	case is != nil && was != nil && is.SameSpec(*was), is == nil && was == nil:
		return
	case is != nil:
		row = *is
	default:
		row = *was
	}
	svc, ok := t.db.Services.Get(t.now, row.Service.String())
	if !ok {
		return // gone, and nobody to tell
	}
	if was != nil && was.UID != svc.UID {
		was = nil // another Service of the same name
	}
	object := state.ServiceRef(svc.Name)
	had := t.had(was, svc)
	var assigned, released []string
	var has []netip.Addr
	if is != nil {
		has = is.Addrs
		for i, addr := range is.Addrs {
			if !slices.Contains(had, addr) {
				assigned = append(assigned, addr.String()+" of pool "+is.Pools[i])
			}
		}
	}
	held := true
	for _, addr := range had {
		if !slices.Contains(has, addr) {
			released = append(released, addr.String())
			held = held && t.inPool(addr)
		}
	}
	if len(assigned) > 0 {
		t.tell(object, svc.UID, ReasonAddressAssigned, "Allocate", strings.Join(assigned, ", "))
	}
	if len(released) > 0 {
		message := strings.Join(released, ", ")
		switch {
		case is == nil:
			t.tell(object, svc.UID, ReasonAddressReleased, "Release", message+": the Service is no longer for Seamark to serve")
		case !held:
			t.warn(object, svc.UID, ReasonAddressReleased, "Release", message+": no pool holds it any longer; add a block that does, to have it back")
		default:
			t.tell(object, svc.UID, ReasonAddressReleased, "Release", message+": the Service does not ask for it any longer, or may not share it")
		}
	}
	if is != nil && is.Reason != state.ReasonSatisfied && (was == nil || was.Reason != is.Reason || was.Message != is.Message) {
		t.warn(object, svc.UID, is.Reason, "Allocate", is.Message)
	}
}

// had returns the addresses that svc had before: by the decision, or, when
// there was none, by its status.
func (t *teller) had(was *state.Allocation, svc state.Service) []netip.Addr {
	if was != nil {
		return was.Addrs
	}
	if before := source(t, t.db.Services, svc.RowKey()); before != nil && before.UID == svc.UID {
		return before.Ingress
	}
	return nil
}

func (t *teller) inPool(addr netip.Addr) bool {
	for p := range t.db.Pools.All(t.now) {
		if p.Holds(addr) {
			return true
		}
	}
	return false
}

// assignment tells which node announces an address when it is another than
// before, and that none does.
func (t *teller) assignment(was, is *state.Assignment) {
	if was == nil && is != nil {
		was = source(t, t.db.Assigned, is.RowKey()) // by the coordinator before this one
	}
	switch {
	case is == nil && was != nil:
		svc, ok := t.db.Services.Get(t.now, was.Service.String())
		// Not of one that has lost the address, nor of one that BGP advertises.
		if ok && svc.Type == "LoadBalancer" && svc.Class != v1alpha1.ClassBGP && slices.Contains(svc.Ingress, was.Addr) {
			t.warn(state.ServiceRef(svc.Name), svc.UID, ReasonNotAnnounced, "Withdraw",
				fmt.Sprintf("%s is withdrawn from node %s: no L2Policy announces it any longer", was.Addr, was.Node))
		}
	case is == nil, was != nil && was.Node == is.Node && was.Generation == is.Generation:
	case is.Node == "":
		t.warn(state.ServiceRef(is.Service), t.serviceUID(is.Service), ReasonNotAnnounced, "Withdraw",
			fmt.Sprintf("no node may announce %s: see that one which an L2Policy selects has its interface up on the address's subnet, and, with externalTrafficPolicy Local, a ready pod", is.Addr))
	default:
		message := fmt.Sprintf("%s is announced by node %s on %s", is.Addr, is.Node, strings.Join(is.Interfaces, ", "))
		if is.Previous != "" && is.Previous != is.Node {
			message += fmt.Sprintf(", instead of node %s: %s", is.Previous, is.Reason)
		}
		t.tell(state.ServiceRef(is.Service), t.serviceUID(is.Service), ReasonAnnounced, "Announce", message)
	}
}

func (t *teller) serviceUID(name state.ObjectName) string {
	svc, _ := t.db.Services.Get(t.now, name.String())
	return svc.UID
}

// pool tells what keeps a pool from giving addresses.
func (t *teller) pool(was, is *state.PoolStatus) {
	if is == nil {
		return
	}
	if was == nil {
		was = &state.PoolStatus{}
	}
	pool, ok := t.db.Pools.Get(t.now, is.Pool)
	if !ok {
		return
	}
	if is.Invalid != "" && is.Invalid != was.Invalid {
		t.warn(pool.Origin, pool.UID, ReasonInvalid, "KeepLastSpec", is.Invalid)
	}
	if is.Conflict != "" && is.Conflict != was.Conflict {
		t.warn(pool.Origin, pool.UID, ReasonConflict, "StopAllocating", is.Conflict)
	}
	if is.Available == "0" && is.Total != "0" && was.Available != "0" && !pool.Disabled {
		t.warn(pool.Origin, pool.UID, ReasonExhausted, "Allocate",
			fmt.Sprintf("%s of %s addresses are in use: add a block, or release an address", is.Used, is.Total))
	}
}

// policy tells of a spec that does not parse. What else is wrong with a policy
// is one of the coordinator's Problems.
func (t *teller) policy(was, is *state.PolicyStatus) {
	if is == nil || was != nil && was.SameSpec(*is) {
		return
	}
	if policy, ok := t.db.L2Policies.Get(t.now, is.Policy); ok && policy.Invalid != "" {
		t.warn(policy.Origin, policy.UID, ReasonInvalid, "KeepLastSpec", policy.Invalid)
	}
}

// backend tells of a backend that is down, and of one that is up again.
func (t *teller) backend(was, is *state.BackendHealth) {
	if is == nil || was == nil && is.Up || was != nil && was.Up == is.Up {
		return
	}
	object, at := state.ServiceRef(is.Service), netip.AddrPortFrom(is.Addr, is.Port)
	if is.Up {
		t.tell(object, t.serviceUID(is.Service), ReasonBackendUp, "Serve", fmt.Sprintf("backend %s answers its health check again", at))
		return
	}
	t.warn(object, t.serviceUID(is.Service), ReasonBackendDown, "LeaveOut",
		fmt.Sprintf("backend %s fails its health check (%s) and gets no packets until it is up again", at, is.Err))
}

func (t *teller) problem(was, is *state.Problem) {
	if is == nil || was != nil {
		return
	}
	message := is.Message
	if is.Field != "" {
		message = is.Field + ": " + message
	}
	if is.Cure != "" {
		message += "; " + is.Cure
	}
	t.warn(is.Object, t.uid(is.Object), ReasonNotHonoured, "Ignore", message)
}

// uid of an object that has a row, "" when it has none.
func (t *teller) uid(object state.ObjectRef) string {
	if object.Group == "" && object.Kind == "Service" {
		return t.serviceUID(state.ObjectName{Namespace: object.Namespace, Name: object.Name})
	}
	for p := range t.db.Pools.All(t.now) {
		if p.Origin == object {
			return p.UID
		}
	}
	for p := range t.db.L2Policies.All(t.now) {
		if p.Origin == object {
			return p.UID
		}
	}
	return ""
}
