package kube_test

import (
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Events are where kubectl describe finds them, and what repeats is one: not
// what has the same reason, and says something else.
func TestEvents(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	svc := c.mustCreate(t, plainService("web"))[0]
	waitServices(t, db, "web")
	service := state.ServiceRef(state.ObjectName{Namespace: "default", Name: "web"})
	pool := state.ObjectRef{Group: "seamark.dev", Kind: "IPPool", Name: "blue"}
	for range 3 {
		src.Event(source.Event{Object: service, Reason: "AddressAssigned", Action: "Allocate", Message: strings.Repeat("é", 600)})
	}
	src.Event(source.Event{Object: service, Reason: "AddressAssigned", Action: "Allocate", Message: "another"})
	src.Event(source.Event{Object: pool, UID: "u-1", Warning: true, Reason: "PoolExhausted", Action: "Allocate", Message: "100% full"})
	kind := source.Kind{Group: "events.k8s.io", Version: "v1", Plural: "events", Namespaced: true}
	var of map[string]unstructured.Unstructured
	eventually(t, "the events", func() bool {
		list, err := c.of(kind, "default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		of = map[string]unstructured.Unstructured{}
		for _, e := range list.Items {
			reason, _, _ := unstructured.NestedString(e.Object, "reason")
			if note, _, _ := unstructured.NestedString(e.Object, "note"); note == "another" {
				reason += " of another"
			}
			of[reason] = e
		}
		count, _, _ := unstructured.NestedInt64(of["AddressAssigned"].Object, "series", "count")
		return len(of) == 3 && len(list.Items) == 3 && count == 3
	})
	if series, ok := of["AddressAssigned of another"].Object["series"]; ok {
		t.Errorf("the other is told once, not as %v", series)
	}
	field := func(reason string, path ...string) string {
		v, _, _ := unstructured.NestedString(of[reason].Object, path...)
		return v
	}
	if got := field("AddressAssigned", "regarding", "uid"); got != string(svc.GetUID()) {
		t.Errorf("uid %q, want %q", got, svc.GetUID())
	}
	if got := field("AddressAssigned", "type") + " " + field("AddressAssigned", "regarding", "apiVersion"); got != "Normal v1" {
		t.Errorf("event %v", got)
	}
	if got := field("PoolExhausted", "type") + " " + field("PoolExhausted", "note") + " " + field("PoolExhausted", "regarding", "uid") + " " +
		field("PoolExhausted", "regarding", "apiVersion"); got != "Warning 100% full u-1 seamark.dev/v1alpha1" {
		t.Errorf("event %v", got)
	}
}
