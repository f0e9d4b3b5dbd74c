// Package health answers the health checks of Services with
// externalTrafficPolicy Local (spec.healthCheckNodePort), as kube-proxy does, so
// that a load balancer in front of the cluster sends to nodes that have a backend.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// Checks is a state.Target: an HTTP server for each HealthCheck.
type Checks struct {
	log *slog.Logger
	// healthy says whether this node's datapath serves what it should.
	healthy func() bool

	mu      sync.Mutex
	servers map[uint16]*server
}

// NewChecks returns Checks that listen to nothing yet.
func NewChecks(healthy func() bool, log *slog.Logger) *Checks {
	return &Checks{log: log, healthy: healthy, servers: map[uint16]*server{}}
}

// server answers on one port for the row it was last given.
type server struct {
	http *http.Server
	mu   sync.Mutex
	row  state.HealthCheck
}

// Update listens on the row's port, on every address of the node.
func (c *Checks) Update(_ context.Context, row state.HealthCheck) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.servers[row.Port]; ok {
		s.mu.Lock()
		s.row = row
		s.mu.Unlock()
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(row.Port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on health check port %d of Service %s: another program has it: if that is kube-proxy, it answers in our place", row.Port, row.Service)
	}
	if err != nil {
		return fmt.Errorf("listen on health check port %d of Service %s: %w", row.Port, row.Service, err)
	}
	s := &server{row: row}
	s.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, c.healthy()) }),
		ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)}
	c.servers[row.Port] = s
	go func() {
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("serve health checks", "port", row.Port, "err", err)
		}
	}()
	return nil
}

// answer has the shape of kube-proxy's.
func (s *server) answer(w http.ResponseWriter, healthy bool) {
	s.mu.Lock()
	row := s.row
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(row.Local))
	if row.Local == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	_ = json.NewEncoder(w).Encode(struct {
		Service   service `json:"service"`
		Endpoints int     `json:"localEndpoints"`
		Healthy   bool    `json:"serviceProxyHealthy"`
	}{service{row.Service.Namespace, row.Service.Name}, row.Local, healthy}) // whoever asked may be gone
}

// Delete stops answering on the row's port.
func (c *Checks) Delete(_ context.Context, row state.HealthCheck) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop(row.Port)
}

// Prune stops answering on ports that are none of the rows'.
func (c *Checks) Prune(_ context.Context, wanted []state.HealthCheck) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	extra := maps.Clone(c.servers)
	for _, row := range wanted {
		delete(extra, row.Port)
	}
	var errs []error
	for port := range extra {
		errs = append(errs, c.stop(port))
	}
	return errors.Join(errs...)
}

func (c *Checks) stop(port uint16) error {
	s, ok := c.servers[port]
	if !ok {
		return nil
	}
	delete(c.servers, port)
	if err := s.http.Close(); err != nil {
		return fmt.Errorf("close health check port %d: %w", port, err)
	}
	return nil
}

// Close stops answering at all.
func (c *Checks) Close() error { return c.Prune(context.Background(), nil) }
