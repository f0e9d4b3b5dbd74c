package source

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLeftTo(t *testing.T) {
	agent := func(product string, role state.AgentRole) state.Agent {
		return state.Agent{Object: state.ObjectRef{Group: "apps", Kind: "DaemonSet", Namespace: "metallb-system", Name: "speaker"}, Product: product, Role: role}
	}
	pool := Kind{Group: GroupMetalLB, Kind: "IPAddressPool"}
	for _, tc := range []struct {
		kind   Kind
		agents []state.Agent
		want   bool
	}{
		{pool, nil, false},
		{pool, []state.Agent{agent("MetalLB", state.AgentAnnounces)}, true},
		{pool, []state.Agent{agent("MetalLB", state.AgentAllocates)}, true},
		{pool, []state.Agent{agent("Cilium", state.AgentAnnounces)}, false},
		{Kind{Group: GroupCilium}, []state.Agent{agent("Cilium", state.AgentCNI)}, false},
		{Kind{Group: GroupCilium}, []state.Agent{agent("Cilium", state.AgentCNI), agent("Cilium", state.AgentAnnounces)}, true},
		{KindIPPool(), []state.Agent{agent("MetalLB", state.AgentAnnounces)}, false},
	} {
		if by, got := LeftTo(tc.kind, slices.Values(tc.agents)); got != tc.want {
			t.Errorf("%v with %v: left %v to %v, want %v", tc.kind.key(), tc.agents, got, by, tc.want)
		}
	}
}

// While MetalLB runs its objects have no rows but a problem each; they have
// rows in the moment that it is gone.
func TestObjectsLeftToOthers(t *testing.T) {
	db, w := state.New()
	tables := NewTables(db, slog.New(slog.DiscardHandler))
	kind := Kind{Group: GroupMetalLB, Kind: "Unheard"}
	tables.follow(kind, newRows(db.Pools, func(_ state.Reader, o *corev1.ConfigMap) ([]state.Pool, Problems) {
		return []state.Pool{{Name: o.Name}}, nil
	}))
	object := func(name string) any {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "m", Name: name}}
	}
	check := func(what string, pools, problems int) {
		t.Helper()
		snap := db.Snapshot()
		if p, q := db.Pools.Rows(snap), db.SourceProblems.Rows(snap); len(p) != pools || len(q) != problems {
			t.Errorf("%s: pools %v, problems %v; want %d and %d", what, p, q, pools, problems)
		}
	}
	speaker := state.Agent{Object: state.ObjectRef{Kind: "DaemonSet", Namespace: "m", Name: "speaker"}, Product: state.ProductMetalLB, Role: state.AgentAnnounces}
	put := func(names ...string) {
		objects := map[string]any{}
		for _, name := range names {
			objects["m/"+name] = object(name)
		}
		w.Update(func(tx *state.Tx) { tables.Replace(tx, kind, objects) })
	}
	put("a", "b")
	check("alone", 2, 0)
	w.Update(func(tx *state.Tx) {
		db.Agents.Put(tx, speaker)
		tables.Agree(tx)
	})
	check("MetalLB runs", 0, 2)
	put("a", "b")
	check("MetalLB runs, and the objects are put again", 0, 2)
	put("b")
	check("an object less", 0, 1)
	w.Update(func(tx *state.Tx) { tables.Remove(tx, kind, "m/b") })
	check("removed", 0, 0)
	put("b")
	w.Update(func(tx *state.Tx) {
		db.Agents.Delete(tx, speaker.RowKey())
		tables.Agree(tx)
	})
	check("MetalLB is gone", 1, 0)
	put()
	check("and so is the object", 0, 0)
}
