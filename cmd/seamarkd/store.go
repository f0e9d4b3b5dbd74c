package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/etcd"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// engine is where the objects are, and the server when it is embedded.
type engine struct {
	name      string // as --store takes it
	endpoints []string
	source    source.Source
	server    *etcd.Server // nil: somewhere else
	// requests counts those that were sent so far; nil: nobody counts.
	requests func() uint64
}

// openStore prepares the store, whose objects become rows of db. renew is how
// often this node's lease is renewed: the tables' age is asked for as often,
// since the lease is judged by it.
func openStore(f storeFlags, renew time.Duration, db *state.DB, w *state.Writer, log *slog.Logger) (engine, error) {
	switch f.engine {
	case storeKube:
		return f.kube.open(renew, db, w, log)
	case storeEtcd:
		return openEtcd(storeEtcd, etcd.Config{CheckInterval: renew, Endpoints: f.endpoints, CAFile: f.caFile, CertFile: f.certFile,
			KeyFile: f.keyFile, User: f.user, PasswordFile: f.userPasswordFile}, db, w, log)
	}
	return f.server.open(renew, db, w, log)
}

func openEtcd(name string, cfg etcd.Config, db *state.DB, w *state.Writer, log *slog.Logger) (engine, error) {
	src, err := etcd.New(cfg, db, w, log)
	if err != nil {
		return engine{}, err
	}
	return engine{name: name, endpoints: cfg.Endpoints, source: src}, nil
}

// open prepares the embedded store and the client of it.
func (f serverFlags) open(renew time.Duration, db *state.DB, w *state.Writer, log *slog.Logger) (engine, error) {
	server, err := f.newServer(log)
	if err != nil {
		return engine{}, err
	}
	client := f.client(server.ClientURLs())
	client.CheckInterval = renew
	e, err := openEtcd(storeEmbedded, client, db, w, log)
	e.server = server
	return e, err
}

func (f serverFlags) newServer(log *slog.Logger) (*etcd.Server, error) {
	if (f.tls.Cert == "") != (f.tls.Key == "") {
		return nil, errors.New("--store-cert and --store-key go together")
	}
	if f.tls.Cert != "" && !strings.HasPrefix(f.listenClient, "https://") {
		return nil, fmt.Errorf("--store-listen-client %s is not encrypted, and --store-cert is given: write https://", f.listenClient)
	}
	cfg := etcd.ServerConfig{Name: f.name, DataDir: f.dir, ClientURLs: []string{f.listenClient},
		InitialCluster: f.initialCluster, UnsafeNoFsync: f.unsafeNoFsync, ClientTLS: f.tls, PeerTLS: f.tls}
	if f.initialCluster != "" {
		cfg.PeerURLs = []string{f.listenPeer}
	}
	return etcd.NewServer(cfg, log)
}

// run starts the embedded server, if there is one.
func (e engine) run(group *errgroup.Group, ctx context.Context) {
	if e.server != nil {
		group.Go(func() error { return e.server.Run(ctx) })
	}
}

// newStoreCommand is the store alone: for the hosts of a control plane that
// forward no packets.
func newStoreCommand(logs *logFlags) *cobra.Command {
	var server serverFlags
	var runDir string
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Run the standalone store alone, without a datapath",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.logger()
			if err != nil {
				return err
			}
			return runStore(cmd.Context(), server, filepath.Join(runDir, "seamark.sock"), log)
		},
	}
	server.register(cmd.Flags())
	cmd.Flags().StringVar(&runDir, "run-dir", "/run/seamark", "directory for the control socket")
	return cmd
}

func runStore(ctx context.Context, f serverFlags, socket string, log *slog.Logger) error {
	db, writer := state.New()
	store, err := f.open(0, db, writer, log)
	if err != nil {
		return err
	}
	defer store.source.Close()
	group, ctx := errgroup.WithContext(ctx)
	store.run(group, ctx)
	group.Go(func() error { return store.source.Run(ctx) })
	status := reporter{db: db, started: time.Now(), engine: store}
	group.Go(func() error {
		err := (&control.Server{Socket: socket, Log: log, Objects: store.source.Objects(), DB: db,
			Status: status.status}).Run(ctx)
		if err != nil {
			return fmt.Errorf("serve control socket: %w", err)
		}
		return nil
	})
	return group.Wait()
}
