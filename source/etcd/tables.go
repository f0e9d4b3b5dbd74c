package etcd

import (
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// tables hands keys on to the rows.
type tables struct {
	*source.Tables
	store store
}

// object says which object the key is; ok is false for keys of kinds that
// have no rows.
func (t tables) object(kv *mvccpb.KeyValue) (kind source.Kind, name string, ok bool) {
	for _, kind := range t.Kinds() {
		if name, ok := objectKey(t.store.kindPrefix(kind), kv); ok {
			return kind, name, true
		}
	}
	return source.Kind{}, "", false
}

// replace makes kvs all there is.
func (t tables) replace(tx *state.Tx, kvs []*mvccpb.KeyValue) {
	all := map[string]map[string]any{}
	for _, kv := range kvs {
		kind, name, ok := t.object(kv)
		if !ok {
			continue
		}
		prefix := t.store.kindPrefix(kind)
		if all[prefix] == nil {
			all[prefix] = map[string]any{}
		}
		all[prefix][name] = kv.Value
	}
	for _, kind := range t.Kinds() {
		t.Replace(tx, kind, all[t.store.kindPrefix(kind)])
	}
}

func (t tables) apply(tx *state.Tx, events []*clientv3.Event) {
	for _, e := range events {
		kind, name, ok := t.object(e.Kv)
		switch {
		case !ok:
		case e.Type == clientv3.EventTypeDelete:
			t.Remove(tx, kind, name)
		default:
			t.Put(tx, kind, name, e.Kv.Value)
		}
	}
}
