package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/cmd/internal/version"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// memory is source.Objects in a map.
type memory struct {
	mu      sync.Mutex
	objects map[string]*unstructured.Unstructured
	version int
}

func key(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

func (m *memory) Get(_ context.Context, k source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	obj, ok := m.objects[key(k.Kind, namespace, name)]
	if !ok {
		return nil, fmt.Errorf("get %s %s: %w", k.Singular, name, source.ErrNotFound)
	}
	return obj.DeepCopy(), nil
}

func (m *memory) List(_ context.Context, k source.Kind, namespace string) ([]*unstructured.Unstructured, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var objs []*unstructured.Unstructured
	for _, key := range slices.Sorted(maps.Keys(m.objects)) {
		if obj := m.objects[key]; obj.GetKind() == k.Kind && (namespace == "" || obj.GetNamespace() == namespace) {
			objs = append(objs, obj.DeepCopy())
		}
	}
	return objs, nil
}

func (m *memory) Create(_ context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if problems := source.Admit(obj); len(problems) > 0 {
		return nil, problems
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key(obj.GetKind(), obj.GetNamespace(), obj.GetName())]; ok {
		return nil, fmt.Errorf("create %s: %w", obj.GetName(), source.ErrExists)
	}
	return m.put(obj), nil
}

func (m *memory) Update(_ context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.objects[key(obj.GetKind(), obj.GetNamespace(), obj.GetName())]
	if !ok {
		return nil, fmt.Errorf("update %s: %w", obj.GetName(), source.ErrNotFound)
	}
	if old.GetResourceVersion() != obj.GetResourceVersion() {
		return nil, fmt.Errorf("update %s: %w", obj.GetName(), source.ErrConflict)
	}
	return m.put(obj), nil
}

func (m *memory) put(obj *unstructured.Unstructured) *unstructured.Unstructured {
	m.version++
	obj.SetResourceVersion(strconv.Itoa(m.version))
	m.objects[key(obj.GetKind(), obj.GetNamespace(), obj.GetName())] = obj
	return obj.DeepCopy()
}

func (m *memory) Delete(_ context.Context, k source.Kind, namespace, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key(k.Kind, namespace, name)]; !ok {
		return fmt.Errorf("delete %s %s: %w", k.Singular, name, source.ErrNotFound)
	}
	delete(m.objects, key(k.Kind, namespace, name))
	return nil
}

// readOnly refuses to write, as the kube engine does.
type readOnly struct{ source.Objects }

func (readOnly) Create(context.Context, *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return nil, source.ErrReadOnly
}

func socketPath(t *testing.T) string {
	dir, err := os.MkdirTemp("", "sm") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s.sock")
}

// serve runs the server until the test ends, or until stop is called.
func serve(t *testing.T, s *control.Server) (client *control.Client, stop func()) {
	t.Helper()
	if s.Socket == "" {
		s.Socket = socketPath(t)
	}
	s.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run server: %v", err)
		}
	})
	t.Cleanup(stop)
	client = control.NewClient(s.Socket)
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := client.Status(t.Context())
		if err == nil {
			return client, stop
		}
		if time.Now().After(deadline) {
			t.Fatalf("server does not answer: %v", err)
		}
		time.Sleep(time.Millisecond) // between two tries; the deadline is above
	}
}

func pool(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "seamark.dev/v1alpha1", "kind": "IPPool", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"blocks": []any{map[string]any{"cidr": "10.0.0.0/24"}}, "priority": int64(7)},
	}}
}

func TestObjects(t *testing.T) {
	ctx := t.Context()
	c, _ := serve(t, &control.Server{Objects: &memory{objects: map[string]*unstructured.Unstructured{}}})
	kind := source.KindIPPool()

	created, err := c.Create(ctx, pool("a"))
	if err != nil {
		t.Fatal(err)
	}
	if created.GetResourceVersion() != "1" {
		t.Errorf("created at version %q", created.GetResourceVersion())
	}
	if _, err := c.Create(ctx, pool("a")); !errors.Is(err, source.ErrExists) {
		t.Errorf("create again: %v", err)
	}
	got, err := c.Get(ctx, kind, "", "a")
	if err != nil || !reflect.DeepEqual(got, created) {
		t.Errorf("get: %v, %v; want %v", got, err, created)
	}
	if p, _, _ := unstructured.NestedFieldNoCopy(got.Object, "spec", "priority"); p != int64(7) {
		t.Errorf("priority came back as %T %v", p, p)
	}

	got.SetLabels(map[string]string{"x": "y"})
	if updated, err := c.Update(ctx, got); err != nil || updated.GetResourceVersion() != "2" {
		t.Errorf("update: %v, %v", updated, err)
	}
	if _, err := c.Update(ctx, got); !errors.Is(err, source.ErrConflict) {
		t.Errorf("update of what has changed: %v", err)
	}
	if _, err := c.Update(ctx, pool("none")); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("update of what is not there: %v", err)
	}

	if _, err := c.Create(ctx, pool("b")); err != nil {
		t.Fatal(err)
	}
	list, err := c.List(ctx, kind, "")
	if err != nil || len(list) != 2 || list[0].GetName() != "a" || list[1].GetName() != "b" {
		t.Errorf("list: %v, %v", list, err)
	}
	if list, err := c.List(ctx, source.KindService(), "default"); err != nil || len(list) != 0 {
		t.Errorf("list of none: %v, %v", list, err)
	}

	if err := c.Delete(ctx, kind, "", "a"); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, kind, "", "a"); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("delete again: %v", err)
	}
	if _, err := c.Get(ctx, kind, "", "a"); !errors.Is(err, source.ErrNotFound) || err.Error() != "get ippool a: not found" {
		t.Errorf("get of what is gone: %v", err)
	}
}

func TestNamespaces(t *testing.T) {
	ctx := t.Context()
	c, _ := serve(t, &control.Server{Objects: &memory{objects: map[string]*unstructured.Unstructured{}}})
	for _, namespace := range []string{"blue", "green"} {
		obj := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": map[string]any{"namespace": namespace, "name": "l", "labels": map[string]any{"in": namespace}},
		}}
		if _, err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	kind := source.KindLease()
	if got, err := c.Get(ctx, kind, "green", "l"); err != nil || got.GetLabels()["in"] != "green" {
		t.Errorf("get: %v, %v", got, err)
	}
	if err := c.Delete(ctx, kind, "blue", "l"); err != nil {
		t.Error(err)
	}
	if list, err := c.List(ctx, kind, ""); err != nil || len(list) != 1 || list[0].GetNamespace() != "green" {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestRefusals(t *testing.T) {
	ctx := t.Context()
	store := &memory{objects: map[string]*unstructured.Unstructured{}}

	c, _ := serve(t, &control.Server{Objects: store})
	bad := pool("a")
	unstructured.SetNestedField(bad.Object, "yes", "spec", "disabled")
	if _, err := c.Create(ctx, bad); err == nil || !strings.Contains(err.Error(), "IPPool a: spec.disabled: ") {
		t.Errorf("create of a bad object: %v", err)
	}
	huge := pool("a")
	huge.SetAnnotations(map[string]string{"x": strings.Repeat("x", 3<<20)})
	if _, err := c.Create(ctx, huge); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("create of a huge object: %v", err)
	}
	for what, err := range map[string]error{
		"lb":            c.DumpLB(ctx, io.Discard, state.ObjectName{}),
		"maglev":        second(c.Maglev(ctx, netip.MustParseAddrPort("10.0.0.1:80"), state.TCP)),
		"announcements": second(c.Announcements(ctx)),
		"table":         second(control.Rows[state.Frontend](ctx, c, "frontends")),
	} {
		if !errors.Is(err, control.ErrNoDatapath) || err.Error() != "this daemon has no datapath (store only)" {
			t.Errorf("%s of a store-only daemon: %v", what, err)
		}
	}

	c, _ = serve(t, &control.Server{Objects: readOnly{store}})
	if _, err := c.Create(ctx, pool("a")); !errors.Is(err, source.ErrReadOnly) {
		t.Errorf("create where objects are read-only: %v", err)
	}

	c, _ = serve(t, &control.Server{})
	if _, err := c.List(ctx, source.KindIPPool(), ""); err == nil || err.Error() != "this daemon keeps no objects" {
		t.Errorf("list without objects: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestTables(t *testing.T) {
	db, w := state.New()
	addr := netip.MustParseAddr
	web := state.ObjectName{Namespace: "default", Name: "web"}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.Update(func(tx *state.Tx) {
		for i, st := range []state.Status{{Phase: state.Done}, {Phase: state.Pending}, {Phase: state.Failed, Err: "map is full", Tries: 3}, {Phase: state.Deleting, Err: "busy", Tries: 1}} {
			db.Frontends.Put(tx, state.Frontend{Addr: addr("10.0.0.1"), Port: uint16(80 + i), Protocol: state.TCP, Service: web, Status: st})
		}
		db.Nodes.Put(tx, state.Node{Name: "n1"})
		db.NodeProblems.Put(tx, state.Problem{Object: state.ObjectRef{Group: "seamark.dev", Kind: "L2Policy", Name: "lab"}, Field: "spec.interfaces[0]", Message: "matches no interface", Cure: "correct it"})
		// Keys sort as text: 10.0.0.10 before 10.0.0.9.
		db.Assigned.Put(tx, state.Assignment{Addr: addr("10.0.0.10"), Service: web, Since: since, Reason: state.ReasonNoCandidate})
		db.Assigned.Put(tx, state.Assignment{Addr: addr("10.0.0.9"), Service: web, Node: "n1", Interfaces: []string{"eth1", "eth2", "eth9"},
			Since: since, Generation: 4, Reason: state.ReasonLeaseExpired, Previous: "n2"})
		db.NodeLeases.Put(tx, state.NodeLease{Node: "n1", Interfaces: []state.LeaseInterface{{Name: "eth2", MAC: "02:00:00:00:00:02"}, {Name: "eth1", MAC: "02:00:00:00:00:01"}}})
	})
	c, _ := serve(t, &control.Server{DB: db, Status: func() control.Status { return control.Status{Node: "n1", Ready: true} }})

	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Node != "n1" || !st.Ready || st.Version != version.Version {
		t.Errorf("status: %+v", st)
	}
	if want := []string{"l2policy/lab: spec.interfaces[0]: matches no interface; correct it"}; !slices.Equal(st.Problems, want) {
		t.Errorf("problems: %q", st.Problems)
	}
	byName := map[string]control.TableStatus{}
	for _, ts := range st.Tables {
		byName[ts.Name] = ts
	}
	wantFrontends := control.TableStatus{Name: "frontends", Rows: 4, Pending: 1, Failed: 1, Deleting: 1, Errors: []control.RowError{
		{Row: "10.0.0.1:82/TCP", Err: "map is full", Tries: 3}, {Row: "10.0.0.1:83/TCP", Err: "busy", Tries: 1}}}
	if got := byName["frontends"]; !reflect.DeepEqual(got, wantFrontends) {
		t.Errorf("frontends: %+v, want %+v", got, wantFrontends)
	}
	if got, want := byName["nodes"], (control.TableStatus{Name: "nodes", Rows: 1}); !reflect.DeepEqual(got, want) {
		t.Errorf("nodes: %+v, want %+v", got, want)
	}

	rows, err := control.Rows[state.Frontend](t.Context(), c, "frontends")
	if want := db.Frontends.Rows(db.Snapshot()); err != nil || !reflect.DeepEqual(rows, want) {
		t.Errorf("rows: %+v, %v; want %+v", rows, err, want)
	}
	if _, err := control.Rows[state.Frontend](t.Context(), c, "frontend"); !errors.Is(err, source.ErrNotFound) || !strings.Contains(err.Error(), "frontends, announcements") {
		t.Errorf("rows of no table: %v", err)
	}

	anns, err := c.Announcements(t.Context())
	want := []control.Announcement{
		{Address: addr("10.0.0.9"), Service: "default/web", Node: "n1", Interfaces: []string{"eth1", "eth2", "eth9"}, Since: since,
			Generation: 4, Reason: "LeaseExpired", Previous: "n2", MACs: []string{"02:00:00:00:00:01", "02:00:00:00:00:02", ""}},
		{Address: addr("10.0.0.10"), Service: "default/web", Since: since, Reason: "NoCandidate"},
	}
	if err != nil || !reflect.DeepEqual(anns, want) {
		t.Errorf("announcements: %+v, %v; want %+v", anns, err, want)
	}
}

// TestEveryTableIsServed: a table added to state.DB must be added here too.
func TestEveryTableIsServed(t *testing.T) {
	db, _ := state.New()
	c, _ := serve(t, &control.Server{DB: db})
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, ts := range st.Tables {
		served[ts.Name] = true
	}
	v := reflect.ValueOf(db).Elem()
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() {
			if name := v.Field(i).Interface().(interface{ Name() string }).Name(); !served[name] {
				t.Errorf("table %s (DB.%s) is not served", name, f.Name)
			}
		}
	}
}

func TestDatapathDumps(t *testing.T) {
	addr := netip.MustParseAddrPort("10.0.0.1:80")
	table := control.Maglev{Addr: addr, Protocol: "UDP", Backends: []control.MaglevBackend{{Addr: netip.MustParseAddrPort("172.20.0.2:8080")}}, Slots: []int{0, 0, -1}}
	c, _ := serve(t, &control.Server{
		DumpLB: func(w io.Writer, service state.ObjectName) error {
			_, err := io.WriteString(w, "frontend 10.0.0.1:80/UDP set=0 "+service.Name+"\n")
			return err
		},
		Maglev: func(a netip.AddrPort, p state.Protocol) (control.Maglev, error) {
			if a != addr || p != state.UDP {
				return control.Maglev{}, fmt.Errorf("frontend %s/%s: %w", a, p, source.ErrNotFound)
			}
			return table, nil
		},
	})
	var text bytes.Buffer
	for _, service := range []state.ObjectName{{}, {Namespace: "default", Name: "webpod"}} {
		text.Reset()
		if err := c.DumpLB(t.Context(), &text, service); err != nil || text.String() != "frontend 10.0.0.1:80/UDP set=0 "+service.Name+"\n" {
			t.Errorf("dump of %s: %q, %v", service, text.String(), err)
		}
	}
	if m, err := c.Maglev(t.Context(), addr, state.UDP); err != nil || !reflect.DeepEqual(m, table) {
		t.Errorf("maglev: %+v, %v", m, err)
	}
	if _, err := c.Maglev(t.Context(), addr, state.TCP); !errors.Is(err, source.ErrNotFound) || err.Error() != "frontend 10.0.0.1:80/TCP: not found" {
		t.Errorf("maglev of no frontend: %v", err)
	}

	c, _ = serve(t, &control.Server{DumpLB: func(w io.Writer, _ state.ObjectName) error {
		io.WriteString(w, "half a dump")
		return errors.New("read map: gone")
	}})
	text.Reset()
	if err := c.DumpLB(t.Context(), &text, state.ObjectName{}); err == nil || err.Error() != "read map: gone" || text.Len() > 0 {
		t.Errorf("failed dump: %q, %v", text.String(), err)
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(filepath.Dir(socketPath(t)), "run", "s.sock") // the directory is made

	// A stale socket, as a killed daemon leaves it, is taken over.
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := control.NewClient(path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "nobody listens on "+path) {
		t.Errorf("stale socket: %v", err)
	}

	_, stop := serve(t, &control.Server{Socket: path})
	if fi, err := os.Stat(path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("mode of the socket: %v, %v", fi.Mode(), err)
	}
	second := &control.Server{Socket: path, Log: slog.New(slog.DiscardHandler)}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another seamarkd answers there") {
		t.Errorf("second daemon: %v", err)
	}
	if _, err := control.NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("after the second daemon: %v", err)
	}
	stop()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if _, err := control.NewClient(path).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no socket "+path) {
		t.Errorf("no socket: %v", err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "precious" {
		t.Errorf("the file in the way: %q, %v", data, err)
	}
}

// TestSocketOfSuccessorStays: a daemon that ends removes its own socket only.
func TestSocketOfSuccessorStays(t *testing.T) {
	path := socketPath(t)
	_, stop := serve(t, &control.Server{Socket: path})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	successor, _ := serve(t, &control.Server{Socket: path})
	stop()
	if _, err := successor.Status(t.Context()); err != nil {
		t.Errorf("successor: %v", err)
	}
}
