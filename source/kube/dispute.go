package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dispute is about the addresses in one Service's status: another controller
// writes them, too. Two that both insist would write for ever, so Seamark gives
// in, says so in the Service's condition, and tries again once in a while: the
// other may have gone, and what it wrote not.
type dispute struct {
	// overwritten is when (CLOCK_BOOTTIME) the other last wrote over what was ours.
	overwritten time.Duration
	// manager is who did, once Seamark has given in; "" before.
	manager string
	// seen is the version of the Service at the last look.
	seen int64
}

// disputeWindow is how close together two overwrites are no accident.
const disputeWindow = 10 * time.Minute

// errDisputed is why Seamark does not write a Service.
type errDisputed struct {
	service state.ObjectName
	manager string
}

func (e errDisputed) Error() string {
	return fmt.Sprintf("write status of Service %s: %s", e.service, e.message())
}

func (e errDisputed) message() string {
	return fmt.Sprintf("%s writes status.loadBalancer, too: stop that controller (Seamark tries again within %d minutes), "+
		"or create the Service anew with a spec.loadBalancerClass", e.manager, int(disputeWindow.Minutes()))
}

func (d *dispute) err(name state.ObjectName) error { return errDisputed{name, d.manager} }

// mayWrite returns an error when Seamark has given in to another controller.
// overwritten: what Seamark wrote is there no longer.
func (a *allocations) mayWrite(ctx context.Context, row state.Allocation, overwritten bool) error {
	a.mu.Lock()
	d := a.disputed[row.Service]
	a.mu.Unlock()
	version := a.version(source.KindService(), row.Service.String())
	switch {
	case d == nil && !overwritten:
		return nil
	case d != nil && d.manager == "" && !overwritten:
		return nil
	case d != nil && d.manager != "" && version <= d.seen && source.Boottime()-d.overwritten <= disputeWindow:
		return d.err(row.Service)
	}
	manager, seen, err := a.statusManager(ctx, row)
	if err != nil {
		return err
	}
	d = d.look(manager, seen, source.Boottime())
	a.mu.Lock()
	defer a.mu.Unlock()
	if d == nil {
		delete(a.disputed, row.Service)
		return nil
	}
	a.disputed[row.Service] = d
	if d.manager != "" {
		return d.err(row.Service)
	}
	return nil
}

// look is the dispute, nil for none, after it was seen at now that manager ("":
// nobody else) wrote the addresses that are in the status.
func (d *dispute) look(manager string, version int64, now time.Duration) *dispute {
	switch {
	case manager == "":
		return nil
	case d == nil, d.manager != "" && d.manager != manager, now-d.overwritten > disputeWindow:
		return &dispute{overwritten: now}
	case d.manager != "":
		return &dispute{overwritten: d.overwritten, manager: manager, seen: version}
	}
	return &dispute{overwritten: now, manager: manager, seen: version}
}

// statusManager asks who else wrote the addresses that are in the status.
func (a *allocations) statusManager(ctx context.Context, row state.Allocation) (manager string, version int64, err error) {
	bounded, cancel := a.cfg.bounded(ctx)
	defer cancel()
	svc, err := a.clients.core.CoreV1().Services(row.Service.Namespace).Get(bounded, row.Service.Name, metav1.GetOptions{})
	if gone(err) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("read Service %s: %w", row.Service, a.clients.explain("read", source.KindService(), causeOf(bounded, err)))
	}
	return ingressManager(svc.ManagedFields), revision(svc.ResourceVersion), nil
}

// ingressManager is who of others than Seamark has last written
// status.loadBalancer, "" for nobody.
func ingressManager(entries []metav1.ManagedFieldsEntry) string {
	manager, last := "", time.Time{}
	for _, e := range entries {
		var fields struct {
			Status struct {
				LoadBalancer json.RawMessage `json:"f:loadBalancer"`
			} `json:"f:status"`
		}
		if e.Manager == fieldManager || e.FieldsV1 == nil || json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) != nil || fields.Status.LoadBalancer == nil {
			continue
		}
		if e.Time != nil && !e.Time.Time.Before(last) {
			manager, last = e.Manager, e.Time.Time
		}
	}
	return manager
}
