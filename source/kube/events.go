package kube

import (
	"context"
	"strings"

	"github.com/go-logr/logr"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	eventsclient "k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
)

// events writes Events of events.k8s.io. What repeats within minutes is
// counted in one Event; what comes too fast is dropped.
type events struct {
	db          *state.DB
	broadcaster eventsclient.EventBroadcaster
	recorder    eventsclient.EventRecorder
	pace        flowcontrol.RateLimiter
}

func newEvents(client kubernetes.Interface, db *state.DB) *events {
	broadcaster := eventsclient.NewBroadcaster(&eventsclient.EventSinkImpl{Interface: client.EventsV1()})
	return &events{
		db:          db,
		broadcaster: broadcaster,
		recorder:    broadcaster.NewRecorder(scheme.Scheme, "seamark.dev/seamarkd"),
		pace:        flowcontrol.NewTokenBucketRateLimiter(eventsQPS, 50*eventsQPS),
	}
}

// run writes events until ctx ends.
func (e *events) run(ctx context.Context) {
	quiet := klog.NewContext(ctx, logr.Discard()) // an event that is lost is no news
	if err := e.broadcaster.StartRecordingToSinkWithContext(quiet); err != nil {
		return // the broadcaster was closed
	}
	<-ctx.Done()
}

func (e *events) close() { e.broadcaster.Shutdown() }

// noteSize is how much text an Event holds, in bytes (events/v1).
const noteSize = 1024

func (e *events) record(event source.Event) {
	if !e.pace.TryAccept() {
		return
	}
	kind := corev1.EventTypeNormal
	if event.Warning {
		kind = corev1.EventTypeWarning
	}
	note := event.Message
	if len(note) > noteSize {
		note = strings.ToValidUTF8(note[:noteSize-len("…")], "") + "…"
	}
	e.recorder.Eventf(e.regarding(event), nil, kind, string(event.Reason), event.Action, "%s", note)
}

// regarding names the object as kubectl describe looks its Events up: by UID, too.
func (e *events) regarding(event source.Event) *corev1.ObjectReference {
	o := event.Object
	ref := &corev1.ObjectReference{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, UID: types.UID(event.UID)}
	if kind, ok := source.KindOfRef(o); ok {
		ref.APIVersion = kind.APIVersion()
	} else {
		ref.APIVersion = strings.TrimPrefix(o.Group+"/v1", "/")
	}
	if ref.UID != "" {
		return ref
	}
	snap := e.db.Snapshot()
	switch o.Kind {
	case source.KindService().Kind:
		svc, _ := e.db.Services.Get(snap, source.ObjectKey(o.Namespace, o.Name))
		ref.UID = types.UID(svc.UID)
	case source.KindNode().Kind:
		ref.UID = types.UID(o.Name) // as kubelet's events have it
	default:
		for pool := range e.db.Pools.All(snap) {
			if pool.Origin == o {
				ref.UID = types.UID(pool.UID)
			}
		}
		for policy := range e.db.L2Policies.All(snap) {
			if policy.Origin == o {
				ref.UID = types.UID(policy.UID)
			}
		}
	}
	return ref
}
