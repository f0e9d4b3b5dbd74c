package kube

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// kindCRD is apiextensions.k8s.io/v1 CustomResourceDefinition.
func kindCRD() source.Kind {
	return source.Kind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition", Plural: "customresourcedefinitions"}
}

// crds is which of other projects' kinds the API server has. It is the sink of
// a feed of CRDs' metadata, which does not say which versions are served: that
// is asked when a CRD has changed.
type crds struct {
	foreign map[string]bool // names of the CRDs that matter
	woken   chan struct{}   // holds a token when one has changed

	mu     sync.Mutex
	listed bool
	served map[string]string // version to read of those that are there, "" for none
	asked  map[string]bool   // those that have not changed since they were asked about
}

func newCRDs() *crds {
	c := &crds{foreign: map[string]bool{}, woken: make(chan struct{}, 1), served: map[string]string{}, asked: map[string]bool{}}
	for _, k := range source.ForeignKinds() {
		c.foreign[crdOf(k)] = true
	}
	return c
}

func crdOf(k source.Kind) string { return k.Plural + "." + k.Group }

func (c *crds) put(_ *state.Tx, name string, _ any) {
	if !c.foreign[name] {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served[name] += "" // it is there
	delete(c.asked, name)
	c.wake()
}

func (c *crds) remove(_ *state.Tx, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.served, name)
	delete(c.asked, name)
	c.wake()
}

func (c *crds) replace(_ *state.Tx, objects map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = true
	clear(c.asked)
	maps.DeleteFunc(c.served, func(name, _ string) bool { return objects[name] == nil })
	for name := range objects {
		if c.foreign[name] {
			c.served[name] += ""
		}
	}
	c.wake()
}

func (c *crds) wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// versionOf says which version of the kind to read, "" for none, and whether
// its CRD is there; known is false while that is still to be found out.
func (c *crds) versionOf(k source.Kind) (version string, there, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	version, there = c.served[crdOf(k)]
	return version, there, c.listed && (!there || c.asked[crdOf(k)])
}

// toAsk takes the kinds whose CRDs are to be asked about.
func (c *crds) toAsk(kinds []source.Kind) []source.Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ask []source.Kind
	for _, k := range kinds {
		if _, there := c.served[crdOf(k)]; there && !c.asked[crdOf(k)] {
			c.asked[crdOf(k)] = true
			ask = append(ask, k)
		}
	}
	return ask
}

// answer records what asking about the kind has brought.
func (c *crds) answer(k source.Kind, version string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		delete(c.asked, crdOf(k))
	} else if _, there := c.served[crdOf(k)]; there {
		c.served[crdOf(k)] = version
	}
}

// foreignFeed is a feed of another project's kind, as it was started.
type foreignFeed struct {
	version string // of the kind that is read
	stop    func() // returns when it has ended
}

// followCRDs follows other projects' kinds for as long as the API server has
// them, until ctx ends. Agents are known before the first object is read.
func (s *Source) followCRDs(ctx context.Context) {
	var feed sync.WaitGroup
	defer feed.Wait()
	feed.Go(func() {
		s.follow(ctx, s.bareFeed(crdFeed, kindCRD(), reading(s.clients.metadata.Resource(resource(kindCRD()))), s.crds))
	})
	var kinds []source.Kind
	for _, k := range s.tables.Kinds() {
		if k.Foreign() {
			kinds = append(kinds, k)
		}
	}
	running := map[string]*foreignFeed{}
	defer func() {
		for _, f := range running {
			f.stop()
		}
	}()
	for {
		const again = hasty
		var retry <-chan time.Time
		if !s.askCRDs(ctx, kinds) {
			retry = time.After(again)
		}
		snap := s.db.Snapshot()
		if s.db.Agents.Synced(snap) {
			for _, k := range kinds {
				s.settle(ctx, running, k)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case <-s.crds.woken:
		case <-s.db.MarksChanged(snap):
		}
	}
}

// crdFeed is the name of the feed of CRDs.
const crdFeed = "customresourcedefinitions"

// settle starts, restarts or stops following a kind, as its CRD is now.
func (s *Source) settle(ctx context.Context, running map[string]*foreignFeed, kind source.Kind) {
	version, there, known := s.crds.versionOf(kind)
	if !known {
		return
	}
	now := running[crdOf(kind)]
	if there && version == "" && now != nil && now.version != "" {
		return // its objects are there, and cannot be read: what is known of them stays in force
	}
	if now != nil && now.version == version {
		return
	}
	if now != nil {
		now.stop()
	}
	started := &foreignFeed{version: version, stop: func() {}}
	running[crdOf(kind)] = started
	if version == "" {
		// Nothing of the kind exists; said, so that its table can be synced.
		s.writer.Update(func(tx *state.Tx) { s.tables.Replace(tx, kind, nil) })
		return
	}
	kind.Version = version
	started.stop = s.start(ctx, s.newFeed(kind))
}

// askCRDs asks which versions are served, of the kinds whose CRDs have
// changed. It returns whether all were answered.
func (s *Source) askCRDs(ctx context.Context, kinds []source.Kind) bool {
	all := true
	for _, k := range s.crds.toAsk(kinds) {
		version, err := s.servedVersion(ctx, k)
		s.crds.answer(k, version, err)
		if ctx.Err() == nil {
			s.outages.set(crdFeed+" "+crdOf(k), s.clients.explain("read", kindCRD(), err))
		}
		all = all && err == nil
	}
	return all
}

// servedVersion is which of the kind's versions that Seamark reads is served,
// "" for none.
func (s *Source) servedVersion(ctx context.Context, kind source.Kind) (string, error) {
	bounded, cancel := s.cfg.bounded(ctx)
	defer cancel()
	crd, err := s.clients.dynamic.Resource(resource(kindCRD())).Get(bounded, crdOf(kind), metav1.GetOptions{})
	if ctx.Err() != nil {
		return "", ctx.Err() // which says nothing of what is served
	}
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", causeOf(bounded, err)
	}
	served := servedVersions(crd)
	for _, version := range append([]string{kind.Version}, kind.OtherVersions...) {
		if slices.Contains(served, version) {
			return version, nil
		}
	}
	if len(served) > 0 {
		s.log.Warn("a kind is there only in versions that Seamark does not read", "kind", crdOf(kind),
			"served", served, "read", append([]string{kind.Version}, kind.OtherVersions...))
	}
	return "", nil
}

// servedVersions of a CRD; none before it is established.
func servedVersions(crd *unstructured.Unstructured) []string {
	established := slices.ContainsFunc(source.ConditionsOf(crd), func(c metav1.Condition) bool {
		return c.Type == "Established" && c.Status == metav1.ConditionTrue
	})
	if !established {
		return nil
	}
	var served []string
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	for _, v := range versions {
		if v, ok := v.(map[string]any); ok && v["served"] == true {
			name, _ := v["name"].(string)
			served = append(served, name)
		}
	}
	return served
}
