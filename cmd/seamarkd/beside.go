package main

import (
	"context"
	"sync"

	"github.com/seamark-lb/seamark/coexist"
	"github.com/seamark-lb/seamark/state"
)

// beside knows what other programs do on this node of what Seamark does.
type beside struct {
	deciders *deciders

	mu       sync.Mutex
	findings *coexist.Findings // nil before the first look
}

// found takes in what a look at the node found.
func (b *beside) found(f coexist.Findings) {
	b.mu.Lock()
	b.findings = &f
	b.mu.Unlock()
	b.decide(b.deciders.db.Snapshot())
}

// run decides anew whenever the devices that the programs run on change.
func (b *beside) run(ctx context.Context) error {
	db := b.deciders.db
	return db.Follow(ctx, redecide, b.decide, db.Attachments.Watch())
}

func (b *beside) decide(snap state.Snapshot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.findings == nil {
		return
	}
	var outside []string
	for row := range b.deciders.db.Attachments.All(snap) {
		outside = append(outside, row.Device)
	}
	b.deciders.report("beside", coexist.Problems(*b.findings, b.deciders.node, outside, b.deciders.defaults.Forwarding))
}

// notes are what there is to know besides.
func (b *beside) notes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.findings == nil {
		return nil
	}
	return coexist.Notes(*b.findings)
}
