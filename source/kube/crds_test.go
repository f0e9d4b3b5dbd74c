package kube

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// newTestSource is a Source, not running, of an API server that answers so.
func newTestSource(t *testing.T, answer http.HandlerFunc) *Source {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	content := `{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: "` + server.URL +
		`"}}], contexts: [{name: c, context: {cluster: c, user: ""}}]}`
	if err := os.WriteFile(kubeconfig, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	db, w := state.New()
	s, err := New(Config{Kubeconfig: kubeconfig}, db, w, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A daemon that stops while it asks has not heard that the kind is gone.
func TestStopWhileAsking(t *testing.T) {
	s := newTestSource(t, http.NotFound)
	kind := source.ForeignKinds()[0]
	s.crds.replace(nil, map[string]any{crdOf(kind): struct{}{}})
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if s.askCRDs(stopped, []source.Kind{kind}) {
		t.Error("it was answered")
	}
	if version, _, known := s.crds.versionOf(kind); known {
		t.Errorf("version %q is known", version)
	}
	if err := s.Err(); err != nil {
		t.Errorf("an outage: %v", err)
	}
	if !s.askCRDs(t.Context(), []source.Kind{kind}) {
		t.Error("it was not answered")
	}
	if version, _, known := s.crds.versionOf(kind); !known || version != "" {
		t.Errorf("version %q, known %v; want none", version, known)
	}
}

// A CRD that does not serve a version that Seamark reads has not taken its
// objects along, as one that is gone has.
func TestVersionNoLongerServed(t *testing.T) {
	s := newTestSource(t, http.NotFound)
	kind := source.ForeignKinds()[0]
	stopped := false
	running := map[string]*foreignFeed{crdOf(kind): {version: kind.Version, stop: func() { stopped = true }}}
	s.crds.replace(nil, map[string]any{crdOf(kind): struct{}{}})
	s.crds.toAsk([]source.Kind{kind})
	s.crds.answer(kind, "", nil)
	if s.settle(t.Context(), running, kind); stopped {
		t.Error("it is no longer followed, though its CRD is there")
	}
	s.crds.remove(nil, crdOf(kind))
	if s.settle(t.Context(), running, kind); !stopped {
		t.Error("it is followed without its CRD")
	}
}

// A kind that is no longer followed while its tables are caught up with, as
// when its CRD goes, is not waited for; one that is followed anew is.
func TestCatchUpWithWhatEnds(t *testing.T) {
	asked := make(chan struct{}, 100)
	s := newTestSource(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"9"},
			"items":[{"metadata":{"name":"p","namespace":"n","resourceVersion":"8"}}]}`))
		asked <- struct{}{}
	})
	kind := source.ForeignKinds()[0]
	follow := func(version int) context.CancelFunc {
		f := s.newFeed(kind)
		f.into = noSink{}
		if err := f.Replace(nil, "7"); err != nil {
			t.Fatal(err)
		}
		if err := f.Add(pod("p", version)); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.feeds[f.name] = f
		s.mu.Unlock()
		return func() {
			s.mu.Lock()
			delete(s.feeds, f.name)
			s.mu.Unlock()
		}
	}
	for _, then := range []string{"ends", "is followed anew"} {
		end := follow(6)
		caughtUp := make(chan struct{})
		go func() {
			s.catchUp(t.Context(), kind)
			close(caughtUp)
		}()
		<-asked
		select {
		case <-caughtUp:
			t.Error("it is behind, and was not waited for")
		default:
		}
		if then == "ends" {
			end()
		} else {
			end = follow(8)
		}
		select {
		case <-caughtUp:
		case <-time.After(time.Minute):
			t.Fatalf("a feed that %s is waited for", then)
		}
		end()
	}
}
