package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/etcd"
	"github.com/seamark-lb/seamark/state"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func rawClient(t *testing.T, cfg clientv3.Config) *clientv3.Client {
	t.Helper()
	cfg.Logger = zap.NewNop()
	cfg.DialTimeout = 5 * time.Second
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func create(t *testing.T, src *etcd.Source, text string) {
	t.Helper()
	for _, obj := range conformance.Manifests(t, text) {
		if _, err := src.Objects().Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

func service(name string) string {
	return fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: %s}, spec: {type: LoadBalancer, ports: [{port: 80}]}}\n", name)
}

func waitServices(t *testing.T, db *state.DB, want ...string) {
	t.Helper()
	conformance.Wait(t, db, "services "+strings.Join(want, ", "), func(snap state.Snapshot) bool {
		var names []string
		for _, svc := range db.Services.Rows(snap) {
			names = append(names, svc.Name.Name)
		}
		return db.Services.Synced(snap) && strings.Join(names, ",") == strings.Join(want, ",")
	})
}

// While the server is away the tables stay; what happened is caught up with,
// even when its revisions were compacted in the meantime.
func TestRestartAndCompaction(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	cfg := etcd.Config{Endpoints: m.urls, RequestTimeout: time.Second}
	src, db := startSource(t, cfg)
	create(t, src, service("a")+"---\n"+service("b"))
	waitServices(t, db, "a", "b")

	m.stop()
	if err := src.RenewLease(t.Context(), state.NodeLease{Node: "n1", Duration: time.Second}); err == nil {
		t.Error("a lease was renewed without a server")
	} else if !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "--etcd-endpoints") {
		t.Errorf("the error does not say what to do: %v", err)
	}
	waitServices(t, db, "a", "b")

	// The server comes back where the source cannot see it, and moves on.
	there := m.cfg
	there.ClientURLs = []string{freeURL(t, "http")}
	hidden := startServer(t, there)
	client := rawClient(t, clientv3.Config{Endpoints: hidden.urls})
	other := newSource(t, etcd.Config{Endpoints: hidden.urls}, nil, nil)
	if err := other.Objects().Delete(t.Context(), source.KindService(), "default", "a"); err != nil {
		t.Fatal(err)
	}
	create(t, other, service("c"))
	resp, err := client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	hidden.stop()

	startServer(t, m.cfg)
	waitServices(t, db, "b", "c")
	create(t, src, service("d"))
	waitServices(t, db, "b", "c", "d")
	if err := src.RenewLease(t.Context(), state.NodeLease{Node: "n1", Duration: time.Second}); err != nil {
		t.Errorf("renew after the restart: %v", err)
	}
}

// LastRead moves while the store answers, written or not, and stands still
// while it does not.
func TestLastRead(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	src, db := startSource(t, etcd.Config{Endpoints: m.urls, RequestTimeout: time.Second})
	// The other source sees revisions that are not under its prefix.
	elsewhere, _ := startSource(t, etcd.Config{Endpoints: m.urls, Prefix: "/elsewhere", RequestTimeout: time.Second})
	waitServices(t, db)
	passes := func(since time.Duration) {
		t.Helper()
		deadline := time.After(15 * time.Second)
		for src.LastRead() < since || elsewhere.LastRead() < since {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-deadline:
				t.Fatalf("last read %v and %v, want %v", src.LastRead(), elsewhere.LastRead(), since)
			}
		}
	}
	passes(source.Boottime())
	create(t, src, service("a"))
	now := source.Boottime()
	passes(now)
	if last := src.LastRead(); last > source.Boottime() {
		t.Errorf("last read %v, in the future", last)
	}
	m.stop()
	stopped := source.Boottime()
	if err := src.Check(t.Context()); err == nil {
		t.Error("a stopped store answers")
	}
	for src.Err() == nil {
		if source.Boottime() > stopped+15*time.Second {
			t.Fatal("the source does not say that the store is gone")
		}
		time.Sleep(5 * time.Millisecond) // between looks
	}
	if last := src.LastRead(); last > stopped {
		t.Errorf("last read %v, after the store was stopped at %v", last, stopped)
	}
	startServer(t, m.cfg)
	passes(source.Boottime())
	if err := src.Err(); err != nil {
		t.Errorf("the store answers, and the source says %v", err)
	}
}

// A store that was wiped is noticed, although a watch on it would wait for
// its revisions to catch up.
func TestWipedStore(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	src, db := startSource(t, etcd.Config{Endpoints: m.urls})
	create(t, src, service("a")+"---\n"+service("b"))
	waitServices(t, db, "a", "b")
	m.stop()
	m.cfg.DataDir = t.TempDir()
	startServer(t, m.cfg)
	waitServices(t, db)
	create(t, src, service("z"))
	waitServices(t, db, "z")
}

// An object that nobody can read is said, and hurts no other.
func TestBrokenValues(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	src, db := startSource(t, etcd.Config{Endpoints: m.urls})
	create(t, src, service("a")+`---
{apiVersion: seamark.dev/v1alpha1, kind: IPPool, metadata: {name: p}, spec: {blocks: [{cidr: 10.0.0.0/30}]}}
---
{apiVersion: seamark.dev/v1alpha1, kind: L2Policy, metadata: {name: l2}, spec: {interfaces: [eth1]}}
`)
	waitServices(t, db, "a")
	client := rawClient(t, clientv3.Config{Endpoints: m.urls})
	for key, value := range map[string]string{
		"/seamark/core/services/default/a":    "{not json",
		"/seamark/core/services/default/x":    `{"apiVersion":"v1","kind":"Service","metadata":{"name":"y","namespace":"default"}}`,
		"/seamark/seamark.dev/ippools/p":      `{"apiVersion":"seamark.dev/v1alpha1","kind":"IPPool","metadata":{"name":"p"},"spec":{"blocks":[{"start":"10.0.0.9","stop":"10.0.0.1"}]}}`,
		"/seamark/seamark.dev/l2policies/l2":  `{"apiVersion":"seamark.dev/v1alpha1","kind":"L2Policy","metadata":{"name":"l2"},"spec":{"interfaces":["eth("]}}`,
		"/seamark/example.com/unheardof/name": "?",
	} {
		if _, err := client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	create(t, src, service("b"))
	check := func(db *state.DB, services ...string) {
		t.Helper()
		waitServices(t, db, services...)
		conformance.Wait(t, db, "the pool and policy to be invalid", func(snap state.Snapshot) bool {
			pool, _ := db.Pools.Get(snap, "p")
			policy, _ := db.L2Policies.Get(snap, "l2")
			return strings.HasPrefix(pool.Invalid, "spec.blocks[0]: ") &&
				strings.HasPrefix(policy.Invalid, "spec.interfaces[0]: ")
		})
	}
	check(db, "a", "b") // a as it was
	if policy, _ := db.L2Policies.Get(db.Snapshot(), "l2"); len(policy.Interfaces) != 1 {
		t.Errorf("the policy does not stay as it was last right: %+v", policy)
	}
	if pool, _ := db.Pools.Get(db.Snapshot(), "p"); len(pool.Ranges) != 1 || pool.Ranges[0].From.String() != "10.0.0.0" {
		t.Errorf("the pool does not keep its ranges: %+v", pool)
	}
	// Whoever starts now has never seen a.
	_, late := startSource(t, etcd.Config{Endpoints: m.urls})
	check(late, "b")
	if pool, _ := late.Pools.Get(late.Snapshot(), "p"); len(pool.Ranges) != 0 {
		t.Errorf("the pool has ranges that nobody wrote: %+v", pool)
	}
}

// Three appliances: one may go.
func TestThreeMembers(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c"}
	peers := make([]string, len(names))
	cluster := make([]string, len(names))
	for i, name := range names {
		peers[i] = freeURL(t, "http")
		cluster[i] = name + "=" + peers[i]
	}
	var members []member
	var urls []string
	for i, name := range names {
		cfg := serverConfig(t)
		cfg.Name, cfg.PeerURLs, cfg.InitialCluster = name, []string{peers[i]}, strings.Join(cluster, ",")
		m, ready := runServer(t, cfg)
		if i == 0 {
			// Alone it waits, and can be stopped while it does.
			select {
			case <-ready:
				t.Fatal("one member of three became ready alone")
			case <-time.After(50 * time.Millisecond):
			}
		}
		members, urls = append(members, m), append(urls, m.urls...)
	}
	src, db := startSource(t, etcd.Config{Endpoints: urls})
	waitServices(t, db)
	create(t, src, service("a"))
	waitServices(t, db, "a")
	members[0].stop()
	create(t, src, service("b"))
	waitServices(t, db, "a", "b")

	// Without a majority, callers get an error and the tables stay.
	members[1].stop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	quick := newSource(t, etcd.Config{Endpoints: urls[2:], RequestTimeout: 500 * time.Millisecond}, nil, nil)
	if err := quick.Check(ctx); err == nil || !strings.Contains(err.Error(), "majority") {
		t.Errorf("asking a minority: %v, want an error that names the majority", err)
	}
	waitServices(t, db, "a", "b")
	a := startServer(t, members[0].cfg)
	create(t, src, service("c"))
	waitServices(t, db, "a", "b", "c")

	// One that lost its disk gets the others' data, however often, and counts then.
	b := startServer(t, members[1].cfg)
	for range 2 {
		a.stop()
		if err := os.RemoveAll(a.cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		a = startServer(t, a.cfg)
	}
	b.stop()
	create(t, src, service("d"))
	waitServices(t, db, "a", "b", "c", "d")
	_, alone := startSource(t, etcd.Config{Endpoints: a.urls})
	waitServices(t, alone, "a", "b", "c", "d")

	// It waits for a majority to take it in.
	a.stop()
	if err := os.RemoveAll(a.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	a, ready := runServer(t, a.cfg)
	select {
	case <-ready:
		t.Fatal("ready, with one other member of three")
	case <-time.After(2 * time.Second):
	}
	startServer(t, b.cfg)
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("not ready, with both others up")
	}
	create(t, src, service("e"))
	waitServices(t, db, "a", "b", "c", "d", "e")
}

// A member that waits for the others can be stopped.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	cfg := serverConfig(t)
	peer := freeURL(t, "http")
	cfg.Name, cfg.PeerURLs, cfg.InitialCluster = "a", []string{peer}, "a="+peer+",b="+freeURL(t, "http")
	m, _ := runServer(t, cfg)
	begun := time.Now()
	m.stop()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

func TestServerRefusals(t *testing.T) {
	t.Parallel()
	running := startServer(t, serverConfig(t))
	for _, test := range []struct {
		name   string
		change func(*etcd.ServerConfig)
		want   []string
	}{
		{"data dir in use", func(c *etcd.ServerConfig) { c.DataDir = running.cfg.DataDir }, []string{running.cfg.DataDir, "another store runs in it", "--store-dir"}},
		{"port in use", func(c *etcd.ServerConfig) { c.ClientURLs = running.urls }, []string{"address already in use", "--store-listen-client"}},
		{"not our address", func(c *etcd.ServerConfig) { c.ClientURLs = []string{"http://192.0.2.1:2379"} }, []string{"--store-listen-client"}},
		{"no data dir", func(c *etcd.ServerConfig) { c.DataDir = "" }, []string{"--store-dir"}},
		{"no URL", func(c *etcd.ServerConfig) { c.ClientURLs = []string{"10.0.0.1"} }, []string{`"10.0.0.1"`, "--store-listen-client"}},
		{"not in the cluster", func(c *etcd.ServerConfig) {
			c.Name, c.PeerURLs, c.InitialCluster = "x", []string{"http://127.0.0.1:1"}, "a=http://127.0.0.1:1"
		}, []string{"does not name this member, x", "--store-initial-cluster"}},
		{"cluster without peers", func(c *etcd.ServerConfig) { c.InitialCluster = "a=http://127.0.0.1:1" }, []string{"--store-listen-peer"}},
		{"no peer URL", func(c *etcd.ServerConfig) {
			c.Name, c.PeerURLs, c.InitialCluster = "a", []string{freeURL(t, "http")}, "a=10.0.0.1"
		}, []string{`"10.0.0.1"`, "--store-initial-cluster"}},
		{"other member's data", func(c *etcd.ServerConfig) {
			c.Name = "x"
			if err := os.WriteFile(filepath.Join(c.DataDir, "seamark-member.json"), []byte(`{"name":"a","initialCluster":""}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{`belongs to member "a"`, "--store-name"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := serverConfig(t)
			test.change(&cfg)
			server, err := etcd.NewServer(cfg, testLog(t))
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				err = server.Run(ctx)
			}
			if err == nil {
				t.Fatal("it ran")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoes not say %q", err, want)
				}
			}
		})
	}
}

// Many nodes and users at once: nobody's write is lost.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	src, _ := startSource(t, etcd.Config{Endpoints: m.urls})
	create(t, src, service("a"))
	done := make(chan error)
	const writers = 4
	for i := range writers {
		go func() {
			done <- func() error {
				for {
					obj, err := src.Objects().Get(t.Context(), source.KindService(), "default", "a")
					if err != nil {
						return err
					}
					row := state.Allocation{Service: state.ObjectName{Namespace: "default", Name: "a"}, Reason: state.ReasonNoPool, Message: fmt.Sprint(i)}
					if i == 0 { // statuses are written in between
						if err := src.Allocations().Update(t.Context(), row); err != nil {
							return err
						}
					}
					_, err = src.Objects().Update(t.Context(), withLabel(obj, fmt.Sprintf("writer-%d", i)))
					if !errors.Is(err, source.ErrConflict) {
						return err
					}
				}
			}()
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	obj, err := src.Objects().Get(t.Context(), source.KindService(), "default", "a")
	if err != nil {
		t.Fatal(err)
	}
	if len(obj.GetLabels()) != writers {
		t.Errorf("labels %v, want one of each of %d writers", obj.GetLabels(), writers)
	}
	if conditions, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions"); len(conditions) != 1 {
		t.Errorf("status %v, want one condition", obj.Object["status"])
	}
}

func withLabel(obj *unstructured.Unstructured, name string) *unstructured.Unstructured {
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[name] = "x"
	obj.SetLabels(labels)
	return obj
}
