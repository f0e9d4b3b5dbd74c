package outage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seamark-lb/seamark/testlab"
)

// Fault is something that goes wrong, and comes right again.
type Fault struct {
	Name string
	// Inject does it, and Heal undoes it.
	Inject, Heal func(ctx context.Context, l lab, c cast) error
	// Lasts is the time between the two.
	Lasts time.Duration
	// Dead are the nodes whose pods cannot be reached meanwhile.
	Dead func(cast) []string
	// OneNode: the holder is to be the coordinator, too. Otherwise a node
	// behind the router is.
	OneNode bool
	// DaemonArgs are more arguments for the nodes' seamarkd.
	DaemonArgs []string
}

// cast is who is who in a run.
type cast struct{ holder, coordinator string }

func nobody(cast) []string { return nil }

func theHolder(c cast) []string { return []string{c.holder} }

// daemonOf acts on the holder's daemon.
func daemonOf(action string) func(context.Context, lab, cast) error {
	return func(ctx context.Context, l lab, c cast) error { return l.Daemon(ctx, c.holder, action) }
}

// cable pulls the holder's cables, or plugs them in.
func cable(up bool, interfaces ...string) func(context.Context, lab, cast) error {
	return func(_ context.Context, l lab, c cast) error {
		var errs []error
		for _, i := range interfaces {
			errs = append(errs, l.SetLink(c.holder, i, up))
		}
		return errors.Join(errs...)
	}
}

func powerOff(_ context.Context, l lab, c cast) error { return l.PowerOff(c.holder) }

func powerOn(ctx context.Context, l lab, c cast) error { return l.PowerOn(ctx, c.holder) }

// delayed is the API slow by d each way.
func delayed(d time.Duration) func(context.Context, lab, cast) error {
	return func(ctx context.Context, l lab, _ cast) error { return l.DelayAPI(ctx, d) }
}

func nothing(context.Context, lab, cast) error { return nil }

// moving is longer than any takeover should last.
const moving = 12 * time.Second

// Faults are those that are measured, in the order of the table.
var Faults = []Fault{
	{Name: "nothing at all", Inject: nothing, Heal: nothing, Lasts: 5 * time.Second, Dead: nobody},
	{Name: "drained", Lasts: 3 * time.Second, Dead: nobody,
		Inject: func(ctx context.Context, l lab, c cast) error { return l.tell(ctx, "drain", c.holder) },
		Heal:   func(ctx context.Context, l lab, c cast) error { return l.tell(ctx, "undrain", c.holder) }},
	{Name: "daemon restarted", Inject: daemonOf(testlab.Stop), Heal: daemonOf(testlab.Start), Lasts: time.Second, Dead: nobody},
	{Name: "daemon SIGKILLed", Inject: daemonOf(testlab.Kill), Heal: daemonOf(testlab.Start), Lasts: moving, Dead: nobody},
	{Name: "daemon SIGSTOPped", Inject: daemonOf(testlab.Pause), Heal: daemonOf(testlab.Resume), Lasts: moving, Dead: nobody},
	{Name: "power off", Inject: powerOff, Heal: powerOn, Lasts: moving, Dead: theHolder},
	{Name: "power off, coordinator as well", Inject: powerOff, Heal: powerOn, Lasts: moving, Dead: theHolder, OneNode: true},
	{Name: "cut off from the API", Inject: cable(false, "eth0"), Heal: cable(true, "eth0"), Lasts: moving, Dead: nobody},
	{Name: "cut off from the segment", Inject: cable(false, "eth1"), Heal: cable(true, "eth1"), Lasts: moving, Dead: theHolder},
	{Name: "cut off from both", Inject: cable(false, "eth0", "eth1"), Heal: cable(true, "eth0", "eth1"), Lasts: moving, Dead: theHolder},
	{Name: "API gone for 60 s", Lasts: time.Minute, Dead: nobody,
		Inject: func(ctx context.Context, l lab, _ cast) error { return l.StopAPI(ctx) },
		Heal:   func(ctx context.Context, l lab, _ cast) error { return l.StartAPI(ctx) }},
	{Name: "API slow, 5 s a call", Inject: delayed(2500 * time.Millisecond), Heal: delayed(0), Lasts: 20 * time.Second, Dead: nobody},
	{Name: "coordinator SIGSTOPped", Lasts: moving, Dead: nobody,
		Inject: func(ctx context.Context, l lab, c cast) error { return l.Daemon(ctx, c.coordinator, testlab.Pause) },
		Heal:   func(ctx context.Context, l lab, c cast) error { return l.Daemon(ctx, c.coordinator, testlab.Resume) }},
	{Name: "two coordinators, API slow", Lasts: moving, Dead: nobody, Inject: depose, Heal: returnDeposed},
	{Name: "holder's clock an hour ahead", Lasts: moving, Dead: nobody, Inject: clockStep("1h"), Heal: clockStep("0")},
	{Name: "coordinator's clock an hour behind", Lasts: moving, Dead: nobody, OneNode: true, Inject: clockStep("-1h"), Heal: clockStep("0")},
	{Name: "all daemons restarted at once", Lasts: time.Second, Dead: nobody,
		Inject: func(ctx context.Context, l lab, _ cast) error { return l.each(ctx, nodes, testlab.Stop) },
		Heal:   func(ctx context.Context, l lab, _ cast) error { return l.each(ctx, nodes, testlab.Start) }},
	{Name: "all leases deleted by hand", Inject: deleteLeases, Heal: nothing, Lasts: moving, Dead: nobody},
	{Name: "power off, no BFD", Inject: powerOff, Heal: powerOn, Lasts: moving, Dead: theHolder, DaemonArgs: []string{"--bfd=false"}},
}

// clockStep sets the wall clock of the holder's daemon, as time synchronization does
// with a machine whose clock was wrong. Nothing steps CLOCK_BOOTTIME.
func clockStep(offset string) func(context.Context, lab, cast) error {
	return func(_ context.Context, l lab, c cast) error { return l.StepClock(c.holder, offset) }
}

// slow is how long the API takes each way while coordinators change.
const slow = 200 * time.Millisecond

// depose keeps the coordinator from running until another is elected, with the
// holder's daemon dead: the new one moves the address, which the old one, when it
// is back, knows nothing of.
func depose(ctx context.Context, l lab, c cast) error {
	return errors.Join(l.DelayAPI(ctx, slow), l.Daemon(ctx, c.coordinator, testlab.Pause), l.Daemon(ctx, c.holder, testlab.Kill))
}

// returnDeposed lets it run again, and makes sure that it has decided nothing.
func returnDeposed(ctx context.Context, l lab, c cast) error {
	elected, err := l.status(ctx, back[0])
	if err != nil {
		return err
	}
	moved, err := l.announcement(ctx, back[0])
	if err != nil {
		return err
	}
	if elected.Coordinator.Identity == c.coordinator || moved.Node == c.holder {
		return fmt.Errorf("after %v without its coordinator %s the lab has %s, and %s announces", moving, c.coordinator, elected.Coordinator.Identity, moved.Node)
	}
	if err := errors.Join(l.Daemon(ctx, c.coordinator, testlab.Resume), l.Daemon(ctx, c.holder, testlab.Start)); err != nil {
		return err
	}
	pause(ctx, 3*time.Second)
	now, err := l.announcement(ctx, back[0])
	if err == nil && now != moved {
		err = fmt.Errorf("the coordinator %s came back, and %+v became %+v", c.coordinator, moved, now)
	}
	return errors.Join(err, l.DelayAPI(ctx, 0))
}

// deleteLeases deletes the nodes' leases, as somebody who tidies up does.
func deleteLeases(ctx context.Context, l lab, _ cast) error {
	for _, node := range nodes {
		if err := l.tell(ctx, "delete", "lease", node); err != nil {
			return err
		}
	}
	return nil
}
