// Package state is Seamark's vocabulary and its memory: the rows that every
// other package speaks in, the tables that hold them, the Writer that alone
// may change them, and the loop that brings targets in line with them.
//
// Data goes one way. Sources write what exists; deciders read one immutable
// Snapshot and return rows; a Reconciler hands those rows to a Target (the
// kernel, the wire, the store) and writes what came of it into the row's
// Status. Rows are values: once inserted, nothing a row points to is changed.
package state
