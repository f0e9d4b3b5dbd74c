package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

var webpod = state.ObjectName{Namespace: "default", Name: "webpod"}

func TestList(t *testing.T) {
	broken := errors.New("the map is broken")
	var asked []string
	c, _ := serve(t, &control.Server{List: func(_ context.Context, table string, q control.ListQuery, row func(any) error) (int, error) {
		asked = append(asked, fmt.Sprintf("%s %s %d", table, q.Service, q.Limit))
		if table == "rain" {
			return 0, fmt.Errorf("table rain: %w", source.ErrNotFound)
		}
		for i := range 3 {
			if table == control.TablePins && i == 2 {
				return 0, broken
			}
			if err := row(control.SourceRange{Service: fmt.Sprint(i)}); err != nil {
				return 0, err
			}
		}
		return 39, nil
	}})
	list := func(table string, q control.ListQuery) (got []string, more int, err error) {
		more, err = control.List(t.Context(), c, table, q, func(r control.SourceRange) error {
			got = append(got, r.Service)
			return nil
		})
		return got, more, err
	}
	got, more, err := list(control.TableSources, control.ListQuery{Service: webpod, Limit: 3})
	if strings.Join(got, " ") != "0 1 2" || more != 39 || err != nil {
		t.Errorf("listed %v and %d more, %v", got, more, err)
	}
	// What goes wrong in the middle of it comes after what went well.
	got, _, err = list(control.TablePins, control.ListQuery{})
	if strings.Join(got, " ") != "0 1" || err == nil || err.Error() != broken.Error() {
		t.Errorf("listed %v, %v", got, err)
	}
	if _, _, err := list("rain", control.ListQuery{}); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("a table that is not there: %v", err)
	}
	if _, _, err := list(control.TableSources, control.ListQuery{Limit: -1}); err == nil || !strings.Contains(err.Error(), `limit "-1"`) {
		t.Errorf("a limit below 0: %v", err)
	}
	if want := "sources default/webpod 3, pins / 0, rain / 0"; strings.Join(asked, ", ") != want {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	enough := errors.New("enough")
	if _, err := control.List(t.Context(), c, control.TableSources, control.ListQuery{}, func(control.SourceRange) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a list that its reader ends: %v", err)
	}
}

// A daemon that has no rows, and nothing more, has answered all the same.
func TestListOfNothing(t *testing.T) {
	c, _ := serve(t, &control.Server{List: func(context.Context, string, control.ListQuery, func(any) error) (int, error) { return 0, nil }})
	more, err := control.List(t.Context(), c, control.TableFlows, control.ListQuery{}, func(control.Flow) error { return errors.New("a row") })
	if more != 0 || err != nil {
		t.Errorf("%d more, %v", more, err)
	}
}

func TestMonitor(t *testing.T) {
	var asked control.MonitorFilter
	events := make(chan control.PacketEvent)
	ended := make(chan struct{}, 1)
	c, stop := serve(t, &control.Server{Monitor: func(ctx context.Context, f control.MonitorFilter) (<-chan control.PacketEvent, error) {
		if f.Reason == "rain" {
			return nil, errors.New("unknown reason")
		}
		asked = f
		told := make(chan control.PacketEvent)
		go func() {
			defer close(told)
			for {
				select {
				case <-ctx.Done():
					ended <- struct{}{}
					return
				case e := <-events:
					told <- e
				}
			}
		}()
		return told, nil
	}})
	begun, got, done := make(chan struct{}), make(chan control.PacketEvent), make(chan error)
	watch := func(ctx context.Context, f control.MonitorFilter) {
		go func() {
			done <- c.Monitor(ctx, f, func() { begun <- struct{}{} }, func(e control.PacketEvent) error { got <- e; return nil })
		}()
	}
	within := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: not within 10 s", what)
		}
	}

	// Each packet is told as it comes, and not when there are many.
	filter := control.MonitorFilter{Drops: true, Service: webpod, Reason: "no_backend", Device: "eth1"}
	ctx, cancel := context.WithCancel(t.Context())
	watch(ctx, filter)
	within("begin", begun)
	if asked != filter {
		t.Errorf("asked for %+v, want %+v", asked, filter)
	}
	for i := range 3 {
		events <- control.PacketEvent{Device: "eth1", Reason: "no_backend", Length: i, Head: []byte{1, 2}}
		if e := <-got; e.Length != i || string(e.Head) != "\x01\x02" {
			t.Errorf("told %+v, want number %d", e, i)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("a watcher that went: %v", err)
	}
	within("the daemon's end of it", ended)

	watch(t.Context(), control.MonitorFilter{Reason: "rain"})
	if err := <-done; err == nil || err.Error() != "unknown reason" {
		t.Errorf("an unknown reason: %v", err)
	}

	// The daemon ends.
	watch(t.Context(), control.MonitorFilter{})
	within("begin", begun)
	go stop()
	if err := <-done; err == nil || !strings.HasSuffix(err.Error(), "has stopped") {
		t.Errorf("a daemon that stopped: %v", err)
	}
}

func TestCounts(t *testing.T) {
	c, _ := serve(t, &control.Server{Counts: func() (control.Counts, error) {
		return control.Counts{Services: []control.ServiceCount{{Service: "a/b", Packets: 5, Bytes: 500, Flows: 1}, {Service: "a/c", Packets: 1, Bytes: 100, Flows: 1}},
			Backends: []control.BackendCount{{}}, Tables: []control.TableFill{{Name: "flows", Entries: 1, Max: 2}}}, nil
	}})
	counts, err := c.Counts(t.Context())
	if err != nil || counts.Services[0].Packets != 5 || counts.Tables[0].Max != 2 {
		t.Errorf("%+v, %v", counts, err)
	}
	st, err := c.Status(t.Context())
	if b := st.Balanced; err != nil || b == nil || b.Services != 2 || b.Backends != 1 || b.Packets != 6 || b.Bytes != 600 || b.Flows != 2 || len(b.Tables) != 1 {
		t.Errorf("status: %+v, %v", b, err)
	}
	c, _ = serve(t, &control.Server{Counts: func() (control.Counts, error) { return control.Counts{}, errors.New("broken") }})
	if _, err := c.Counts(t.Context()); err == nil {
		t.Error("no error")
	}
	if st, err := c.Status(t.Context()); err != nil || st.Balanced != nil {
		t.Errorf("status: %+v, %v", st.Balanced, err)
	}
}
