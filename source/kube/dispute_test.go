package kube

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDispute(t *testing.T) {
	const m = time.Minute
	var d *dispute
	look := func(what, manager string, at time.Duration, there bool, gaveInTo string) {
		t.Helper()
		d = d.look(manager, 1, at)
		if (d != nil) != there || d != nil && d.manager != gaveInTo {
			t.Errorf("%s: %+v", what, d)
		}
	}
	look("nobody else wrote", "", 0, false, "")
	look("once", "other", 1*m, true, "")
	look("again much later", "other", 12*m, true, "")
	look("twice within the window", "other", 21*m, true, "other")
	look("still theirs", "other", 30*m, true, "other")
	look("tried again after a while", "other", 32*m, true, "")
	look("and overwritten again", "other", 33*m, true, "other")
	look("another one's", "third", 34*m, true, "")
	look("the other has left", "", 35*m, false, "")
}

func TestIngressManager(t *testing.T) {
	entry := func(manager, fields string, at int64) metav1.ManagedFieldsEntry {
		e := metav1.ManagedFieldsEntry{Manager: manager, Time: &metav1.Time{Time: time.Unix(at, 0)}, FieldsV1: &metav1.FieldsV1{}}
		e.FieldsV1.SetRawString(fields)
		return e
	}
	const balancer = `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`
	for what, tc := range map[string]struct {
		entries []metav1.ManagedFieldsEntry
		want    string
	}{
		"nobody":      {nil, ""},
		"Seamark":     {[]metav1.ManagedFieldsEntry{entry("seamark", balancer, 1)}, ""},
		"other parts": {[]metav1.ManagedFieldsEntry{entry("other", `{"f:spec":{},"f:status":{"f:conditions":{}}}`, 1)}, ""},
		"another":     {[]metav1.ManagedFieldsEntry{entry("seamark", balancer, 2), entry("other", balancer, 1)}, "other"},
		"the last":    {[]metav1.ManagedFieldsEntry{entry("b", balancer, 2), entry("a", balancer, 1)}, "b"},
		"no fields":   {[]metav1.ManagedFieldsEntry{{Manager: "other"}}, ""},
	} {
		if got := ingressManager(tc.entries); got != tc.want {
			t.Errorf("%s: %q, want %q", what, got, tc.want)
		}
	}
}

// Each class of errors is told once per outage; all that is wrong is in err.
func TestOutages(t *testing.T) {
	var told []string
	over := 0
	o := newOutages(func(err error) { told = append(told, err.Error()) }, func() { over++ })
	down := explained{errors.New("down"), "unreachable"}
	o.set("pods", down)
	o.set("nodes", down)
	o.set("pods", explained{errors.New("down, differently"), "unreachable"})
	o.set("leases", errors.New("odd"))
	o.set("leases", errors.New("odd"))
	if want := []string{"down", "odd"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if err := o.err(); err == nil || err.Error() != "down; down, differently; odd" {
		t.Errorf("wrong is: %v", err)
	}
	o.set("pods", nil)
	o.set("nodes", nil)
	if over != 0 {
		t.Error("over although the leases are not")
	}
	o.set("leases", nil)
	o.set("leases", nil)
	if over != 1 || o.err() != nil {
		t.Errorf("over %d times, and %v is wrong", over, o.err())
	}
	o.set("pods", down)
	if len(told) != 3 {
		t.Errorf("told %q: not of the next outage", told)
	}
}

// When the API server is gone, thousands of writes are not tried one by one.
func TestWritesGiveUpTogether(t *testing.T) {
	rows := make([]int, 1000)
	var tried atomic.Int64
	down := fmt.Errorf("write Service x: %w", explained{errors.New("reach API server: down"), classUnreachable})
	errs := concurrently(rows, func(int) error { tried.Add(1); return down })
	if n := tried.Load(); n > concurrentWrites {
		t.Errorf("%d tried", n)
	}
	for i, err := range errs {
		if err == nil {
			t.Fatalf("row %d counts as written", i)
		}
	}
	tried.Store(0)
	other := errors.New("refused")
	if errs := concurrently(rows, func(int) error { tried.Add(1); return other }); tried.Load() != 1000 || errs[999] != other {
		t.Errorf("%d tried; the last: %v", tried.Load(), errs[999])
	}
}
