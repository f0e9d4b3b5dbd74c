package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/seamark-lb/seamark/state"
)

// newCounter counts in a datapath with traffic to default/webpod.
func newCounter(t *testing.T) (counter, *datapath.FakeMaps) {
	t.Helper()
	l, fake := newLister(t)
	collector := &collect.Collector{Tables: collect.Tables(fake.Maps, func(string) uint32 { return 10 }), Timeouts: collect.DefaultTimeouts(),
		Now: collect.Now, Log: slog.New(slog.DiscardHandler)}
	for i, vip := range []netip.AddrPort{listVIP, listVIP6} {
		pod := []netip.AddrPort{listPod, listPod6}[i]
		must(t, fake.Flows.Update(datapath.FlowKey{Pod: pod.Addr(), PodPort: pod.Port(), Client: vip.Addr(), Proto: state.TCP},
			datapath.FlowEntry{VIP: vip.Addr(), Port: vip.Port(), Seen: collect.Now()}))
	}
	counts := func(c datapath.Counters, index uint32, count datapath.Count) {
		must(t, c.(interface {
			Update(uint32, datapath.Count) error
		}).Update(index, count))
	}
	counts(fake.ServiceCounts, 1, datapath.Count{Packets: 12, Bytes: 1200})
	counts(fake.ServiceCounts, 99, datapath.Count{Packets: 5, Bytes: 5}) // of one that is gone
	counts(fake.BackendCounts, 7, datapath.Count{Packets: 11, Bytes: 1100})
	return counter{fake.Maps, l.db, collector}, fake
}

func TestCounts(t *testing.T) {
	c, fake := newCounter(t)
	// While a frontend has another number than its Service's others, they are one all the same.
	must(t, fake.Frontends.Update(datapath.FrontendKey{Addr: listVIP6.Addr(), Port: listVIP6.Port(), Proto: state.TCP}, datapath.FrontendEntry{Service: 3}))
	got, err := c.counts()
	must(t, err)
	want := control.Counts{
		Services: []control.ServiceCount{{Service: "default/webpod", Protocol: "TCP", Packets: 12, Bytes: 1200}, {Service: "kube-system/dns", Protocol: "UDP"}},
		Backends: []control.BackendCount{{Addr: listPod, Packets: 11, Bytes: 1100}},
		Tables:   []control.TableFill{},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("before a pass: %+v, want %+v", got, want)
	}
	c.collector.Pass(t.Context(), false)
	got, err = c.counts()
	must(t, err)
	if got.Services[0].Flows != 2 || got.Backends[0].Flows != 1 || got.Counted.IsZero() {
		t.Errorf("after a pass: %+v", got)
	}
	if want := []control.TableFill{{Name: "flows", Entries: 1, Max: 10}, {Name: "flows6", Entries: 1, Max: 10}}; !reflect.DeepEqual(got.Tables[:2], want) || len(got.Tables) != 14 {
		t.Errorf("tables %+v", got.Tables)
	}
	for _, name := range []string{"frontends", "backends", "service_counts", "backend_counts"} {
		broken := errors.New("broken")
		fake.Before = func(op datapath.Op) error {
			if op.Map == name {
				return broken
			}
			return nil
		}
		if _, err := c.counts(); !errors.Is(err, broken) {
			t.Errorf("with map %s broken: %v", name, err)
		}
	}
}

func newMetrics(t *testing.T, counts func(counter) (control.Counts, error)) metrics {
	c, _ := newCounter(t)
	c.collector.Pass(t.Context(), false)
	return metrics{counts: func() (control.Counts, error) { return counts(c) }, report: c.collector.Report, log: slog.New(slog.DiscardHandler),
		verdicts: func() ([]kernel.Verdict, error) {
			return []kernel.Verdict{{Hook: "xdp", Reason: "no_backend", Dropped: true, Packets: 3, Bytes: 180}}, nil
		}}
}

// scrape returns Seamark's own series as Prometheus gets them.
func scrape(t *testing.T, m metrics) []string {
	t.Helper()
	handler, err := m.handler()
	must(t, err)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("%d: %s", answer.Code, answer.Body)
	}
	if !strings.Contains(answer.Body.String(), "\ngo_goroutines ") {
		t.Error("nothing of the process itself")
	}
	return slices.DeleteFunc(strings.Split(answer.Body.String(), "\n"), func(line string) bool { return !strings.HasPrefix(line, "seamark_") })
}

func TestMetrics(t *testing.T) {
	lines := scrape(t, newMetrics(t, counter.services))
	for _, want := range []string{
		`seamark_packets_total{dropped="true",hook="xdp",reason="no_backend"} 3`,
		`seamark_bytes_total{dropped="true",hook="xdp",reason="no_backend"} 180`,
		`seamark_service_packets_total{port="",protocol="TCP",service="default/webpod"} 12`,
		`seamark_service_bytes_total{port="",protocol="TCP",service="default/webpod"} 1200`,
		`seamark_service_bytes_total{port="",protocol="UDP",service="kube-system/dns"} 0`,
		`seamark_service_flows{port="",protocol="TCP",service="default/webpod"} 2`,
		`seamark_table_entries{table="flows"} 1`,
		`seamark_table_entries{table="nat_out6"} 0`,
		`seamark_table_max_entries{table="flows"} 10`,
		`seamark_table_pressure{table="flows"} 0.1`,
		`seamark_collect_removed_total{table="pins"} 0`,
		`seamark_collect_passes_total 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %s", want)
		}
	}
	for _, prefix := range []string{"seamark_collect_duration_seconds ", `seamark_collect_table_duration_seconds{table="flows"} `} {
		if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, prefix) }) {
			t.Errorf("no line %s", prefix)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(lines, "\n"))
	}
}

// A series for each backend is for those who ask for it.
func TestMetricsOfBackends(t *testing.T) {
	of := func(lines []string) (backends []string) {
		for _, line := range lines {
			if strings.HasPrefix(line, "seamark_backend_") {
				backends = append(backends, line)
			}
		}
		return backends
	}
	if got := of(scrape(t, newMetrics(t, counter.services))); len(got) > 0 {
		t.Errorf("unasked: %v", got)
	}
	want := []string{`seamark_backend_bytes_total{backend="172.20.0.5:8080"} 1100`, `seamark_backend_flows{backend="172.20.0.5:8080"} 1`,
		`seamark_backend_packets_total{backend="172.20.0.5:8080"} 11`}
	if got := of(scrape(t, newMetrics(t, counter.counts))); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// What cannot be read is missing, and nothing else.
func TestMetricsWithoutCounts(t *testing.T) {
	m := newMetrics(t, func(counter) (control.Counts, error) { return control.Counts{}, errors.New("broken") })
	lines := strings.Join(scrape(t, m), "\n")
	if !strings.Contains(lines, `seamark_packets_total{dropped="true"`) || strings.Contains(lines, "seamark_service_") {
		t.Error(lines)
	}
}

func TestServeMetrics(t *testing.T) {
	m := newMetrics(t, counter.services)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := free.Addr().String()
	if err := m.serve(t.Context(), addr); err == nil || !strings.Contains(err.Error(), "listen on --metrics-addr: ") {
		t.Errorf("a port that is taken: %v", err)
	}
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.serve(ctx, addr) }()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		res, err := http.Get("http://" + addr + "/metrics")
		if err == nil {
			text, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || !strings.Contains(string(text), "seamark_service_packets_total") {
				t.Errorf("%s, %v", text, err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
