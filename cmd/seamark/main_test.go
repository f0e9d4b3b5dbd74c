package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"seamark": main})
}

// TestScripts runs seamark against a control.Server over a store in memory.
// What a script needs of the daemon's side:
//
//	status FILE          the daemon's Status, as JSON
//	rows TABLE FILE      rows into a table, as a JSON list
//	maglev FILE          the Maglev table of its addr and protocol
//	list TABLE MORE FILE the rows of a table of the datapath, as a JSON list, and how many more there are
//	explanation FILE     the explanation of its address, as JSON
//	counts FILE          the datapath's counters, as JSON
//	events FILE          what every monitor is told, as a JSON list; then it ends
//	events               monitors are told nothing, and do not end
//	watched              waits until somebody monitors
//	object FILE          an object as the daemon has written it, status and all
//	races N              each of the next N updates finds its object changed
//	daemon stop|start [store-only]
func TestScripts(t *testing.T) {
	daemons := map[string]*daemon{}
	var mu sync.Mutex
	of := func(ts *testscript.TestScript) *daemon {
		mu.Lock()
		defer mu.Unlock()
		return daemons[ts.Getenv("SEAMARK_SOCKET")]
	}
	command := func(run func(d *daemon, args []string, read func(string) []byte) error) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) == 0 {
				ts.Fatalf("want arguments, and no !")
			}
			ts.Check(run(of(ts), args, func(name string) []byte { return []byte(ts.ReadFile(name)) }))
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			dir, err := os.MkdirTemp("", "sm") // $WORK is too long for a socket
			if err != nil {
				return err
			}
			d := newDaemon(filepath.Join(dir, "s.sock"))
			if err := d.start(false); err != nil {
				return err
			}
			env.Setenv("SEAMARK_SOCKET", d.socket)
			mu.Lock()
			daemons[d.socket] = d
			mu.Unlock()
			env.Defer(func() {
				d.stop()
				os.RemoveAll(dir)
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": command(func(d *daemon, args []string, read func(string) []byte) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.status = control.Status{}
				return json.Unmarshal(read(args[0]), &d.status)
			}),
			"maglev": command(func(d *daemon, args []string, read func(string) []byte) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.maglev = control.Maglev{}
				return json.Unmarshal(read(args[0]), &d.maglev)
			}),
			"list": command(func(d *daemon, args []string, read func(string) []byte) (err error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				var l list
				if l.more, err = strconv.Atoi(args[1]); err != nil {
					return err
				}
				d.lists[args[0]] = &l
				return json.Unmarshal(read(args[2]), &l.rows)
			}),
			"explanation": command(func(d *daemon, args []string, read func(string) []byte) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.explanation = control.Explanation{}
				return json.Unmarshal(read(args[0]), &d.explanation)
			}),
			"counts": command(func(d *daemon, args []string, read func(string) []byte) error {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.counts = control.Counts{}
				return json.Unmarshal(read(args[0]), &d.counts)
			}),
			"events": func(ts *testscript.TestScript, _ bool, args []string) {
				d := of(ts)
				d.mu.Lock()
				defer d.mu.Unlock()
				d.events = nil
				if len(args) > 0 {
					ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &d.events))
				}
			},
			"watched": func(ts *testscript.TestScript, _ bool, _ []string) {
				select {
				case <-of(ts).watched:
				case <-time.After(30 * time.Second):
					ts.Fatalf("nobody monitors after 30 s")
				}
			},
			"rows": command(func(d *daemon, args []string, read func(string) []byte) error {
				return d.putRows(args[0], read(args[1]))
			}),
			"object": command(func(d *daemon, args []string, read func(string) []byte) error {
				return d.objects.write(read(args[0]))
			}),
			"races": command(func(d *daemon, args []string, _ func(string) []byte) (err error) {
				d.objects.mu.Lock()
				defer d.objects.mu.Unlock()
				d.objects.races, err = strconv.Atoi(args[0])
				return err
			}),
			"daemon": command(func(d *daemon, args []string, _ func(string) []byte) error {
				if args[0] == "stop" {
					return d.stop()
				}
				return d.start(len(args) > 1 && args[1] == "store-only")
			}),
		},
	})
}

// daemon is the other side of the socket.
type daemon struct {
	socket  string
	objects *memory
	db      *state.DB
	writer  *state.Writer

	mu     sync.Mutex
	status control.Status
	maglev control.Maglev
	lists  map[string]*list
	counts control.Counts
	events []control.PacketEvent

	explanation control.Explanation

	watched chan struct{} // receives when a monitor begins

	cancel context.CancelFunc
	done   chan error
}

// list is what a table of the datapath has to list.
type list struct {
	rows []json.RawMessage
	more int
}

func newDaemon(socket string) *daemon {
	d := &daemon{socket: socket, objects: &memory{objects: map[string]*unstructured.Unstructured{}}, lists: map[string]*list{}, watched: make(chan struct{}, 100)}
	d.db, d.writer = state.New()
	return d
}

func (d *daemon) start(storeOnly bool) error {
	s := &control.Server{
		Socket: d.socket, Log: slog.New(slog.DiscardHandler), Objects: d.objects,
		Status: func() control.Status { d.mu.Lock(); defer d.mu.Unlock(); return d.status },
	}
	if !storeOnly {
		s.DB = d.db
		s.DumpLB = func(w io.Writer, service state.ObjectName) error {
			if service != (state.ObjectName{}) && service.String() != "default/webpod" {
				return fmt.Errorf("service %s: %w", service, source.ErrNotFound)
			}
			_, err := io.WriteString(w, "frontend 192.168.10.211:80/TCP set=0\n")
			return err
		}
		s.Maglev = func(addr netip.AddrPort, proto state.Protocol) (control.Maglev, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if addr != d.maglev.Addr || proto.String() != d.maglev.Protocol {
				return control.Maglev{}, fmt.Errorf("frontend %s/%s: %w; seamark bpf lb list shows what there is", addr, proto, source.ErrNotFound)
			}
			return d.maglev, nil
		}
	}
	if !storeOnly {
		s.List, s.Monitor, s.Drain, s.Explain = d.list, d.monitor, d.drain, d.explain
		s.Counts = func() (control.Counts, error) { d.mu.Lock(); defer d.mu.Unlock(); return d.counts, nil }
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.done = cancel, make(chan error, 1)
	go func() { d.done <- s.Run(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := control.NewClient(d.socket).Status(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("daemon does not answer: %w", err)
		}
		time.Sleep(time.Millisecond) // between two tries; the deadline is above
	}
}

// drain moves the node's addresses to the first other one that has a lease.
func (d *daemon) drain(_ context.Context, node string, drained, force bool) (err error) {
	d.writer.Update(func(tx *state.Tx) {
		lease, ok := d.db.NodeLeases.Get(tx, node)
		if !ok {
			err = fmt.Errorf("lease of node %s: %w", node, source.ErrNotFound)
			return
		}
		other := ""
		for _, l := range d.db.NodeLeases.Rows(tx) {
			if l.Node != node && !l.Drained {
				other = l.Node
			}
		}
		for _, a := range d.db.Assigned.Rows(tx) {
			if a.Node != node || !drained {
				continue
			}
			if other == "" && !force {
				err = fmt.Errorf("drain %s: %w: %s (%s)", node, control.ErrStranded, a.Addr, a.Service)
				return
			}
			a.Node = other
			d.db.Assigned.Put(tx, a)
		}
		lease.Drained, lease.Released = drained, drained
		d.db.NodeLeases.Put(tx, lease)
	})
	return err
}

func (d *daemon) explain(addr netip.Addr) (control.Explanation, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if addr != d.explanation.Address {
		return control.Explanation{Address: addr, Advice: []string{"no Service has this address: see seamark get service -A"}}, nil
	}
	return d.explanation, nil
}

func (d *daemon) list(_ context.Context, table string, q control.ListQuery, row func(any) error) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lists[table]
	if l == nil {
		return 0, fmt.Errorf("table %s: %w", table, source.ErrNotFound)
	}
	for i, data := range l.rows {
		if i == q.Limit && q.Limit > 0 {
			return l.more + len(l.rows) - i, nil
		}
		if err := row(data); err != nil {
			return 0, err
		}
	}
	return l.more, nil
}

func (d *daemon) monitor(ctx context.Context, filter control.MonitorFilter) (<-chan control.PacketEvent, error) {
	if filter.Service.Name == "none" {
		return nil, fmt.Errorf("service %s: %w", filter.Service, source.ErrNotFound)
	}
	d.watched <- struct{}{}
	d.mu.Lock()
	events := d.events
	d.mu.Unlock()
	told := make(chan control.PacketEvent)
	go func() {
		defer close(told)
		for _, e := range events {
			if filter.Reason != "" && filter.Reason != e.Reason {
				continue
			}
			select {
			case told <- e:
			case <-ctx.Done():
				return
			}
		}
		if events == nil {
			<-ctx.Done()
		}
	}()
	return told, nil
}

func (d *daemon) stop() error {
	if d.cancel == nil {
		return nil
	}
	d.cancel()
	d.cancel = nil
	return <-d.done
}

func (d *daemon) putRows(table string, data []byte) error {
	switch table {
	case "assigned":
		return putRows(d.writer, d.db.Assigned, data)
	case "nodeleases":
		return putRows(d.writer, d.db.NodeLeases, data)
	case "frontends":
		return putRows(d.writer, d.db.Frontends, data)
	case "allocations":
		return putRows(d.writer, d.db.Allocations, data)
	case "pools":
		return putRows(d.writer, d.db.Pools, data)
	case "services":
		return putRows(d.writer, d.db.Services, data)
	case "bfdsessions":
		return putRows(d.writer, d.db.BFDSessions, data)
	case "bfdstates":
		return putRows(d.writer, d.db.BFDStates, data)
	case "bgpspeakers":
		return putRows(d.writer, d.db.BGPSpeakers, data)
	case "bgpsessions":
		return putRows(d.writer, d.db.BGPSessions, data)
	case "bgpsessionstates":
		return putRows(d.writer, d.db.BGPSessionStates, data)
	case "nodeproblems":
		return putRows(d.writer, d.db.NodeProblems, data)
	}
	return fmt.Errorf("unknown table %q", table)
}

func putRows[T state.Row](w *state.Writer, t state.Table[T], data []byte) error {
	var rows []T
	if err := json.Unmarshal(data, &rows); err != nil {
		return err
	}
	w.Update(func(tx *state.Tx) {
		for _, row := range rows {
			t.Put(tx, row)
		}
	})
	return nil
}

// memory is source.Objects in a map, with what an API server adds.
type memory struct {
	mu      sync.Mutex
	objects map[string]*unstructured.Unstructured
	version int
	// races left: updates that find their object changed since it was read.
	races int
}

// aDayAndAHalfAgo shows as 36h in every AGE, however long the test takes.
func aDayAndAHalfAgo() metav1.Time { return metav1.NewTime(time.Now().Add(-36 * time.Hour)) }

func key(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

func keyOf(obj *unstructured.Unstructured) string {
	return key(obj.GetKind(), obj.GetNamespace(), obj.GetName())
}

func (m *memory) Get(_ context.Context, k source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	obj, ok := m.objects[key(k.Kind, namespace, name)]
	if !ok {
		return nil, source.ErrNotFound
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
	if _, ok := m.objects[keyOf(obj)]; ok {
		return nil, source.ErrExists
	}
	obj.SetCreationTimestamp(aDayAndAHalfAgo())
	return m.put(obj), nil
}

func (m *memory) Update(_ context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if problems := source.Admit(obj); len(problems) > 0 {
		return nil, problems
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.objects[keyOf(obj)]
	if !ok {
		return nil, source.ErrNotFound
	}
	if m.races > 0 {
		m.races--
		raced := old.DeepCopy()
		unstructured.SetNestedField(raced.Object, strconv.Itoa(m.races), "status", "used")
		m.put(raced)
		return nil, fmt.Errorf("update %s: %w", obj.GetName(), source.ErrConflict)
	}
	if old.GetResourceVersion() != obj.GetResourceVersion() {
		return nil, errors.New("the resource version is wrong, and no race was asked for")
	}
	return m.put(obj), nil
}

func (m *memory) put(obj *unstructured.Unstructured) *unstructured.Unstructured {
	m.version++
	obj.SetResourceVersion(strconv.Itoa(m.version))
	m.objects[keyOf(obj)] = obj
	return obj.DeepCopy()
}

// write stores an object past all checks, as the daemon writes statuses.
func (m *memory) write(data []byte) error {
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(data); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if created := obj.GetCreationTimestamp(); created.IsZero() {
		obj.SetCreationTimestamp(aDayAndAHalfAgo())
	}
	m.put(obj)
	return nil
}

func (m *memory) Delete(_ context.Context, k source.Kind, namespace, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key(k.Kind, namespace, name)]; !ok {
		return source.ErrNotFound
	}
	delete(m.objects, key(k.Kind, namespace, name))
	return nil
}
