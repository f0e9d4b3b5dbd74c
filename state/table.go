package state

import (
	"fmt"
	"iter"

	"github.com/hashicorp/go-memdb"
)

// Row is a value with a key that is unique in its table.
type Row interface{ RowKey() string }

// Reader is what rows are read through: a Snapshot, or a Tx that sees its own writes.
type Reader interface{ txn() *memdb.Txn }

// Index finds rows by something other than their key. A row may have several
// values in an index, or none.
type Index[T Row] struct {
	Name   string
	Values func(T) []string
}

// Table is a typed view of one memdb table. The zero Table is of no use; the
// tables there are, are the fields of DB.
type Table[T Row] struct {
	name    string
	indexes []Index[T]
}

const idIndex = "id"

func newTable[T Row](schema *memdb.DBSchema, name string, indexes ...Index[T]) Table[T] {
	s := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{
		idIndex: {Name: idIndex, Unique: true, Indexer: keyIndexer[T]{}},
	}}
	for _, ix := range indexes {
		s.Indexes[ix.Name] = &memdb.IndexSchema{Name: ix.Name, AllowMissing: true, Indexer: valueIndexer[T]{ix.Values}}
	}
	schema.Tables[name] = s
	return Table[T]{name: name, indexes: indexes}
}

// Name of the table.
func (t Table[T]) Name() string { return t.name }

// Get returns the row with that key.
func (t Table[T]) Get(r Reader, key string) (row T, ok bool) {
	raw, err := r.txn().First(t.name, idIndex, key)
	if err != nil {
		panic(fmt.Sprintf("read table %s: %v", t.name, err)) // a schema error, not a runtime one
	}
	if raw == nil {
		return row, false
	}
	return raw.(T), true
}

// All yields every row in the order of the keys.
func (t Table[T]) All(r Reader) iter.Seq[T] { return t.seq(r, idIndex) }

// By yields the rows that have value in the named index, in the order of the keys.
func (t Table[T]) By(r Reader, index, value string) iter.Seq[T] { return t.seq(r, index, value) }

func (t Table[T]) seq(r Reader, index string, args ...any) iter.Seq[T] {
	return func(yield func(T) bool) {
		it, err := r.txn().Get(t.name, index, args...)
		if err != nil {
			panic(fmt.Sprintf("read table %s by %s: %v", t.name, index, err))
		}
		for raw := it.Next(); raw != nil; raw = it.Next() {
			if !yield(raw.(T)) {
				return
			}
		}
	}
}

// Rows returns every row in the order of the keys.
func (t Table[T]) Rows(r Reader) []T {
	var rows []T
	for row := range t.All(r) {
		rows = append(rows, row)
	}
	return rows
}

// Changed returns a channel that closes when the table is no longer as r sees it.
func (t Table[T]) Changed(r Reader) <-chan struct{} {
	it, err := r.txn().Get(t.name, idIndex)
	if err != nil {
		panic(fmt.Sprintf("watch table %s: %v", t.name, err))
	}
	return it.WatchCh()
}

// Put inserts the row, or replaces the one with its key.
func (t Table[T]) Put(tx *Tx, row T) {
	if err := tx.mem.Insert(t.name, row); err != nil {
		panic(fmt.Sprintf("insert into table %s: %v", t.name, err))
	}
}

// Delete removes the row with that key, if there is one.
func (t Table[T]) Delete(tx *Tx, key string) {
	if _, err := tx.mem.DeleteAll(t.name, idIndex, key); err != nil {
		panic(fmt.Sprintf("delete from table %s: %v", t.name, err))
	}
}

// Replace makes rows the whole content of the table. Rows that compare equal
// by same are left as they are, so that nobody is woken for nothing.
func (t Table[T]) Replace(tx *Tx, rows []T, same func(a, b T) bool) {
	keep := make(map[string]bool, len(rows))
	for _, row := range rows {
		keep[row.RowKey()] = true
		if old, ok := t.Get(tx, row.RowKey()); ok && same(old, row) {
			continue
		}
		t.Put(tx, row)
	}
	for _, old := range t.Rows(tx) {
		if !keep[old.RowKey()] {
			t.Delete(tx, old.RowKey())
		}
	}
}

// MarkSynced records that the table holds all that its source has: from here
// on, what is not in it does not exist.
func (t Table[T]) MarkSynced(tx *Tx) { tx.Mark(syncedMark(t.name)) }

// Synced says whether MarkSynced was called.
func (t Table[T]) Synced(r Reader) bool { return Marked(r, syncedMark(t.name)) }

func syncedMark(table string) string { return "synced/" + table }

// keyIndexer indexes by RowKey. The trailing NUL keeps a key from being a
// prefix of another, as memdb's radix tree requires.
type keyIndexer[T Row] struct{}

func (keyIndexer[T]) FromObject(raw any) (bool, []byte, error) {
	return true, indexKey(raw.(T).RowKey()), nil
}

func (keyIndexer[T]) FromArgs(args ...any) ([]byte, error) { return indexArg(args) }

type valueIndexer[T Row] struct{ values func(T) []string }

func (ix valueIndexer[T]) FromObject(raw any) (bool, [][]byte, error) {
	values := ix.values(raw.(T))
	keys := make([][]byte, len(values))
	for i, v := range values {
		keys[i] = indexKey(v)
	}
	return len(keys) > 0, keys, nil
}

func (ix valueIndexer[T]) FromArgs(args ...any) ([]byte, error) { return indexArg(args) }

func indexArg(args []any) ([]byte, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("look up index: %d arguments, want 1", len(args))
	}
	s, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("look up index: argument is %T, want string", args[0])
	}
	return indexKey(s), nil
}

func indexKey(s string) []byte { return append([]byte(s), 0) }
