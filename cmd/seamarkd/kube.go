package main

import (
	"log/slog"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/version"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
)

// open prepares the Kubernetes engine.
func (f kubeFlags) open(renew time.Duration, db *state.DB, w *state.Writer, log *slog.Logger) (engine, error) {
	src, err := kube.New(kube.Config{Kubeconfig: f.config, QPS: f.qps, LeaseRenew: renew, IgnoreAgents: f.ignoreOthers,
		UserAgent: "seamarkd/" + version.Version}, db, w, log)
	if err != nil {
		return engine{}, err
	}
	return engine{name: storeKube, endpoints: []string{src.Server()}, source: src, requests: src.Requests}, nil
}
