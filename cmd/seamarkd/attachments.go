package main

import (
	"context"
	"errors"

	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/state"
)

// attachments brings Attachment rows onto the devices.
type attachments struct{ kern *kernel.Kernel }

func (a attachments) Update(_ context.Context, row state.Attachment) error {
	_, err := a.kern.Attach(row.Device)
	return err
}

func (a attachments) Delete(_ context.Context, row state.Attachment) error {
	return a.kern.Detach(row.Device)
}

func (a attachments) Prune(_ context.Context, wanted []state.Attachment) error {
	keep := map[string]bool{}
	for _, row := range wanted {
		keep[row.Device] = true
	}
	var errs []error
	for _, at := range a.kern.Attached() {
		if !keep[at.Device] {
			errs = append(errs, a.kern.Detach(at.Device))
		}
	}
	return errors.Join(errs...)
}
