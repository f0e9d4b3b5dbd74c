package source

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Tables turns objects into rows: the part of following a store that is the
// same for every engine. An engine says which objects there are; Tables keeps
// the rows of each, and what of it cannot be honoured (SourceProblems). The
// rows of an object that cannot be read stay as they were.
//
// Its methods are called within one update after another, never at once.
type Tables struct {
	db        *state.DB
	log       *slog.Logger
	followers map[string]follower // by Kind.key
	kinds     []Kind
	// kept are the objects whose rows, or problems, depend on more than
	// themselves, few as they are, by Kind.key and name: other projects', on Agents
	// and on each other; BGPPeers, on Secrets.
	kept    map[string]map[string]any
	secrets secretRows
	// bgp has the rows of other projects' objects for BGP.
	bgp     *foreignBGP
	waiting map[string]*waiting // by table
}

// follower keeps the rows of one kind's objects. An object is handed in as its
// Go type, as *unstructured.Unstructured, or as JSON.
type follower interface {
	table() string
	// put returns what of the object cannot be honoured, and an error when it
	// cannot be read at all.
	put(tx *state.Tx, name string, obj any) (Problems, error)
	remove(tx *state.Tx, name string)
	// names of the objects that have rows.
	names() []string
	markSynced(tx *state.Tx)
}

// key of a kind, whichever version it is served in.
func (k Kind) key() string { return k.Group + "/" + k.Kind }

// NewTables returns Tables that write into db.
func NewTables(db *state.DB, log *slog.Logger) *Tables {
	t := &Tables{db: db, log: log, followers: map[string]follower{}, secrets: newSecretRows(db),
		kept: map[string]map[string]any{}, waiting: map[string]*waiting{}}
	t.bgp = newForeignBGP(t)
	t.follow(KindService(), newRows(db.Services, func(r state.Reader, s *corev1.Service) ([]state.Service, Problems) {
		if s.DeletionTimestamp != nil {
			return nil, nil // a finalizer keeps the object: its balancing ends now
		}
		row, problems := ServiceRow(s)
		if last, ok := db.Services.Get(r, row.RowKey()); ok && row.Probing.Invalid {
			row.Probing = last.Probing
			row.Probing.Invalid = true
		}
		return []state.Service{row}, problems
	}))
	t.follow(KindEndpointSlice(), newRows(db.EndpointSlices, func(_ state.Reader, s *discoveryv1.EndpointSlice) ([]state.EndpointSlice, Problems) {
		row, problems := EndpointSliceRow(s)
		return []state.EndpointSlice{row}, problems
	}))
	t.follow(KindNode(), newRows(db.Nodes, func(_ state.Reader, n *corev1.Node) ([]state.Node, Problems) {
		row, problems := NodeRow(n)
		return []state.Node{row}, problems
	}))
	t.follow(KindNamespace(), newRows(db.Namespaces, func(_ state.Reader, n *corev1.Namespace) ([]state.Namespace, Problems) {
		return []state.Namespace{{Name: n.Name, Labels: n.Labels}}, nil
	}))
	t.follow(KindLease(), newRows(db.NodeLeases, func(_ state.Reader, l *coordinationv1.Lease) ([]state.NodeLease, Problems) {
		row, problems, ok := NodeLeaseRow(l)
		if !ok || row.Node != l.Name {
			return nil, nil
		}
		return []state.NodeLease{row}, problems
	}))
	t.follow(KindSecret(), t.secrets)
	t.follow(KindIPPool(), newRows(db.Pools, t.pools))
	t.follow(KindL2Policy(), newRows(db.L2Policies, t.policies))
	t.follow(KindAnnouncementSlice(), &assignedRows{assigned: db.Assigned, slices: map[string][]state.Assignment{}})
	t.followForeign()
	t.followBGP()
	t.followForeignBGP()
	return t
}

func (t *Tables) follow(k Kind, f follower) {
	t.kinds = append(t.kinds, k)
	t.followers[k.key()] = f
	t.wait(k, f.table(), f.markSynced)
}

// wait has a table wait for the kind to be heard of.
func (t *Tables) wait(k Kind, table string, markSynced func(*state.Tx)) {
	if t.waiting[table] == nil {
		t.waiting[table] = &waiting{kinds: map[string]bool{}, markSynced: markSynced}
	}
	t.waiting[table].kinds[k.key()] = true
}

// heard records that all there is of the kind is in the tables.
func (t *Tables) heard(tx *state.Tx, kind Kind) {
	for table, waiting := range t.waiting {
		delete(waiting.kinds, kind.key())
		if len(waiting.kinds) == 0 {
			delete(t.waiting, table)
			waiting.markSynced(tx)
		}
	}
}

// waiting is a table that still has to hear of kinds before it is synced.
type waiting struct {
	kinds      map[string]bool // by Kind.key
	markSynced func(*state.Tx)
}

func (t *Tables) pools(r state.Reader, p *v1alpha1.IPPool) ([]state.Pool, Problems) {
	var last *state.Pool
	if row, ok := t.db.Pools.Get(r, p.Name); ok {
		last = &row
	}
	return []state.Pool{PoolRow(p, last)}, nil
}

func (t *Tables) policies(r state.Reader, p *v1alpha1.L2Policy) ([]state.L2Policy, Problems) {
	var last *state.L2Policy
	if row, ok := t.db.L2Policies.Get(r, p.Name); ok {
		last = &row
	}
	return []state.L2Policy{L2PolicyRow(p, last)}, nil
}

// Kinds are the kinds whose objects have rows.
func (t *Tables) Kinds() []Kind { return t.kinds }

// ObjectKey is how Tables names an object: namespace/name, or name alone.
func ObjectKey(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// Put takes in an object that is new or has changed. An object of another
// project is left to that project's own programs, if Agents has such.
func (t *Tables) Put(tx *state.Tx, kind Kind, name string, obj any) {
	if kind.foreignBGP() {
		t.bgp.put(tx, kind, name, obj)
		return
	}
	if kind.dependent() {
		if t.kept[kind.key()] == nil {
			t.kept[kind.key()] = map[string]any{}
		}
		t.kept[kind.key()][name] = obj
	}
	t.put(tx, kind, name, obj)
	t.putDependents(tx, kind)
}

func (t *Tables) put(tx *state.Tx, kind Kind, name string, obj any) {
	f := t.followers[kind.key()]
	if by, left := LeftTo(kind, t.db.Agents.All(tx)); left {
		f.remove(tx, name)
		t.setProblems(tx, kind, name, Problems{leftProblem(kind, by)})
		return
	}
	problems, err := f.put(tx, name, obj)
	if err != nil {
		t.log.Error("read object from store", "object", kind.Kind+" "+name, "err", err)
		return
	}
	t.setProblems(tx, kind, name, problems)
}

// Remove takes in that an object is gone.
func (t *Tables) Remove(tx *state.Tx, kind Kind, name string) {
	if kind.foreignBGP() {
		t.bgp.remove(tx, kind, name)
		return
	}
	t.followers[kind.key()].remove(tx, name)
	delete(t.kept[kind.key()], name)
	t.setProblems(tx, kind, name, nil)
	t.putDependents(tx, kind)
}

// dependent says whether what becomes of an object of the kind depends on others.
func (k Kind) dependent() bool { return k.Foreign() || k.key() == KindBGPPeer().key() }

// putDependents takes in anew what depends on objects of the kind.
func (t *Tables) putDependents(tx *state.Tx, changed Kind) {
	switch changed.key() {
	case KindSecret().key():
		t.putKept(tx, KindBGPPeer())
		t.bgp.settle(tx)
	case KindBGPPeer().key():
		t.secrets.forget(tx)
	}
}

// putKept takes in anew the objects of a kind that are kept.
func (t *Tables) putKept(tx *state.Tx, kind Kind) {
	for _, name := range slices.Sorted(maps.Keys(t.kept[kind.key()])) {
		t.put(tx, kind, name, t.kept[kind.key()][name])
	}
}

// Replace makes objects all there is of the kind. A table is synced when that
// was said of every kind whose rows are in it.
func (t *Tables) Replace(tx *state.Tx, kind Kind, objects map[string]any) {
	if kind.foreignBGP() {
		t.bgp.replace(tx, kind, objects)
		t.heard(tx, kind)
		return
	}
	f := t.followers[kind.key()]
	for _, name := range slices.AppendSeq(f.names(), maps.Keys(t.kept[kind.key()])) {
		if _, ok := objects[name]; !ok {
			t.Remove(tx, kind, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		t.Put(tx, kind, name, objects[name])
	}
	t.heard(tx, kind)
	t.putDependents(tx, kind)
}

// Agree gives other projects' objects rows, or takes them, as Agents now says.
// It is called in the update that changes Agents: a Service that is no longer
// left to a program must not be seen without the pool that its address is of.
func (t *Tables) Agree(tx *state.Tx) {
	for _, kind := range t.kinds {
		if kind.Foreign() && !kind.foreignBGP() {
			t.putKept(tx, kind)
		}
	}
	t.bgp.settle(tx)
}

// setProblems makes problems what is said of the object.
func (t *Tables) setProblems(tx *state.Tx, kind Kind, name string, problems Problems) {
	ref := kind.ref(name)
	rows := map[string]state.Problem{}
	for _, p := range problems {
		row := state.Problem{Object: ref, Field: p.Field, Message: p.Message, Cure: p.Cure}
		rows[row.RowKey()] = row
	}
	for old := range t.db.SourceProblems.By(tx, state.IndexObject, ref.String()) {
		if row, still := rows[old.RowKey()]; still && row == old {
			delete(rows, old.RowKey())
		} else if !still && old.Object == ref {
			t.db.SourceProblems.Delete(tx, old.RowKey())
		}
	}
	for _, row := range rows {
		t.log.Warn("an object cannot be honoured as it is written", "problem", row.String())
		t.db.SourceProblems.Put(tx, row)
	}
}

// ref of the object with that key.
func (k Kind) ref(key string) state.ObjectRef {
	ref := state.ObjectRef{Group: k.Group, Kind: k.Kind, Name: key}
	if namespace, name, ok := strings.Cut(key, "/"); ok {
		ref.Namespace, ref.Name = namespace, name
	}
	return ref
}

// rows is the follower of a kind whose objects are rows of a table that other
// kinds may have rows in, too.
type rows[O any, T state.Row] struct {
	rows state.Table[T]
	of   func(r state.Reader, obj *O) ([]T, Problems)
	// held are the keys of each object's rows.
	held map[string][]string
}

func newRows[O any, T state.Row](table state.Table[T], of func(state.Reader, *O) ([]T, Problems)) *rows[O, T] {
	return &rows[O, T]{table, of, map[string][]string{}}
}

func (f *rows[O, T]) table() string { return f.rows.Name() }

func (f *rows[O, T]) names() []string { return slices.Collect(maps.Keys(f.held)) }

func (f *rows[O, T]) markSynced(tx *state.Tx) { f.rows.MarkSynced(tx) }

func (f *rows[O, T]) put(tx *state.Tx, name string, obj any) (Problems, error) {
	typed, err := asObject[O](obj)
	if err != nil {
		return nil, err
	}
	if o, ok := any(typed).(metav1.Object); ok && ObjectKey(o.GetNamespace(), o.GetName()) != name {
		return nil, fmt.Errorf("decode: it calls itself %s", ObjectKey(o.GetNamespace(), o.GetName()))
	}
	rows, problems := f.of(tx, typed)
	keys := make([]string, len(rows))
	for i, row := range rows {
		keys[i] = row.RowKey()
		if old, ok := f.rows.Get(tx, keys[i]); !ok || !reflect.DeepEqual(old, row) {
			f.rows.Put(tx, row)
		}
	}
	for _, key := range f.held[name] {
		if !slices.Contains(keys, key) {
			f.rows.Delete(tx, key)
		}
	}
	f.held[name] = keys
	return problems, nil
}

func (f *rows[O, T]) remove(tx *state.Tx, name string) {
	for _, key := range f.held[name] {
		f.rows.Delete(tx, key)
	}
	delete(f.held, name)
}

// asObject returns obj as its Go type.
func asObject[O any](obj any) (*O, error) {
	switch v := obj.(type) {
	case *O:
		return v, nil
	case []byte:
		typed := new(O)
		if err := json.Unmarshal(v, typed); err != nil {
			return nil, fmt.Errorf("decode: %w", err)
		}
		return typed, nil
	case *unstructured.Unstructured:
		return typedObject[O](v)
	}
	return nil, fmt.Errorf("decode: %T is no %T", obj, new(O))
}

// assignedRows is the follower of AnnouncementSlices: many rows in each. An
// address that stands in two slices, for as long as that is, has the row of
// the higher generation.
type assignedRows struct {
	assigned state.Table[state.Assignment]
	slices   map[string][]state.Assignment
}

func (f *assignedRows) table() string { return f.assigned.Name() }

func (f *assignedRows) names() []string { return slices.Collect(maps.Keys(f.slices)) }

func (f *assignedRows) markSynced(tx *state.Tx) { f.assigned.MarkSynced(tx) }

func (f *assignedRows) put(tx *state.Tx, name string, obj any) (Problems, error) {
	slice, err := asObject[v1alpha1.AnnouncementSlice](obj)
	if err != nil {
		return nil, err
	}
	rows, problems := AssignmentRows(slice)
	before := f.slices[name]
	f.slices[name] = rows
	f.settle(tx, before, rows)
	return problems, nil
}

func (f *assignedRows) remove(tx *state.Tx, name string) {
	before := f.slices[name]
	delete(f.slices, name)
	f.settle(tx, before, nil)
}

// settle brings the table in line for the addresses of a slice as it was and
// as it is.
func (f *assignedRows) settle(tx *state.Tx, before, after []state.Assignment) {
	touched := make(map[netip.Addr]bool, len(before)+len(after))
	for _, rows := range [][]state.Assignment{before, after} {
		for _, row := range rows {
			touched[row.Addr] = true
		}
	}
	best := f.latest(touched)
	for addr := range touched {
		row, wanted := best[addr]
		old, there := f.assigned.Get(tx, addr.String())
		switch {
		case wanted && (!there || !old.SameSpec(row)):
			f.assigned.Put(tx, row)
		case !wanted && there:
			f.assigned.Delete(tx, addr.String())
		}
	}
}

// latest returns the row of the highest generation for each of the addresses.
func (f *assignedRows) latest(addrs map[netip.Addr]bool) map[netip.Addr]state.Assignment {
	best := map[netip.Addr]state.Assignment{}
	for _, rows := range f.slices {
		for _, row := range rows {
			if !addrs[row.Addr] {
				continue
			}
			if other, twice := best[row.Addr]; !twice || other.Generation < row.Generation {
				best[row.Addr] = row
			}
		}
	}
	return best
}
