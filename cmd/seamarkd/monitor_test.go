package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/packet"
)

var (
	monitorClient = netip.MustParseAddr("10.10.1.200")
	monitorVIP    = netip.MustParseAddr("192.168.10.211")
	webpod        = state.ObjectName{Namespace: "default", Name: "webpod"}
	dns           = state.ObjectName{Namespace: "kube-system", Name: "dns"}
)

// wire is what a monitor watches here.
type wire struct {
	*monitor
	writer  *state.Writer
	events  chan kernel.Event
	filters []kernel.EventFilter
	traces  []string
	failing bool
}

func newWire() *wire {
	w := &wire{events: make(chan kernel.Event)}
	db, writer := state.New()
	writer.Update(func(tx *state.Tx) {
		for name, port := range map[state.ObjectName]uint16{webpod: 80, dns: 53} {
			db.Services.Put(tx, state.Service{Name: name})
			db.Frontends.Put(tx, state.Frontend{Addr: monitorVIP, Port: port, Protocol: state.TCP, Service: name})
		}
	})
	w.writer = writer
	w.monitor = &monitor{db: db, reasons: map[string]bool{"no_backend": true, "reply": false}, log: slog.New(slog.DiscardHandler), traced: map[state.ObjectName]int{},
		watch: func(ctx context.Context, filter kernel.EventFilter) (<-chan kernel.Event, error) {
			if w.failing {
				return nil, errors.New("no ring")
			}
			w.filters = append(w.filters, filter)
			told := make(chan kernel.Event)
			go func() {
				defer close(told)
				for {
					select {
					case <-ctx.Done():
						return
					case e := <-w.events:
						told <- e
					}
				}
			}()
			return told, nil
		},
		trace: func(service state.ObjectName, on bool) error {
			w.traces = append(w.traces, service.String()+map[bool]string{true: " on", false: " off"}[on])
			return nil
		},
	}
	return w
}

func event(action, reason string, layers ...packet.Layer) kernel.Event {
	return kernel.Event{Ifindex: 1, Hook: "xdp", Action: action, Reason: reason, Length: 60, Head: packet.Build(append([]packet.Layer{packet.Ethernet{}}, layers...)...)}
}

func TestMonitorFilters(t *testing.T) {
	toVIP, fromVIP := packet.IPv4{Src: monitorClient, Dst: monitorVIP}, packet.IPv4{Src: monitorVIP, Dst: monitorClient}
	request := event("drop", "no_backend", toVIP, packet.TCP{SrcPort: 4000, DstPort: 80})
	answer := event("redirect", "reply", fromVIP, packet.TCP{SrcPort: 80, DstPort: 4000})
	inside := event("tx", "forward_remote", packet.IPv4{Src: monitorClient, Dst: monitorClient}, toVIP, packet.TCP{SrcPort: 4000, DstPort: 80})
	other := event("drop", "no_backend", toVIP, packet.TCP{SrcPort: 4000, DstPort: 53})
	udp := event("drop", "no_backend", toVIP, packet.UDP{SrcPort: 4000, DstPort: 80})
	elsewhere := request
	elsewhere.Ifindex = 1 << 20
	translated := event("pass", "forward_local", packet.IPv4{Src: monitorClient, Dst: monitorClient}, packet.TCP{SrcPort: 4000, DstPort: 8080})
	translated.Of, translated.Proto = netip.AddrPortFrom(monitorVIP, 80), packet.ProtoTCP
	ofDNS := translated
	ofDNS.Of = netip.AddrPortFrom(monitorVIP, 53)
	all := []kernel.Event{request, answer, inside, other, udp, elsewhere, translated, ofDNS}
	for _, tc := range []struct {
		name   string
		filter control.MonitorFilter
		want   []int // of all
		drops  bool
		traces string
	}{
		{"drops", control.MonitorFilter{Drops: true}, []int{0, 3, 4, 5}, true, ""},
		{"a service", control.MonitorFilter{Service: webpod}, []int{0, 1, 2, 5, 6}, false, "default/webpod on"},
		{"a service's drops", control.MonitorFilter{Service: webpod, Drops: true}, []int{0, 5}, true, ""},
		{"a reason", control.MonitorFilter{Service: webpod, Reason: "reply"}, []int{1}, false, "default/webpod on"},
		{"a device", control.MonitorFilter{Drops: true, Device: "lo"}, []int{0, 3, 4}, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWire()
			if _, err := w.packets(t.Context(), tc.filter); err != nil {
				t.Fatal(err)
			}
			var got []int
			for i, e := range all {
				if w.filters[0].Match(e) {
					got = append(got, i)
				}
			}
			if !slices.Equal(got, tc.want) || w.filters[0].Drops != tc.drops || strings.Join(w.traces, ", ") != tc.traces {
				t.Errorf("lets %v through with drops %v, traces %q; want %v, %v, %q", got, w.filters[0].Drops, w.traces, tc.want, tc.drops, tc.traces)
			}
		})
	}
}

func TestMonitorRefuses(t *testing.T) {
	w := newWire()
	for want, filter := range map[string]control.MonitorFilter{
		`unknown reason "rain": want one of no_backend, reply`: {Drops: true, Reason: "rain"},
		`no packet is dropped for reason "reply"`:              {Drops: true, Reason: "reply"},
		`device "none": `:                 {Drops: true, Device: "none"},
		`service default/none: not found`: {Service: state.ObjectName{Namespace: "default", Name: "none"}},
	} {
		if _, err := w.packets(t.Context(), filter); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", filter, err, want)
		}
	}
	_, err := w.packets(t.Context(), control.MonitorFilter{Service: state.ObjectName{Name: "none"}})
	if !errors.Is(err, source.ErrNotFound) {
		t.Errorf("a service that is not there: %v", err)
	}
	w.failing = true
	if _, err := w.packets(t.Context(), control.MonitorFilter{Service: webpod}); err == nil {
		t.Error("watches without a ring")
	}
	if got := strings.Join(w.traces, ", "); got != "default/webpod on, default/webpod off" {
		t.Errorf("traces %q", got)
	}
}

// A Service is traced from the first to the last who watch it.
func TestMonitorTraces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		traced := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := strings.Join(w.traces, ", "); got != want {
				t.Errorf("traces %q, want %q", got, want)
			}
		}
		first, endFirst := context.WithCancel(t.Context())
		second, endSecond := context.WithCancel(t.Context())
		packets, err := w.packets(first, control.MonitorFilter{Service: webpod})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.packets(second, control.MonitorFilter{Service: webpod}); err != nil {
			t.Fatal(err)
		}
		traced("default/webpod on")
		endSecond()
		traced("default/webpod on")
		go func() {
			w.events <- event("drop", "no_backend", packet.IPv4{Src: monitorClient, Dst: monitorVIP}, packet.TCP{SrcPort: 4000, DstPort: 80})
		}()
		p := <-packets
		if got := p.Packet.String(); p.Device != "lo" || p.Reason != "no_backend" || got != "10.10.1.200:4000 > 192.168.10.211:80 TCP ACK length 40" {
			t.Errorf("told of %+v: %s", p, got)
		}
		endFirst()
		if _, more := <-packets; more {
			t.Error("told of one more")
		}
		traced("default/webpod on, default/webpod off")
	})
}

// What a Service gets while it is watched is traced as well, and nothing is when nobody does.
func TestMonitorFollowsNewFrontends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		writer := w.writer
		ctx, end := context.WithCancel(t.Context())
		defer end()
		go w.keep(ctx)
		serve := func(port uint16) {
			writer.Update(func(tx *state.Tx) {
				w.db.Frontends.Put(tx, state.Frontend{Addr: monitorVIP, Port: port, Protocol: state.TCP, Service: webpod})
			})
			time.Sleep(2 * time.Second) // of the bubble's clock
			synctest.Wait()
		}
		serve(81)
		if len(w.traces) != 0 {
			t.Errorf("traced %v, and nobody watches", w.traces)
		}
		watch, stop := context.WithCancel(ctx)
		told, err := w.packets(watch, control.MonitorFilter{Service: webpod})
		if err != nil {
			t.Fatal(err)
		}
		serve(82)
		if want := []string{"default/webpod on", "default/webpod on"}; !slices.Equal(w.traces, want) {
			t.Errorf("traced %v, want %v", w.traces, want)
		}
		stop()
		for range told { // until it has ended
		}
		synctest.Wait()
		before := len(w.traces)
		serve(83)
		if len(w.traces) != before || w.traces[before-1] != "default/webpod off" {
			t.Errorf("traced %v", w.traces)
		}
	})
}
