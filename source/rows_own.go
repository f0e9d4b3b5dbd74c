package source

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PoolRow is the row of an IPPool. When the spec is wrong in spite of
// validation (written past us), Invalid says so and the ranges are those of
// last, the row there was (nil: none): the addresses given out of them stay.
func PoolRow(p *v1alpha1.IPPool, last *state.Pool) state.Pool {
	row := state.Pool{
		Name:              p.Name,
		Origin:            KindIPPool().ref(p.Name),
		UID:               string(p.UID),
		Labels:            p.Labels,
		Created:           p.CreationTimestamp.Time,
		ServiceSelector:   p.Spec.ServiceSelector,
		NamespaceSelector: p.Spec.NamespaceSelector,
		Disabled:          p.Spec.Disabled,
		AutoAssign:        p.Spec.AutoAssign == nil || *p.Spec.AutoAssign,
		AvoidBuggyIPs:     p.Spec.AvoidBuggyIPs,
		Priority:          p.Spec.Priority,
		Conditions:        p.Status.Conditions,
	}
	ranges, problems := poolRanges(&p.Spec)
	problems = append(problems, poolSelectors(&p.Spec)...)
	if len(problems) > 0 {
		row.Invalid = oneLine(problems)
		if last != nil {
			row.Ranges = last.Ranges
		}
	} else {
		row.Ranges = ranges
	}
	return row
}

func oneLine(ps Problems) string { return strings.ReplaceAll(ps.Error(), "\n", "; ") }

// poolRanges reads spec.blocks. Host bits of a CIDR are ignored, as in Cilium.
func poolRanges(spec *v1alpha1.IPPoolSpec) ([]state.Range, Problems) {
	var problems Problems
	ranges := make([]state.Range, 0, len(spec.Blocks))
	if len(spec.Blocks) == 0 {
		problems.add("spec.blocks", "add a block, such as cidr: 192.168.10.0/28", "is empty")
	}
	whole := make([]state.Range, len(spec.Blocks)) // with first and last; for overlaps
	for i, b := range spec.Blocks {
		path := fmt.Sprintf("spec.blocks[%d]", i)
		r, ok := blockRange(&problems, path, b)
		if !ok {
			continue
		}
		for j, other := range whole[:i] {
			if other.From.IsValid() && r.Overlaps(other) {
				problems.add(path, "make the blocks apart, or remove one", "%s overlaps spec.blocks[%d] (%s)", r, j, other)
			}
		}
		whole[i] = r
		if b.CIDR != "" && spec.AllowFirstLastIPs == "No" && r.From.Next() != r.To && r.From != r.To {
			r = state.Range{From: r.From.Next(), To: r.To.Prev()}
		}
		ranges = append(ranges, r)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return ranges, nil
}

func blockRange(problems *Problems, path string, b v1alpha1.IPBlock) (state.Range, bool) {
	before := len(*problems)
	var r state.Range
	switch {
	case b.CIDR != "" && (b.Start != "" || b.Stop != ""):
		problems.add(path, "remove cidr, or start and stop", "is both a CIDR and a range")
		return r, false
	case b.CIDR == "" && b.Start == "":
		problems.add(path, "write cidr, or start and stop", "is neither a CIDR nor a range")
		return r, false
	case b.CIDR != "":
		checkPrefix(problems, path+".cidr", b.CIDR)
		if prefix, err := netip.ParsePrefix(b.CIDR); err == nil {
			r = state.Range{From: prefix.Masked().Addr(), To: lastAddr(prefix)}
		}
	default:
		r.From, _ = checkAddr(problems, path+".start", b.Start)
		r.To = r.From
		if b.Stop != "" {
			r.To, _ = checkAddr(problems, path+".stop", b.Stop)
		}
	}
	if len(*problems) > before {
		return r, false
	}
	switch {
	case r.From.BitLen() != r.To.BitLen():
		problems.add(path, "write both as IPv4 or both as IPv6", "start %s and stop %s are of different families", r.From, r.To)
	case r.To.Less(r.From):
		problems.add(path, "swap them", "start %s is after stop %s", r.From, r.To)
	case notOutside(r.From) || notOutside(r.To):
		problems.add(path, "choose addresses that other machines can send to", "%s holds addresses that cannot be announced (unspecified, loopback, multicast, broadcast or IPv6 link-local)", r)
	}
	return r, len(*problems) == before
}

// lastAddr is the highest address of the prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := range b {
		hostBits := min(max((i+1)*8-p.Bits(), 0), 8)
		b[i] |= byte(1<<hostBits - 1)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// L2PolicyRow is the row of an L2Policy. When the spec is wrong in spite of
// validation, Invalid says so and the rest is that of last, the row there was
// (nil: none; then the policy selects nothing).
func L2PolicyRow(p *v1alpha1.L2Policy, last *state.L2Policy) state.L2Policy {
	if problems := checkL2Policy(&p.Spec); len(problems) > 0 {
		row := state.L2Policy{}
		if last != nil {
			row = *last
		}
		row.Name, row.Origin, row.UID = p.Name, KindL2Policy().ref(p.Name), string(p.UID)
		row.Created, row.Conditions = p.CreationTimestamp.Time, p.Status.Conditions
		row.Invalid = oneLine(problems)
		return row
	}
	var preferred []state.NodePreference
	for _, p := range p.Spec.PreferredNodes {
		preferred = append(preferred, state.NodePreference{Selector: p.NodeSelector.DeepCopy(), Weight: max(p.Weight, 1)})
	}
	return state.L2Policy{
		Name:            p.Name,
		Origin:          KindL2Policy().ref(p.Name),
		UID:             string(p.UID),
		Created:         p.CreationTimestamp.Time,
		ServiceSelector: p.Spec.ServiceSelector,
		NodeSelector:    p.Spec.NodeSelector,
		Interfaces:      p.Spec.Interfaces,
		LoadBalancerIPs: p.Spec.LoadBalancerIPs,
		ExternalIPs:     p.Spec.ExternalIPs,
		Pools:           p.Spec.Pools,
		PoolSelector:    p.Spec.PoolSelector,
		Preferred:       preferred,
		Failback:        p.Spec.Failback,
		Withdraw:        p.Spec.WithoutBackends == v1alpha1.WithoutBackendsWithdraw,
		Conditions:      p.Status.Conditions,
	}
}

// leaseInterface is state.LeaseInterface in the Lease's annotation.
type leaseInterface struct {
	Name     string         `json:"name"`
	MAC      string         `json:"mac,omitempty"`
	Up       bool           `json:"up"`
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	Gateways []netip.Addr   `json:"gateways,omitempty"`
	Heard    []string       `json:"heard,omitempty"`
	Silent   []string       `json:"silent,omitempty"`
	Gateway  state.Hearing  `json:"gateway,omitempty"`
}

// leasePeer is state.LeasePeer in the Lease's annotation.
type leasePeer struct {
	Peer        string `json:"peer"`
	Sessions    int    `json:"sessions"`
	Established int    `json:"established"`
	Why         string `json:"why,omitempty"`
}

// SetNodeLease writes row into a Lease: all but metadata's own fields and the
// keys of others. renewed is by the node's clock, and is kept later than the
// renewal before, so that every renewal shows. The duration is in whole
// seconds, rounded up.
func SetNodeLease(lease *coordinationv1.Lease, row state.NodeLease, renewed time.Time) {
	lease.Namespace, lease.Name = Namespace, row.Node
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	lease.Labels[v1alpha1.LabelNodeLease] = row.Node
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	interfaces := make([]leaseInterface, len(row.Interfaces))
	for i, in := range row.Interfaces {
		interfaces[i] = leaseInterface(in)
	}
	data, err := json.Marshal(interfaces)
	if err != nil {
		panic(fmt.Sprintf("encode lease interfaces: %v", err)) // strings, bools and prefixes always encode
	}
	lease.Annotations[v1alpha1.AnnotationInterfaces] = string(data)
	if data, err = json.Marshal(row.Addrs); err != nil {
		panic(fmt.Sprintf("encode lease addresses: %v", err)) // addresses always encode
	}
	lease.Annotations[v1alpha1.AnnotationAddresses] = string(data)
	peers := make([]leasePeer, len(row.Peers))
	for i, p := range row.Peers {
		peers[i] = leasePeer(p)
	}
	if data, err = json.Marshal(peers); err != nil {
		panic(fmt.Sprintf("encode lease sessions: %v", err)) // strings and integers always encode
	}
	if lease.Annotations[v1alpha1.AnnotationBGP] = string(data); len(peers) == 0 {
		delete(lease.Annotations, v1alpha1.AnnotationBGP)
	}
	lease.Annotations[v1alpha1.AnnotationIdentity] = row.Identity
	for annotation, is := range map[string]bool{v1alpha1.AnnotationReleased: row.Released, v1alpha1.AnnotationAppliance: row.Appliance} {
		delete(lease.Annotations, annotation)
		if is {
			lease.Annotations[annotation] = "true"
		}
	}
	renewed = renewed.Truncate(time.Microsecond)
	if last := lease.Spec.RenewTime; last != nil && !renewed.After(last.Time) {
		renewed = last.Add(time.Microsecond)
	}
	if lease.Spec.AcquireTime == nil {
		lease.Spec.AcquireTime = &metav1.MicroTime{Time: renewed}
	}
	lease.Spec.RenewTime = &metav1.MicroTime{Time: renewed}
	lease.Spec.HolderIdentity = &row.Node
	seconds := int32((row.Duration + time.Second - 1) / time.Second)
	lease.Spec.LeaseDurationSeconds = &seconds
}

// SetDrained writes into a node's Lease that the node is to have no addresses,
// or may have them again, and returns whether that changes anything.
func SetDrained(lease metav1.Object, drained bool, now time.Time) bool {
	annotations := maps.Clone(lease.GetAnnotations())
	if _, was := annotations[v1alpha1.AnnotationDrain]; was == drained {
		return false
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	if drained {
		annotations[v1alpha1.AnnotationDrain] = now.UTC().Format(time.RFC3339)
	} else {
		delete(annotations, v1alpha1.AnnotationDrain)
	}
	lease.SetAnnotations(annotations)
	return true
}

// IsNodeLease says whether row was made of the lease as it is: of the same renewal.
func IsNodeLease(lease *coordinationv1.Lease, row state.NodeLease) bool {
	now, _, ok := NodeLeaseRow(lease)
	return ok && now.Node == row.Node && now.Renewal == row.Renewal
}

// NodeLeaseRow is the row of a node's Lease. ok is false for Leases that are
// not a node's, such as an election's.
func NodeLeaseRow(lease *coordinationv1.Lease) (row state.NodeLease, problems Problems, ok bool) {
	node := lease.Labels[v1alpha1.LabelNodeLease]
	if node == "" || lease.Namespace != Namespace {
		return row, nil, false
	}
	_, drained := lease.Annotations[v1alpha1.AnnotationDrain]
	row = state.NodeLease{Node: node, Identity: lease.Annotations[v1alpha1.AnnotationIdentity], Released: lease.Annotations[v1alpha1.AnnotationReleased] == "true", Drained: drained,
		Appliance: lease.Annotations[v1alpha1.AnnotationAppliance] == "true"}
	if s := lease.Spec.LeaseDurationSeconds; s != nil {
		row.Duration = time.Duration(*s) * time.Second
	}
	if t := lease.Spec.RenewTime; t != nil {
		row.Renewal = t.UTC().Format(time.RFC3339Nano)
	}
	var interfaces []leaseInterface
	if text := lease.Annotations[v1alpha1.AnnotationInterfaces]; text != "" {
		if err := json.Unmarshal([]byte(text), &interfaces); err != nil {
			problems.add("metadata.annotations["+v1alpha1.AnnotationInterfaces+"]", "let the node's daemon renew it", "does not decode: %v", err)
		}
	}
	for _, in := range interfaces {
		row.Interfaces = append(row.Interfaces, state.LeaseInterface(in))
	}
	if text := lease.Annotations[v1alpha1.AnnotationAddresses]; text != "" {
		if err := json.Unmarshal([]byte(text), &row.Addrs); err != nil {
			row.Addrs = nil // some of them may have been read
			problems.add("metadata.annotations["+v1alpha1.AnnotationAddresses+"]", "let the node's daemon renew it", "does not decode: %v", err)
		}
	}
	var peers []leasePeer
	if text := lease.Annotations[v1alpha1.AnnotationBGP]; text != "" {
		if err := json.Unmarshal([]byte(text), &peers); err != nil {
			peers = nil // some of them may have been read
			problems.add("metadata.annotations["+v1alpha1.AnnotationBGP+"]", "let the node's daemon renew it", "does not decode: %v", err)
		}
	}
	for _, p := range peers {
		row.Peers = append(row.Peers, state.LeasePeer(p))
	}
	return row, problems, true
}
