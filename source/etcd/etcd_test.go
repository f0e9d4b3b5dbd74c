package etcd_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/etcd"
	"github.com/seamark-lb/seamark/state"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	// One server for all; each test has a prefix of its own.
	member := startServer(t, serverConfig(t))
	var n atomic.Int32
	conformance.Run(t, func(t *testing.T) conformance.Engine {
		src, db := startSource(t, etcd.Config{Endpoints: member.urls, Prefix: fmt.Sprintf("/test-%d", n.Add(1))})
		return conformance.Engine{Source: src, DB: db}
	})
}

// testLog shows what is worth a look when a test fails.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil { // not after the test has ended
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// freeURL is a loopback URL that nobody listens on.
func freeURL(t *testing.T, scheme string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return scheme + "://" + l.Addr().String()
}

func serverConfig(t *testing.T) etcd.ServerConfig {
	t.Helper()
	return etcd.ServerConfig{
		DataDir:       t.TempDir(),
		ClientURLs:    []string{freeURL(t, "http")},
		UnsafeNoFsync: true,
		Heartbeat:     20 * time.Millisecond,
		Election:      200 * time.Millisecond,
	}
}

// member is a running server.
type member struct {
	cfg  etcd.ServerConfig
	urls []string
	stop func()
}

func startServer(t *testing.T, cfg etcd.ServerConfig) member {
	t.Helper()
	m, ready := runServer(t, cfg)
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("the server did not become ready")
	}
	return m
}

func runServer(t *testing.T, cfg etcd.ServerConfig) (member, <-chan struct{}) {
	t.Helper()
	server, err := etcd.NewServer(cfg, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Run(ctx); err != nil {
			t.Errorf("run server: %v", err)
		}
	}()
	stop := func() {
		cancel()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the server does not stop")
		}
	}
	t.Cleanup(stop)
	return member{cfg, server.ClientURLs(), stop}, server.Ready()
}

// startSource runs a source until the test ends.
func startSource(t *testing.T, cfg etcd.Config) (*etcd.Source, *state.DB) {
	t.Helper()
	db, w := state.New()
	src := newSource(t, cfg, db, w)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run source: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("the source does not stop")
		}
	})
	return src, db
}

func newSource(t *testing.T, cfg etcd.Config, db *state.DB, w *state.Writer) *etcd.Source {
	t.Helper()
	if cfg.CheckInterval == 0 {
		cfg.CheckInterval = 100 * time.Millisecond
	}
	if db == nil {
		db, w = state.New()
	}
	src, err := etcd.New(cfg, db, w, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	return src
}
