package state

import (
	"slices"

	"github.com/hashicorp/go-memdb"
)

// Collector gathers which rows of a table change, for who decides by the change
// and does not look at all rows each time.
type Collector struct {
	w     *Writer
	table string
	keys  map[string]bool
}

// Collect returns a Collector of the named table. Its first Snapshot is the one
// to look at all rows of.
func (w *Writer) Collect(table string) *Collector {
	c := &Collector{w: w, table: table, keys: map[string]bool{}}
	w.mu.Lock() // an update that is going on keeps no account of what it changes
	defer w.mu.Unlock()
	w.commit.Lock()
	defer w.commit.Unlock()
	w.collectors = append(w.collectors, c)
	return c
}

// Take returns a Snapshot, and the keys of the rows that have changed since the
// one before: that are new, others than they were, or gone.
func (c *Collector) Take() (Snapshot, []string) {
	c.w.commit.Lock()
	defer c.w.commit.Unlock()
	keys := make([]string, 0, len(c.keys))
	for key := range c.keys {
		keys = append(keys, key)
	}
	clear(c.keys)
	return c.w.db.Snapshot(), keys
}

// Close ends the collection.
func (c *Collector) Close() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.commit.Lock()
	defer c.w.commit.Unlock()
	c.w.collectors = slices.DeleteFunc(c.w.collectors, func(o *Collector) bool { return o == c })
}

// collect commits txn, and tells the Collectors of it in the same moment.
func (w *Writer) collect(txn *memdb.Txn) {
	w.commit.Lock()
	defer w.commit.Unlock()
	if len(w.collectors) > 0 {
		for _, change := range txn.Changes() {
			row := change.After
			if row == nil {
				row = change.Before
			}
			for _, c := range w.collectors {
				if c.table == change.Table {
					c.keys[row.(Row).RowKey()] = true
				}
			}
		}
	}
	txn.Commit()
}
