package source_test

import (
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// store is Tables over a DB, told of objects as an engine tells it.
type store struct {
	t      *testing.T
	db     *state.DB
	writer *state.Writer
	tables *source.Tables
}

func newStore(t *testing.T) store {
	db, writer := state.New()
	return store{t, db, writer, source.NewTables(db, slog.New(slog.DiscardHandler))}
}

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	manifests, err := source.ReadObjects("f.yaml", strings.NewReader(text))
	if err != nil || len(manifests) != 1 {
		t.Fatalf("%d objects: %v", len(manifests), err)
	}
	return manifests[0].Object
}

// put puts the object twice: as each of the engines has it.
func (s store) put(text string) source.Kind {
	s.t.Helper()
	obj := parse(s.t, text)
	kind, err := source.KindOf(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := obj.MarshalJSON()
	if err != nil {
		s.t.Fatal(err)
	}
	name := source.ObjectKey(obj.GetNamespace(), obj.GetName())
	s.writer.Update(func(tx *state.Tx) { s.tables.Put(tx, kind, name, data) })
	before := fmt.Sprint(s.pools(), s.policies(), s.problems())
	s.writer.Update(func(tx *state.Tx) { s.tables.Put(tx, kind, name, obj) })
	if after := fmt.Sprint(s.pools(), s.policies(), s.problems()); after != before {
		s.t.Errorf("%s is\n%s\nas JSON, and\n%s\nas an object", name, before, after)
	}
	return kind
}

func (s store) problems() []string {
	var all []string
	for p := range s.db.SourceProblems.All(s.db.Snapshot()) {
		all = append(all, p.String())
	}
	slices.Sort(all)
	return all
}

func (s store) pools() map[string]state.Pool {
	rows := map[string]state.Pool{}
	for p := range s.db.Pools.All(s.db.Snapshot()) {
		rows[p.Name] = p
	}
	return rows
}

func (s store) policies() map[string]state.L2Policy {
	rows := map[string]state.L2Policy{}
	for p := range s.db.L2Policies.All(s.db.Snapshot()) {
		rows[p.Name] = p
	}
	return rows
}

func TestForeignPools(t *testing.T) {
	s := newStore(t)
	s.put(`{apiVersion: seamark.dev/v1alpha1, kind: IPPool, metadata: {name: blue}, spec: {blocks: [{cidr: 10.9.0.0/24}]}}`)
	s.put(`
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: blue, uid: u1, labels: {a: b}, creationTimestamp: "2026-01-02T03:04:05Z"}
spec: {blocks: [{cidr: 10.0.0.0/29}], allowFirstLastIPs: "No", disabled: true}
status: {conditions: [{type: cilium.io/PoolConflict, status: "False", reason: resolved, message: "", lastTransitionTime: "2026-01-02T03:04:05Z"}]}`)
	metallb := `
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: blue, namespace: metallb-system, uid: u2}
spec: {addresses: [%s], autoAssign: false, avoidBuggyIPs: true, unknown: field}`
	s.put(strings.Replace(metallb, "%s", "10.1.0.0-10.1.0.9", 1))

	rows := s.pools()
	if names := slices.Sorted(maps.Keys(rows)); !slices.Equal(names, []string{"CiliumLoadBalancerIPPool/blue", "IPAddressPool/metallb-system/blue", "blue"}) {
		t.Fatalf("rows %q", names)
	}
	c := rows["CiliumLoadBalancerIPPool/blue"]
	if c.Origin != (state.ObjectRef{Group: "cilium.io", Kind: "CiliumLoadBalancerIPPool", Name: "blue"}) || c.UID != "u1" || c.Labels["a"] != "b" ||
		c.Created.Year() != 2026 || len(c.Conditions) != 1 || !c.Disabled || !c.AutoAssign || c.Invalid != "" || c.Ranges[0].String() != "10.0.0.1–10.0.0.6" {
		t.Errorf("Cilium's pool is %+v", c)
	}
	m := rows["IPAddressPool/metallb-system/blue"]
	if m.Origin != (state.ObjectRef{Group: "metallb.io", Kind: "IPAddressPool", Namespace: "metallb-system", Name: "blue"}) || m.UID != "u2" ||
		m.AutoAssign || !m.AvoidBuggyIPs || m.Invalid != "" || m.Ranges[0].String() != "10.1.0.0–10.1.0.9" || !m.Called("blue") {
		t.Errorf("MetalLB's pool is %+v", m)
	}
	if got := s.problems(); len(got) != 1 || !strings.HasPrefix(got[0], "ipaddresspool/metallb-system/blue: spec.unknown: ") {
		t.Errorf("problems %q", got)
	}

	// Wrong now: what was given stays, and the reason is at their field.
	for addresses, want := range map[string]string{
		"10.2.0.0/99":               "spec.addresses[0]: ",
		"10.2.0.0/24, 10.2.0.0/25":  "spec.addresses[1]: ",
		"10.2.0.9-10.2.0.1":         "spec.addresses[0]: ",
		"":                          "spec.addresses: ",
		"224.0.0.0/24, 10.2.0.0/25": "spec.addresses[0]: ",
	} {
		s.put(strings.Replace(metallb, "%s", addresses, 1))
		m = s.pools()["IPAddressPool/metallb-system/blue"]
		if !strings.HasPrefix(m.Invalid, want) || len(m.Ranges) != 1 || m.Ranges[0].String() != "10.1.0.0–10.1.0.9" || m.UID != "u2" {
			t.Errorf("with addresses %q: %+v, want Invalid %q and the last ranges", addresses, m, want)
		}
	}
	kind := s.put(strings.Replace(metallb, "%s", "10.3.0.0/30", 1))
	if m = s.pools()["IPAddressPool/metallb-system/blue"]; m.Invalid != "" || m.Ranges[0].String() != "10.3.0.0–10.3.0.3" {
		t.Errorf("mended, it is %+v", m)
	}
	s.writer.Update(func(tx *state.Tx) { s.tables.Replace(tx, kind, nil) })
	if rows = s.pools(); len(rows) != 2 || len(s.problems()) != 0 {
		t.Errorf("after it is gone: %v, %q", rows, s.problems())
	}
}

func TestForeignPolicies(t *testing.T) {
	s := newStore(t)
	s.put(`
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: l2, uid: u1}
spec: {loadBalancerIPs: true, externalIPs: true, interfaces: [^eth1$], nodeSelector: {matchLabels: {a: b}}}`)
	metallb := `
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: l2, namespace: metallb-system, uid: u2}
spec: {interfaces: [eth0.7], ipAddressPools: [p], nodeSelectors: %s}`
	s.put(strings.Replace(metallb, "%s", "[{matchLabels: {a: b}}, {matchLabels: {a: c}}]", 1))
	// Its name is that of no row of the other.
	s.put(`{apiVersion: metallb.io/v1beta1, kind: L2Advertisement, metadata: {name: l2-2, namespace: metallb-system}}`)

	const first, second = "L2Advertisement/metallb-system/l2", "L2Advertisement/metallb-system/l2/2"
	rows := s.policies()
	if names := slices.Sorted(maps.Keys(rows)); !slices.Equal(names, []string{"CiliumL2AnnouncementPolicy/l2", first, "L2Advertisement/metallb-system/l2-2", second}) {
		t.Fatalf("rows %q", names)
	}
	c := rows["CiliumL2AnnouncementPolicy/l2"]
	if !c.LoadBalancerIPs || !c.ExternalIPs || c.Interfaces[0] != "^eth1$" || c.NodeSelector.MatchLabels["a"] != "b" || c.UID != "u1" || c.Origin.Kind != "CiliumL2AnnouncementPolicy" {
		t.Errorf("Cilium's policy is %+v", c)
	}
	for name, node := range map[string]string{first: "b", second: "c"} {
		p := rows[name]
		if !p.LoadBalancerIPs || p.ExternalIPs || p.Interfaces[0] != `^eth0\.7$` || !slices.Equal(p.Pools, []string{"p"}) ||
			p.NodeSelector.MatchLabels["a"] != node || p.UID != "u2" || p.Origin.String() != "l2advertisement/metallb-system/l2" {
			t.Errorf("%s is %+v", name, p)
		}
	}

	// Wrong now: it announces what it did.
	s.put(strings.Replace(metallb, "%s", "wrong", 1))
	for name, node := range map[string]string{first: "b", second: "c"} {
		if p := s.policies()[name]; !strings.HasPrefix(p.Invalid, "spec.nodeSelectors: ") || p.NodeSelector.MatchLabels["a"] != node {
			t.Errorf("wrong, %s is %+v", name, p)
		}
	}
	kind := s.put(strings.Replace(metallb, "%s", "[]", 1))
	if p, ok := s.policies()[first]; !ok || p.Invalid != "" || p.NodeSelector != nil {
		t.Errorf("mended, it is %+v", p)
	}
	if _, ok := s.policies()[second]; ok {
		t.Error("the second row is left")
	}
	s.writer.Update(func(tx *state.Tx) { s.tables.Remove(tx, kind, "metallb-system/l2") })
	if _, ok := s.policies()[first]; ok {
		t.Error("the row of a removed object is left")
	}

	// Wrong from the start: it announces nothing, and says why.
	s.put(strings.Replace(metallb, "%s", "wrong", 1))
	if p := s.policies()[first]; p.Invalid == "" || p.LoadBalancerIPs {
		t.Errorf("it is %+v", p)
	}
}

// A table is synced when every kind whose rows it has was heard of.
func TestTablesAreSynced(t *testing.T) {
	s := newStore(t)
	synced := func() bool {
		snap := s.db.Snapshot()
		return s.db.Pools.Synced(snap) && s.db.BFDProfiles.Synced(snap) && s.db.BGPInstances.Synced(snap) && s.db.BGPPeers.Synced(snap) && s.db.BGPAdvertisements.Synced(snap)
	}
	for _, kind := range s.tables.Kinds() {
		if synced() {
			t.Fatalf("synced before %s was heard of", kind.Kind)
		}
		s.writer.Update(func(tx *state.Tx) { s.tables.Replace(tx, kind, nil) })
	}
	if !synced() {
		t.Error("not synced with all kinds")
	}
}

// Every kind of another project that there is can be followed and admitted.
func TestForeignKindsAreFollowed(t *testing.T) {
	tables := newStore(t).tables
	for _, kind := range source.ForeignKinds() {
		if !slices.ContainsFunc(tables.Kinds(), func(k source.Kind) bool { return k.Group == kind.Group && k.Kind == kind.Kind }) {
			t.Errorf("nobody follows %s", kind.Kind)
		}
		for _, version := range append(kind.OtherVersions, kind.Version) {
			obj := &unstructured.Unstructured{Object: map[string]any{"apiVersion": kind.Group + "/" + version, "kind": kind.Kind, "metadata": map[string]any{"name": "x"}}}
			for _, p := range source.Admit(obj) {
				if p.Field == "kind" || p.Field == "apiVersion" {
					t.Errorf("%s %s: %v", version, kind.Kind, p)
				}
			}
		}
	}
}

func TestUnhonoured(t *testing.T) {
	for manifest, want := range map[string]string{
		`{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: p, namespace: m}, spec: {addresses: [10.0.0.0/24], new: 1}}`:                   "IPAddressPool m/p: spec.new: ",
		`{apiVersion: metallb.io/v1beta1, kind: Community, metadata: {name: c, namespace: m}}`:                                                                 "",
		`{apiVersion: metallb.io/v1beta2, kind: BGPPeer, metadata: {name: b, namespace: m}, spec: {myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, password: p}}`: "BGPPeer m/b: spec.password: ",
		`{apiVersion: seamark.dev/v1alpha1, kind: BFDProfile, metadata: {name: b}}`:                                                                            "",
		`{apiVersion: seamark.dev/v1alpha1, kind: BFDProfile, metadata: {name: b}, spec: {transmitInterval: 20}}`:                                              "BFDProfile b: spec.transmitInterval: ",
		`{apiVersion: v1, kind: Service, metadata: {name: s, annotations: {service.cilium.io/type: ClusterIP}}}`:                                               "Service default/s: metadata.annotations[service.cilium.io/type]: ",
		`{apiVersion: v1, kind: Service, metadata: {name: s, annotations: {lbipam.cilium.io/ips: 10.0.0.1}}}`:                                                  "",
		`{apiVersion: seamark.dev/v1alpha1, kind: IPPool, metadata: {name: p}, spec: {blocks: [{cidr: 10.0.0.0/24}]}}`:                                         "",
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}`:                                                                                         "",
		`{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 10.0.0.0/24}], disabled: false}}`:              "",
	} {
		got := source.Unhonoured(parse(t, manifest))
		if (want == "") != (len(got) == 0) || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0].Error(), want)) {
			t.Errorf("%s: %q, want %q", manifest, got, want)
		}
	}
}

func TestForeignPoolStatus(t *testing.T) {
	cilium := state.Pool{Origin: state.ObjectRef{Group: "cilium.io", Kind: "CiliumLoadBalancerIPPool", Name: "p"}}
	fields, conditions := source.ForeignPoolStatus(cilium, state.PoolStatus{Total: "5", Available: "4", Used: "1"}, nil)
	want := []metav1.Condition{
		{Type: "cilium.io/PoolConflict", Status: "False", Reason: "resolved"},
		{Type: "cilium.io/IPsTotal", Status: "Unknown", Reason: "noreason", Message: "5"},
		{Type: "cilium.io/IPsAvailable", Status: "Unknown", Reason: "noreason", Message: "4"},
		{Type: "cilium.io/IPsUsed", Status: "Unknown", Reason: "noreason", Message: "1"},
	}
	if fields != nil || !slices.Equal(conditions, want) {
		t.Errorf("%v, %v", fields, conditions)
	}
	if _, conditions = source.ForeignPoolStatus(cilium, state.PoolStatus{Conflict: "older"}, nil); conditions[0] !=
		(metav1.Condition{Type: "cilium.io/PoolConflict", Status: "True", Reason: "cidr_overlap", Message: "older"}) {
		t.Errorf("in conflict: %+v", conditions[0])
	}

	both := ranges("10.0.0.1", "10.0.0.9", "fd00::1", "fd00::9")
	for name, test := range map[string]struct {
		ranges          []state.Range
		used, available string
		given           []netip.Addr
		want            [4]int64 // assigned 4, available 4, assigned 6, available 6
	}{
		"IPv4":                       {both[:1], "1", "8", nil, [4]int64{1, 8, 0, 0}},
		"IPv6":                       {both[1:], "2", "7", nil, [4]int64{0, 0, 2, 7}},
		"both":                       {both, "3", "15", addrs("10.0.0.1", "fd00::1", "fd00::2", "fd00::2"), [4]int64{1, 8, 2, 7}},
		"closed, so that none is":    {both, "2", "0", addrs("10.0.0.1", "fd00::1"), [4]int64{1, 0, 1, 0}},
		"more than an int64 can say": {ranges("fd00::", "fd00::ffff:ffff:ffff:ffff"), "0", "18446744073709551616", nil, [4]int64{0, 0, 0, math.MaxInt64}},
		"not counted yet":            {both, "", "", nil, [4]int64{}},
	} {
		pool := state.Pool{Origin: state.ObjectRef{Group: "metallb.io", Kind: "IPAddressPool"}, Ranges: test.ranges}
		fields, conditions := source.ForeignPoolStatus(pool, state.PoolStatus{Used: test.used, Available: test.available}, slices.Values(test.given))
		got := map[string]any{"assignedIPv4": test.want[0], "availableIPv4": test.want[1], "assignedIPv6": test.want[2], "availableIPv6": test.want[3]}
		if !maps.Equal(fields, got) || conditions != nil {
			t.Errorf("%s: %v, want %v", name, fields, got)
		}
	}
	if fields, conditions := source.ForeignPoolStatus(state.Pool{}, state.PoolStatus{}, nil); fields != nil || conditions != nil {
		t.Errorf("of our own pool: %v %v", fields, conditions)
	}
}

// What is written on a pool's object, by the kind it is of.
func TestForeignPoolStatusChange(t *testing.T) {
	s := newStore(t)
	s.put(`{apiVersion: cilium.io/v2, kind: CiliumLoadBalancerIPPool, metadata: {name: p}, spec: {blocks: [{cidr: 10.0.0.0/29}], new: field}}`)
	s.put(`{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: p, namespace: m}, spec: {addresses: [10.1.0.0/29, "fd00::/125"]}}`)
	const metallb = "IPAddressPool/m/p"
	s.writer.Update(func(tx *state.Tx) {
		s.db.Allocations.Put(tx, state.Allocation{Service: state.ObjectName{Namespace: "default", Name: "web"},
			Addrs: addrs("10.1.0.0", "fd00::1", "10.9.0.0"), Pools: []string{metallb, metallb, "other"}})
	})

	change, ok := source.PoolStatusChange(s.db, s.db.Snapshot(), state.PoolStatus{Pool: "CiliumLoadBalancerIPPool/p", Total: "8", Available: "8", Used: "0"})
	var types []string
	for _, c := range change.Conditions {
		types = append(types, c.Type+"="+string(c.Status))
	}
	if !ok || change.Kind.Kind != "CiliumLoadBalancerIPPool" || change.Name != "p" || change.Fields != nil || !slices.Equal(types, []string{
		"cilium.io/PoolConflict=False", "cilium.io/IPsTotal=Unknown", "cilium.io/IPsAvailable=Unknown", "cilium.io/IPsUsed=Unknown", "seamark.dev/Accepted=False"}) {
		t.Errorf("Cilium's: %+v, %q", change, types)
	}

	change, ok = source.PoolStatusChange(s.db, s.db.Snapshot(), state.PoolStatus{Pool: metallb, Total: "16", Available: "14", Used: "2"})
	if !ok || change.Kind.Kind != "IPAddressPool" || change.Namespace != "m" || change.Name != "p" || change.Conditions != nil ||
		!maps.Equal(change.Fields, map[string]any{"assignedIPv4": int64(1), "availableIPv4": int64(7), "assignedIPv6": int64(1), "availableIPv6": int64(7)}) {
		t.Errorf("MetalLB's: %+v", change)
	}
}

func ranges(ends ...string) []state.Range {
	var all []state.Range
	for i := 0; i < len(ends); i += 2 {
		all = append(all, state.Range{From: netip.MustParseAddr(ends[i]), To: netip.MustParseAddr(ends[i+1])})
	}
	return all
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}
