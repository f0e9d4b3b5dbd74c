package kube

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// feed follows one kind: a client-go reflector that puts what it hears
// straight into the tables, so that no second copy of the objects is kept.
type feed struct {
	name   string // unique; for outages
	kind   source.Kind
	lists  listWatch
	into   sink
	writer *state.Writer
	// maxWait bounds the wait between two tries at a list or watch that fails.
	maxWait time.Duration
	// failed is told why the kind cannot be followed, nil when it is.
	failed func(error)
	// turned is told from when on a watch brings changes to the tables (true), and
	// when it ends. Nil: nobody.
	turned func(on bool)
	// reached is told which version the tables have come to, setBack that
	// versions begin anew. Nil: nobody.
	reached func(revision int64)
	setBack func()

	// beginning: the watch still brings what there is. The reflector's.
	beginning bool

	mu     sync.Mutex
	held   map[string]int64 // version of each object, by source.ObjectKey
	upTo   int64            // all versions up to this one are in the tables
	synced bool
}

// sink is where a feed's objects go. Its methods are called within one update
// after another.
type sink interface {
	put(tx *state.Tx, name string, obj any)
	remove(tx *state.Tx, name string)
	// replace makes objects all there is.
	replace(tx *state.Tx, objects map[string]any)
}

var _ interface {
	cache.ReflectorStore
	cache.ReflectorBookmarkStore
} = (*feed)(nil)

// run follows the kind until ctx ends.
func (f *feed) run(ctx context.Context) {
	quiet := logr.Discard() // what matters of it, failed is told
	reflector := cache.NewReflectorWithOptions(&cache.ListWatch{ListWithContextFunc: f.list, WatchFuncWithContext: f.watch},
		nil, f, cache.ReflectorOptions{Name: f.name, Logger: &quiet, Backoff: &wait.Backoff{
			Duration: min(f.maxWait, 500*time.Millisecond), Cap: f.maxWait, Factor: 2, Steps: 10,
			Jitter: 0.5, // all nodes lose the API server at once
		}})
	reflector.RunWithContext(klog.NewContext(ctx, quiet))
	f.failed(nil)
}

// revision of a resourceVersion: an API server's are those of its etcd, which
// may be compared (KEP-5504). 0 when it is none.
func revision(resourceVersion string) int64 {
	n, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(obj any) error {
	name, version, err := identify(obj)
	if err != nil {
		return err
	}
	f.writer.Update(func(tx *state.Tx) { f.into.put(tx, name, obj) })
	f.note(version, func() { f.held[name] = version })
	return nil
}

// Update implements cache.ReflectorStore.
func (f *feed) Update(obj any) error { return f.Add(obj) }

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(obj any) error {
	name, version, err := identify(obj)
	if err != nil {
		return err
	}
	f.writer.Update(func(tx *state.Tx) { f.into.remove(tx, name) })
	f.note(version, func() { delete(f.held, name) })
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *feed) Replace(list []any, resourceVersion string) error {
	objects, held := make(map[string]any, len(list)), make(map[string]int64, len(list))
	for _, obj := range list {
		name, version, err := identify(obj)
		if err != nil {
			return err
		}
		objects[name], held[name] = obj, version
	}
	f.writer.Update(func(tx *state.Tx) { f.into.replace(tx, objects) })
	f.note(revision(resourceVersion), func() {
		if now := revision(resourceVersion); now < f.upTo {
			// The store was set back: its versions begin anew.
			f.upTo = now
			if f.setBack != nil {
				f.setBack()
			}
		}
		f.held, f.synced = held, true
	})
	if f.beginning && f.turned != nil {
		f.turned(true)
	}
	f.beginning = false
	return nil
}

// Bookmark implements cache.ReflectorBookmarkStore.
func (f *feed) Bookmark(resourceVersion string) error {
	f.note(revision(resourceVersion), func() {})
	return nil
}

// Resync implements cache.ReflectorStore: there is no resync.
func (f *feed) Resync() error { return nil }

// note records that the tables have come to the version.
func (f *feed) note(version int64, change func()) {
	f.mu.Lock()
	change()
	f.upTo = max(f.upTo, version)
	upTo := f.upTo
	f.mu.Unlock()
	if f.reached != nil {
		f.reached(upTo)
	}
}

// version of the object that the tables hold; 0: they hold none.
func (f *feed) version(name string) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[name]
}

// without says whether the tables hold all objects, and none of that name.
func (f *feed) without(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, held := f.held[name]
	return f.synced && !held
}

func identify(obj any) (name string, version int64, err error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return "", 0, fmt.Errorf("read object: %w", err)
	}
	return source.ObjectKey(m.GetNamespace(), m.GetName()), revision(m.GetResourceVersion()), nil
}

// list tries again by itself, and soon, while the first list cannot be had: until
// all is known this node renews no lease, and a daemon that was started during
// an outage would lose its addresses to those that know already.
func (f *feed) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	for refused := 0; ; {
		list, err := f.lists.list(ctx, options)
		if err == nil || ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return list, err
		}
		f.failed(err)
		if apierrors.IsForbidden(err) {
			refused++ // an API server that has just started knows no rights yet
		}
		if f.listed() || !unreachable(err) && (refused == 0 || refused > maxRefused) || pause(ctx, hasty/2+rand.N(hasty/2)) != nil {
			return nil, err
		}
	}
}

// maxRefused is how often a first list that is forbidden is tried again soon.
const maxRefused = 8

// listed says whether the tables hold, or have held, all objects.
func (f *feed) listed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced
}

func (f *feed) watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	w, err := f.lists.watch(ctx, options)
	switch {
	case err == nil:
		f.failed(nil)
		if f.beginning = options.SendInitialEvents != nil; f.turned != nil {
			if !f.beginning {
				f.turned(true)
			}
			w = &turning{Interface: w, off: func() { f.turned(false) }}
		}
		return w, nil
	case options.SendInitialEvents != nil:
		// A list is tried next, and says what is wrong. (Servers before 1.34 may
		// know no watch that begins with what there is.)
	case ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err):
		f.failed(err)
	}
	if options.SendInitialEvents != nil && (utilnet.IsConnectionRefused(err) || apierrors.IsTooManyRequests(err)) {
		// These the reflector would wait out by itself, deaf to the end of ctx.
		return nil, fmt.Errorf("begin watch: %v", err)
	}
	return nil, err
}

// turning is a watch that tells of its end.
type turning struct {
	watch.Interface
	off func()
}

// Stop is called by the reflector also when the watch has ended by itself.
func (t *turning) Stop() {
	t.off()
	t.Interface.Stop()
}
