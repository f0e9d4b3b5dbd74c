package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// noSink keeps nothing.
type noSink struct{}

func (noSink) put(*state.Tx, string, any)        {}
func (noSink) remove(*state.Tx, string)          {}
func (noSink) replace(*state.Tx, map[string]any) {}

func newTestFeed() *feed {
	_, w := state.New()
	return &feed{into: noSink{}, writer: w, held: map[string]int64{}, failed: func(error) {}}
}

func pod(name string, version int) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, ResourceVersion: fmt.Sprint(version)}}
}

// What a watch brings before it has brought what there is, is not in the
// tables: only then does it count.
func TestTurned(t *testing.T) {
	f := newTestFeed()
	var turns []bool
	f.turned = func(on bool) { turns = append(turns, on) }
	f.lists.watch = func(context.Context, metav1.ListOptions) (watch.Interface, error) { return watch.NewFake(), nil }
	check := func(what string, want ...bool) {
		t.Helper()
		if !slices.Equal(turns, want) {
			t.Errorf("%s: turns %v, want %v", what, turns, want)
		}
		turns = nil
	}
	begin := func(initial *bool) watch.Interface {
		w, err := f.watch(t.Context(), metav1.ListOptions{SendInitialEvents: initial})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	yes := true
	w := begin(&yes)
	check("it brings what there is")
	if err := f.Replace(nil, "5"); err != nil {
		t.Fatal(err)
	}
	check("it has brought what there is", true)
	w.Stop()
	check("it ended", false)
	begin(nil)
	check("it goes on where it was", true)
	if err := f.Replace(nil, "6"); err != nil {
		t.Fatal(err)
	}
	check("a list")
}

// A daemon that is started during an outage has the first list within a second
// of the API server's return, however long that takes; later lists are left to
// the reflector, which is in less of a hurry.
func TestFirstListIsSoon(t *testing.T) {
	gone := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no rights yet"))
	for name, tc := range map[string]struct {
		err    error
		synced bool
		tries  int // 0: until the API server is back
	}{
		"unreachable":       {gone, false, 0},
		"and was known":     {gone, true, 1},
		"just started":      {forbidden, false, maxRefused + 1},
		"something else":    {errors.New("odd"), false, 1},
		"forbidden, as was": {forbidden, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newTestFeed()
				f.synced = tc.synced
				back := time.Now().Add(time.Minute)
				tries := 0
				f.lists.list = func(context.Context, metav1.ListOptions) (runtime.Object, error) {
					tries++
					if time.Now().Before(back) {
						return nil, tc.err
					}
					return &corev1.PodList{}, nil
				}
				_, err := f.list(t.Context(), metav1.ListOptions{})
				if tc.tries > 0 {
					if tries != tc.tries || err != tc.err {
						t.Errorf("%d tries, then %v; want %d", tries, err, tc.tries)
					}
				} else if late := time.Since(back); err != nil || late > hasty {
					t.Errorf("listed %v after it was back: %v", late, err)
				}
			})
		})
	}
}

func TestFeedHas(t *testing.T) {
	f := newTestFeed()
	check := func(what string, want bool, revision int64, objects map[string]int64) {
		t.Helper()
		then := standing{revision: revision, objects: objects}
		for _, version := range objects {
			then.newest = max(then.newest, version)
		}
		if got := f.has(then); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check("nothing was listed", false, 9, nil)
	must(f.Replace([]any{pod("a", 5), pod("b", 6)}, "9"))
	check("all of it", true, 9, map[string]int64{"n/a": 5, "n/b": 6})
	check("a change is on its way", false, 11, map[string]int64{"n/a": 11, "n/b": 6})
	must(f.Update(pod("a", 11)))
	check("the change has come", true, 11, map[string]int64{"n/a": 11, "n/b": 6})
	check("a deletion is on its way", false, 12, map[string]int64{"n/a": 11})
	must(f.Delete(pod("b", 12)))
	check("the deletion has come", true, 12, map[string]int64{"n/a": 11})
	must(f.Add(pod("c", 13)))
	check("there is more by now", true, 12, map[string]int64{"n/a": 11})
	must(f.Delete(pod("a", 14)))
	check("it was deleted after the question", true, 12, map[string]int64{"n/a": 11})
	check("others' objects move the version", true, 99, map[string]int64{"n/c": 13})
	back := false
	f.setBack = func() { back = true }
	must(f.Replace([]any{pod("a", 3)}, "4"))
	if !back {
		t.Error("it was not noticed that the store was set back")
	}
	check("a change of the store that was set back", false, 6, map[string]int64{"n/a": 6})
}
