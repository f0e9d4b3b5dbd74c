package kube

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/util/flowcontrol"
)

// events writes Events of events.k8s.io. The same said again within minutes is
// counted in one Event; what comes too fast is dropped. (client-go's recorder
// counts whatever has the same reason in the first Event, whose words stay: of
// two fields it would name one, and of two nodes the earlier.)
type events struct {
	client   eventsclient.EventsV1Interface
	db       *state.DB
	instance string
	pace     flowcontrol.RateLimiter
	queue    chan *eventsv1.Event
	// told are the Events of the last minutes, as they were written. Run's.
	told map[saying]*eventsv1.Event
}

// saying is what makes two Events the same.
type saying struct {
	regarding                  corev1.ObjectReference
	kind, reason, action, note string
}

func sayingOf(e *eventsv1.Event) saying {
	return saying{e.Regarding, e.Type, e.Reason, e.Action, e.Note}
}

// eventsReporter is who the Events come from.
const eventsReporter = "seamark.dev/seamarkd"

// maxQueuedEvents wait to be written; others are dropped.
const maxQueuedEvents = 1000

func newEvents(client kubernetes.Interface, db *state.DB) *events {
	host, _ := os.Hostname() // of an Event that does not say it, the host is not known
	return &events{
		client:   client.EventsV1(),
		db:       db,
		instance: eventsReporter + "-" + host,
		pace:     flowcontrol.NewTokenBucketRateLimiter(eventsQPS, 50*eventsQPS),
		queue:    make(chan *eventsv1.Event, maxQueuedEvents),
		told:     map[saying]*eventsv1.Event{},
	}
}

// run writes events until ctx ends.
func (e *events) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-e.queue:
			e.tell(ctx, event)
		}
	}
}

// tell writes an event. It tries for two minutes while there is no answer: what
// the API server refuses it will refuse again, and an event lost is no news.
func (e *events) tell(ctx context.Context, event *eventsv1.Event) {
	for range 12 {
		var refused apierrors.APIStatus
		err := e.write(ctx, event)
		if err == nil || errors.As(err, &refused) && refused.Status().Code < 500 && !apierrors.IsTooManyRequests(err) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
	}
}

// repeatWindow is how long after it was last said the same is counted, and not
// said anew.
const repeatWindow = 6 * time.Minute

func (e *events) write(ctx context.Context, event *eventsv1.Event) error {
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	now := event.EventTime
	maps.DeleteFunc(e.told, func(_ saying, told *eventsv1.Event) bool {
		last := told.EventTime
		if told.Series != nil {
			last = told.Series.LastObservedTime
		}
		return now.Sub(last.Time) > repeatWindow
	})
	client := e.client.Events(event.Namespace)
	if told, ok := e.told[sayingOf(event)]; ok {
		series := eventsv1.EventSeries{Count: 2, LastObservedTime: now}
		if told.Series != nil {
			series.Count = told.Series.Count + 1
		}
		patch, err := json.Marshal(map[string]any{"series": series})
		if err != nil {
			return err
		}
		_, err = client.Patch(bounded, told.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			told.Series = &series
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err := client.Create(bounded, event, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) { // by a try whose answer was lost
		e.told[sayingOf(event)] = event
		return nil
	}
	return err
}

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
	regarding, now := e.regarding(event), metav1.NowMicro()
	namespace := regarding.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	select {
	case e.queue <- &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: util.GenerateEventName(regarding.Name, now.UnixNano())},
		EventTime:           now,
		ReportingController: eventsReporter,
		ReportingInstance:   e.instance,
		Action:              event.Action,
		Reason:              string(event.Reason),
		Regarding:           *regarding,
		Note:                note,
		Type:                kind,
	}:
	default:
	}
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
