// Package news decides what people hear as Kubernetes Events when rows change.
//
// It is pure: two snapshots go in, Events come out; whoever calls it keeps the
// first and sends the second. Nothing is told of what was so before, and at
// most a bounded number of Events of any change, however large.
package news
