package etcd

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// tables turns keys into rows. An object that cannot be read is logged, and
// its rows stay as they were.
type tables struct {
	log       *slog.Logger
	followers []follower
}

// follower keeps one table as one kind's keys are. name is the key without
// the kind's prefix.
type follower interface {
	prefix() string
	put(tx *state.Tx, name string, value []byte) error
	remove(tx *state.Tx, name string)
	// replace makes the objects all there is, and marks the table synced.
	replace(tx *state.Tx, objects map[string][]byte) []error
}

func newTables(st store, db *state.DB, log *slog.Logger) *tables {
	t := &tables{log: log}
	warn := func(kind source.Kind, name string, problems source.Problems) {
		for _, p := range problems {
			p.Object = kind.Kind + " " + name
			log.Warn("read object from store", "problem", p.Error())
		}
	}
	t.followers = []follower{
		rows[corev1.Service, state.Service]{st.kindPrefix(source.KindService()), db.Services,
			func(_ state.Reader, name string, s *corev1.Service) (state.Service, bool) {
				row, problems := source.ServiceRow(s)
				warn(source.KindService(), name, problems)
				return row, true
			}},
		rows[discoveryv1.EndpointSlice, state.EndpointSlice]{st.kindPrefix(source.KindEndpointSlice()), db.EndpointSlices,
			func(_ state.Reader, name string, s *discoveryv1.EndpointSlice) (state.EndpointSlice, bool) {
				row, problems := source.EndpointSliceRow(s)
				warn(source.KindEndpointSlice(), name, problems)
				return row, true
			}},
		rows[corev1.Node, state.Node]{st.kindPrefix(source.KindNode()), db.Nodes,
			func(_ state.Reader, name string, n *corev1.Node) (state.Node, bool) {
				row, problems := source.NodeRow(n)
				warn(source.KindNode(), name, problems)
				return row, true
			}},
		rows[v1alpha1.IPPool, state.Pool]{st.kindPrefix(source.KindIPPool()), db.Pools,
			func(r state.Reader, name string, p *v1alpha1.IPPool) (state.Pool, bool) {
				if last, ok := db.Pools.Get(r, name); ok {
					return source.PoolRow(p, &last), true
				}
				return source.PoolRow(p, nil), true
			}},
		rows[v1alpha1.L2Policy, state.L2Policy]{st.kindPrefix(source.KindL2Policy()), db.L2Policies,
			func(r state.Reader, name string, p *v1alpha1.L2Policy) (state.L2Policy, bool) {
				if last, ok := db.L2Policies.Get(r, name); ok {
					return source.L2PolicyRow(p, &last), true
				}
				return source.L2PolicyRow(p, nil), true
			}},
		// Leases have a namespace, rows do not.
		rows[coordinationv1.Lease, state.NodeLease]{st.kindPrefix(source.KindLease()) + source.Namespace + "/", db.NodeLeases,
			func(_ state.Reader, name string, l *coordinationv1.Lease) (state.NodeLease, bool) {
				row, problems, ok := source.NodeLeaseRow(l)
				warn(source.KindLease(), name, problems)
				return row, ok && row.Node == name
			}},
		&assignedRows{st.kindPrefix(source.KindAnnouncementSlice()), db.Assigned, warn, map[string][]state.Assignment{}},
	}
	return t
}

// replace makes kvs all there is.
func (t *tables) replace(tx *state.Tx, kvs []*mvccpb.KeyValue) {
	for _, f := range t.followers {
		objects := map[string][]byte{}
		for _, kv := range kvs {
			if name, ok := objectKey(f.prefix(), kv); ok {
				objects[name] = kv.Value
			}
		}
		for _, err := range f.replace(tx, objects) {
			t.log.Error("read object from store", "err", err)
		}
	}
}

func (t *tables) apply(tx *state.Tx, events []*clientv3.Event) {
	for _, e := range events {
		for _, f := range t.followers {
			name, ok := objectKey(f.prefix(), e.Kv)
			if !ok {
				continue
			}
			if e.Type == clientv3.EventTypeDelete {
				f.remove(tx, name)
			} else if err := f.put(tx, name, e.Kv.Value); err != nil {
				t.log.Error("read object from store", "err", err)
			}
		}
	}
}

// rows is the follower of a kind whose objects are one row each, with the
// name as its key.
type rows[O any, T state.Row] struct {
	keyPrefix string
	table     state.Table[T]
	// row of an object; false when it has none.
	row func(r state.Reader, name string, obj *O) (T, bool)
}

func (f rows[O, T]) prefix() string { return f.keyPrefix }

func (f rows[O, T]) put(tx *state.Tx, name string, value []byte) error {
	row, ok, err := f.read(tx, name, value)
	switch {
	case err != nil:
		return err
	case ok:
		f.table.Put(tx, row)
	default:
		f.table.Delete(tx, name)
	}
	return nil
}

func (f rows[O, T]) read(r state.Reader, name string, value []byte) (row T, ok bool, err error) {
	obj := new(O)
	if err := json.Unmarshal(value, obj); err != nil {
		return row, false, fmt.Errorf("decode %s%s: %w", f.keyPrefix, name, err)
	}
	row, ok = f.row(r, name, obj)
	if ok && row.RowKey() != name {
		return row, false, fmt.Errorf("decode %s%s: the object is named %s", f.keyPrefix, name, row.RowKey())
	}
	return row, ok, nil
}

func (f rows[O, T]) remove(tx *state.Tx, name string) { f.table.Delete(tx, name) }

func (f rows[O, T]) replace(tx *state.Tx, objects map[string][]byte) []error {
	var errs []error
	var all []T
	for name, value := range objects {
		row, ok, err := f.read(tx, name, value)
		if err != nil {
			errs = append(errs, err)
			row, ok = f.table.Get(tx, name)
		}
		if ok {
			all = append(all, row)
		}
	}
	f.table.Replace(tx, all, func(a, b T) bool { return reflect.DeepEqual(a, b) })
	f.table.MarkSynced(tx)
	return errs
}

// assignedRows is the follower of AnnouncementSlices: many rows in each. An
// address that stands in two slices, for as long as that is, has the row of
// the higher generation.
type assignedRows struct {
	keyPrefix string
	table     state.Table[state.Assignment]
	warn      func(source.Kind, string, source.Problems)
	slices    map[string][]state.Assignment
}

func (f *assignedRows) prefix() string { return f.keyPrefix }

func (f *assignedRows) read(name string, value []byte) ([]state.Assignment, error) {
	var slice v1alpha1.AnnouncementSlice
	if err := json.Unmarshal(value, &slice); err != nil {
		return nil, fmt.Errorf("decode %s%s: %w", f.keyPrefix, name, err)
	}
	rows, problems := source.AssignmentRows(&slice)
	f.warn(source.KindAnnouncementSlice(), name, problems)
	return rows, nil
}

func (f *assignedRows) put(tx *state.Tx, name string, value []byte) error {
	rows, err := f.read(name, value)
	if err != nil {
		return err
	}
	before := f.slices[name]
	f.slices[name] = rows
	f.settle(tx, before, rows)
	return nil
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
		old, there := f.table.Get(tx, addr.String())
		switch {
		case wanted && (!there || !old.SameSpec(row)):
			f.table.Put(tx, row)
		case !wanted && there:
			f.table.Delete(tx, addr.String())
		}
	}
}

// latest returns the row of the highest generation for each address asked
// for; nil asks for all.
func (f *assignedRows) latest(addrs map[netip.Addr]bool) map[netip.Addr]state.Assignment {
	best := map[netip.Addr]state.Assignment{}
	for _, rows := range f.slices {
		for _, row := range rows {
			if addrs != nil && !addrs[row.Addr] {
				continue
			}
			if other, twice := best[row.Addr]; !twice || other.Generation < row.Generation {
				best[row.Addr] = row
			}
		}
	}
	return best
}

func (f *assignedRows) replace(tx *state.Tx, objects map[string][]byte) []error {
	var errs []error
	fresh := make(map[string][]state.Assignment, len(objects))
	for name, value := range objects {
		rows, err := f.read(name, value)
		if err != nil {
			errs = append(errs, err)
			rows = f.slices[name]
		}
		fresh[name] = rows
	}
	f.slices = fresh
	all := slices.Collect(maps.Values(f.latest(nil)))
	f.table.Replace(tx, all, state.Assignment.SameSpec)
	f.table.MarkSynced(tx)
	return errs
}
