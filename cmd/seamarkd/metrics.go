package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/datapath/kernel"
)

// metrics are the datapath's counters for Prometheus, read when they are asked
// for. There is a series for each port of a Service, and for each backend only
// when that is wanted: a cluster can have very many.
type metrics struct {
	verdicts func() ([]kernel.Verdict, error)
	counts   func() (control.Counts, error) // with or without backends
	report   func() collect.Report
	log      *slog.Logger
	// more is served besides.
	more []prometheus.Collector
}

var _ prometheus.Collector = metrics{}

func described(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("seamark_"+name, help, labels, nil)
}

var (
	verdictPackets = described("packets_total", "Packets by the program that handled them, what it did and why.", "hook", "reason", "dropped")
	verdictBytes   = described("bytes_total", "Bytes of packets, as of seamark_packets_total.", "hook", "reason", "dropped")
	servicePackets = described("service_packets_total", "Packets that this node sent to the backends of a Service.", "service", "port", "protocol")
	serviceBytes   = described("service_bytes_total", "Bytes of packets, as of seamark_service_packets_total.", "service", "port", "protocol")
	serviceFlows   = described("service_flows", "Established flows of a Service to pods of this node, or translated by it.", "service", "port", "protocol")
	backendPackets = described("backend_packets_total", "Packets that this node sent to a backend.", "backend")
	backendBytes   = described("backend_bytes_total", "Bytes of packets, as of seamark_backend_packets_total.", "backend")
	backendFlows   = described("backend_flows", "Established flows to a backend, as of seamark_service_flows.", "backend")
	tableEntries   = described("table_entries", "Entries of a table of the datapath, as last counted.", "table")
	tableRoom      = described("table_max_entries", "Entries that a table of the datapath has room for.", "table")
	tablePressure  = described("table_pressure", "How full a table of the datapath is, from 0 to 1.", "table")
	collectRemoved = described("collect_removed_total", "Entries of a table that were over and were removed.", "table")
	collectTook    = described("collect_table_duration_seconds", "How long the last walk over a table took, with its rests.", "table")
	collectPasses  = described("collect_passes_total", "Passes over all tables.")
	collectTaken   = described("collect_duration_seconds", "How long the last pass over all tables took, with its rests.")
)

// Describe and Collect make metrics a prometheus.Collector.
func (m metrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		verdictPackets, verdictBytes,
		servicePackets, serviceBytes, serviceFlows,
		backendPackets, backendBytes, backendFlows,
		tableEntries, tableRoom, tablePressure,
		collectRemoved, collectTook, collectPasses, collectTaken,
	} {
		to <- d
	}
}

// Collect reads the counters. What cannot be read is logged, and missing.
func (m metrics) Collect(to chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	verdicts, err := m.verdicts()
	if err != nil {
		m.log.Warn("read verdicts for metrics", "err", err)
	}
	for _, v := range verdicts {
		counter(verdictPackets, v.Packets, v.Hook, v.Reason, strconv.FormatBool(v.Dropped))
		counter(verdictBytes, v.Bytes, v.Hook, v.Reason, strconv.FormatBool(v.Dropped))
	}
	counts, err := m.counts()
	if err != nil {
		m.log.Warn("read counts for metrics", "err", err)
		counts = control.Counts{} // half of them would look like a beginning anew
	}
	for _, s := range counts.Services {
		counter(servicePackets, s.Packets, s.Service, s.Port, s.Protocol)
		counter(serviceBytes, s.Bytes, s.Service, s.Port, s.Protocol)
		gauge(serviceFlows, float64(s.Flows), s.Service, s.Port, s.Protocol)
	}
	for _, b := range counts.Backends {
		counter(backendPackets, b.Packets, b.Addr.String())
		counter(backendBytes, b.Bytes, b.Addr.String())
		gauge(backendFlows, float64(b.Flows), b.Addr.String())
	}
	for _, t := range counts.Tables {
		gauge(tableEntries, float64(t.Entries), t.Name)
		gauge(tableRoom, float64(t.Max), t.Name)
		gauge(tablePressure, float64(t.Entries)/float64(max(t.Max, 1)), t.Name)
	}
	report := m.report()
	for _, t := range report.Tables {
		counter(collectRemoved, t.Removed, t.Name)
		gauge(collectTook, t.Took.Seconds(), t.Name)
	}
	counter(collectPasses, report.Passes)
	gauge(collectTaken, report.Took.Seconds())
}

// serve answers GET /metrics on the address until ctx ends.
func (m metrics) serve(ctx context.Context, addr string) error {
	handler, err := m.handler()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen on --metrics-addr: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", addr, err)
	}
	return nil
}

func (m metrics) handler() (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range append([]prometheus.Collector{m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}, m.more...) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn)}))
	return mux, nil
}
