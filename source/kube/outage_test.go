package kube_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func plainService(name string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {ports: [{port: 80}]}}", name)
}

func waitServices(t *testing.T, db *state.DB, names ...string) {
	t.Helper()
	conformance.Wait(t, db, fmt.Sprintf("services %v", names), func(snap state.Snapshot) bool {
		n := 0
		for svc := range db.Services.All(snap) {
			if svc.Name.Name != "kubernetes" {
				n++
			}
		}
		for _, name := range names {
			if _, ok := db.Services.Get(snap, "default/"+name); !ok {
				return false
			}
		}
		return n == len(names)
	})
}

func renew(t *testing.T, src *kube.Source) error {
	t.Helper()
	return src.RenewLease(t.Context(), state.NodeLease{Node: "n1", Duration: 3 * time.Second})
}

// read waits until LastRead has passed the moment of the call.
func read(t *testing.T, src *kube.Source) {
	t.Helper()
	since := source.Boottime()
	eventually(t, "LastRead passes", func() bool {
		if err := renew(t, src); err != nil {
			t.Fatal(err)
		}
		return src.LastRead() >= since
	})
	if last := src.LastRead(); last > source.Boottime() {
		t.Errorf("last read %v, which is to come", last)
	}
}

// The API server goes away and comes back: what is known stays in force,
// LastRead stands still, and everything is caught up with.
func TestOutage(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	c.mustCreate(t, plainService("a"))
	c.mustCreate(t, "{apiVersion: seamark.dev/v1alpha1, kind: IPPool, metadata: {name: p}, spec: {blocks: [{cidr: 10.0.0.0/30}]}}")
	waitServices(t, db, "a")
	read(t, src)
	if err := src.Check(t.Context()); err != nil {
		t.Error(err)
	}
	// Versions go on that the watches of most kinds do not hear of: when the API
	// server is back, they are too old for it (410 Gone).
	for range 50 {
		if err := renew(t, src); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.api.Stop(); err != nil {
		t.Fatal(err)
	}
	stopped := source.Boottime()
	eventually(t, "the source says what is wrong", func() bool {
		err := src.Err()
		return err != nil && strings.Contains(err.Error(), "reach API server") && strings.Contains(err.Error(), "--kubeconfig")
	})
	for range 3 {
		if err := renew(t, src); err == nil || !strings.Contains(err.Error(), "reach API server") {
			t.Errorf("renewed without an API server: %v", err)
		}
	}
	if err := src.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "reach API server") {
		t.Errorf("checked without an API server: %v", err)
	}
	waitServices(t, db, "a")
	if _, ok := db.Pools.Get(db.Snapshot(), "p"); !ok {
		t.Error("the pool went with the API server")
	}
	if last := src.LastRead(); last > stopped {
		t.Errorf("last read %v, after the API server was stopped at %v", last, stopped)
	}

	before := src.Requests()
	if err := c.api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mustCreate(t, plainService("b"))
	if err := src.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitServices(t, db, "a", "b")
	eventually(t, "nothing is wrong", func() bool { return src.Err() == nil })
	read(t, src)
	// Every kind may be listed once, and be tried a few times.
	if n := src.Requests() - before; n > 300 {
		t.Errorf("%d requests after the API server came back", n)
	}
}

// The daemon starts before Seamark's kinds are installed, and they go while it runs.
func TestMissingKinds(t *testing.T) {
	t.Parallel()
	c := bareCluster(t)
	src, db := c.source(t, kube.Config{})
	says := func() {
		t.Helper()
		eventually(t, "the source says what is missing", func() bool {
			err := src.Err()
			return err != nil && strings.Contains(err.Error(), "does not know Seamark's kinds: install them: kubectl apply -f")
		})
	}
	says()
	c.installKinds(t)
	conformance.Wait(t, db, "the tables to be synced", func(snap state.Snapshot) bool {
		return db.Pools.Synced(snap) && db.Assigned.Synced(snap)
	})
	eventually(t, "nothing is wrong", func() bool { return src.Err() == nil })
	read(t, src)

	// The watch of leases goes on; it says nothing of the slices any more.
	if err := c.client.Resource(crds).Delete(t.Context(), "announcementslices.seamark.dev", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	says()
	// A comparison that began before the kind was unknown may still count.
	unknown := source.Boottime()
	for i := range 3 {
		lease := state.NodeLease{Node: fmt.Sprintf("n-%d", i), Duration: 3 * time.Second}
		if err := src.RenewLease(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		conformance.Wait(t, db, "the lease", func(snap state.Snapshot) bool {
			_, ok := db.NodeLeases.Get(snap, lease.Node)
			return ok
		})
	}
	if last := src.LastRead(); last > unknown {
		t.Errorf("last read %v without a watch of the slices, since %v", last, unknown)
	}
	eventually(t, "the kind is gone", func() bool {
		_, err := c.client.Resource(crds).Get(t.Context(), "announcementslices.seamark.dev", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	data, err := v1alpha1.CRDs.ReadFile("crds/seamark.dev_announcementslices.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.createCRD(t, data)
	read(t, src)
}

// The namespace of the leases is missing.
func TestMissingNamespace(t *testing.T) {
	t.Parallel()
	api := kubetest.Start(t)
	db, w := state.New()
	src, err := kube.New(kube.Config{Kubeconfig: api.Kubeconfig}, db, w, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := renew(t, src); err == nil || !strings.Contains(err.Error(), "kubectl create namespace seamark-system") {
		t.Errorf("renewed without the namespace: %v", err)
	}
}

// Who may not is told what to grant.
func TestForbidden(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	roles := source.Kind{Group: "rbac.authorization.k8s.io", Version: "v1", Plural: "clusterrolebindings"}
	if err := c.Delete(t.Context(), roles, "", "seamarkd"); err != nil {
		t.Fatal(err)
	}
	src, _ := c.source(t, kube.Config{})
	eventually(t, "the source says what to grant", func() bool {
		err := src.Err()
		return err != nil && strings.Contains(err.Error(), "follow services: ") && strings.Contains(err.Error(), "grant it: kubectl apply -f")
	})
}

func TestNewErrors(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	broken := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(broken, []byte("clusters: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	for kubeconfig, want := range map[string]string{
		"":             "this is no Pod: name a kubeconfig with --kubeconfig",
		"/nonexistent": "read --kubeconfig /nonexistent",
		broken:         "read --kubeconfig " + broken,
	} {
		db, w := state.New()
		if _, err := kube.New(kube.Config{Kubeconfig: kubeconfig}, db, w, testLog(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", kubeconfig, err, want)
		}
	}
}
