package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ServerConfig is one member of the store, run inside the daemon. The flags
// named in errors are seamarkd's.
type ServerConfig struct {
	// Name of the member, among those of InitialCluster.
	Name string
	// DataDir is the member's own; it is made when it is not there.
	DataDir string
	// ClientURLs to listen on; http://127.0.0.1:2379 when empty.
	ClientURLs []string
	// PeerURLs to listen on. A store of one member needs none, and listens on none.
	PeerURLs []string
	// InitialCluster lists every member with its peer URLs, as
	// a=https://10.0.0.1:2380,b=https://…; "" is a store of one member.
	InitialCluster string
	// ClientTLS and PeerTLS; with a CA, the other side must show a certificate of it.
	ClientTLS, PeerTLS TLSFiles
	// CompactAfter is how long old revisions are kept; 10 min when 0.
	CompactAfter time.Duration
	// QuotaBytes bounds the database; 2 GiB when 0.
	QuotaBytes int64
	// UnsafeNoFsync loses data when the machine goes down. For labs and tests.
	UnsafeNoFsync bool
	// Heartbeat and Election are raft's; 100 ms and 1 s when 0.
	Heartbeat, Election time.Duration
}

// TLSFiles are PEM files.
type TLSFiles struct{ CA, Cert, Key string }

// Flags that errors name.
const (
	flagDataDir    = "--store-dir"
	flagClientURLs = "--store-listen-client"
	flagPeerURLs   = "--store-listen-peer"
	flagCluster    = "--store-initial-cluster"
	flagName       = "--store-name"
)

// Server is an etcd member inside this process.
type Server struct {
	cfg   ServerConfig
	log   *slog.Logger
	ready chan struct{}
}

// NewServer checks cfg. Run starts the server.
func NewServer(cfg ServerConfig, log *slog.Logger) (*Server, error) {
	if cfg.Name == "" {
		cfg.Name = "seamark"
	}
	if cfg.DataDir == "" {
		return nil, fmt.Errorf("read %s: it is missing: name a directory of the store's own", flagDataDir)
	}
	if len(cfg.ClientURLs) == 0 {
		cfg.ClientURLs = []string{"http://127.0.0.1:2379"}
	}
	if cfg.InitialCluster != "" && len(cfg.PeerURLs) == 0 {
		return nil, fmt.Errorf("read %s: it is missing, and %s is given: write the URL that %s has there", flagPeerURLs, flagCluster, cfg.Name)
	}
	if cfg.CompactAfter == 0 {
		cfg.CompactAfter = 10 * time.Minute
	}
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = 2 << 30
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 100 * time.Millisecond
	}
	if cfg.Election == 0 {
		cfg.Election = 10 * cfg.Heartbeat
	}
	s := &Server{cfg: cfg, log: log, ready: make(chan struct{})}
	if _, err := s.embedConfig(); err != nil {
		return nil, err
	}
	return s, nil
}

// Ready is closed once the server answers requests.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// ClientURLs are what clients reach it by.
func (s *Server) ClientURLs() []string { return s.cfg.ClientURLs }

// Run serves until ctx ends; it may be called once. Clients' connections are
// cut at the end: they go to another member, or come again.
func (s *Server) Run(ctx context.Context) error {
	if err := s.claimDataDir(); err != nil {
		return err
	}
	cfg, err := s.embedConfig()
	if err != nil {
		return err
	}
	existing, err := s.rejoin(ctx, cfg)
	if err != nil || ctx.Err() != nil {
		return err
	}
	if existing {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	var serving grpcServers
	cfg.ServiceRegister = serving.add
	member, err := embed.StartEtcd(cfg)
	if err != nil {
		return s.explain(err)
	}
	defer func() {
		select {
		case <-s.ready:
		default:
			// Close waits for servers that start when the member is ready, which it may never be.
			member.Server.Stop()
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			member.Close()
		}()
		serving.stopUntil(closed)
	}()
	waiting := time.NewTicker(10 * time.Second)
	defer waiting.Stop()
	becameReady := member.Server.ReadyNotify()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-becameReady:
			becameReady = nil
			waiting.Stop()
			s.log.Info("store is up", "member", s.cfg.Name, "clients", s.cfg.ClientURLs)
			close(s.ready)
		case <-waiting.C:
			s.log.Warn("store waits for a majority of its members", "member", s.cfg.Name, "members", cfg.InitialCluster)
		case <-member.Server.StopNotify():
			return fmt.Errorf("run store member %s: it was stopped: it may have been removed from its cluster", s.cfg.Name)
		case err, ok := <-member.Err():
			if !ok {
				return fmt.Errorf("run store member %s: it was stopped", s.cfg.Name)
			}
			return fmt.Errorf("run store member %s: %w", s.cfg.Name, err)
		}
	}
}

// grpcServers are those that answer the member's clients.
type grpcServers struct {
	mu  sync.Mutex
	all []*grpc.Server
}

func (g *grpcServers) add(server *grpc.Server) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, server)
}

// stopUntil cuts the clients' connections: watches never end by themselves,
// and a member that closes waits for them for seconds. It does so again until
// closed, since a server that runs under net/http, as with TLS, may be given
// another stream while it stops, and then waits for that one.
func (g *grpcServers) stopUntil(closed <-chan struct{}) {
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		g.mu.Lock()
		for _, server := range g.all {
			go server.Stop()
		}
		g.mu.Unlock()
		select {
		case <-closed:
			return
		case <-again.C:
		}
	}
}

func (s *Server) embedConfig() (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = s.cfg.Name, s.cfg.DataDir
	var err error
	if cfg.ListenClientUrls, err = parseURLs(flagClientURLs, s.cfg.ClientURLs); err != nil {
		return nil, err
	}
	cfg.ListenPeerUrls = nil
	if s.cfg.InitialCluster != "" {
		if cfg.ListenPeerUrls, err = parseURLs(flagPeerURLs, s.cfg.PeerURLs); err != nil {
			return nil, err
		}
	}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	if s.cfg.InitialCluster == "" {
		cfg.InitialCluster = cfg.InitialClusterFromName(s.cfg.Name)
	} else {
		cfg.InitialCluster = s.cfg.InitialCluster
		if cfg.AdvertisePeerUrls, err = parseURLs(flagCluster, s.ownPeerURLs()); err != nil {
			return nil, err
		}
		if len(cfg.AdvertisePeerUrls) == 0 {
			return nil, fmt.Errorf("read %s: %q does not name this member, %s: add it, or correct %s", flagCluster, cfg.InitialCluster, s.cfg.Name, flagName)
		}
	}
	cfg.InitialClusterToken = "seamark"
	cfg.ClientTLSInfo = tlsInfo(s.cfg.ClientTLS)
	cfg.PeerTLSInfo = tlsInfo(s.cfg.PeerTLS)
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = s.cfg.CompactAfter.String()
	cfg.QuotaBackendBytes = s.cfg.QuotaBytes
	cfg.UnsafeNoFsync = s.cfg.UnsafeNoFsync
	cfg.TickMs = uint(s.cfg.Heartbeat.Milliseconds())
	cfg.ElectionMs = uint(s.cfg.Election.Milliseconds())
	cfg.EnableGRPCGateway = false
	// 0, what an embedded member has, would warn of every request.
	cfg.WarningUnaryRequestDuration = 300 * time.Millisecond
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(slogCore{s.log, nil}))
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("read store's flags: %w", err)
	}
	return cfg, nil
}

// ownPeerURLs are what InitialCluster says of this member.
func (s *Server) ownPeerURLs() []string {
	var urls []string
	for entry := range strings.SplitSeq(s.cfg.InitialCluster, ",") {
		if name, u, _ := strings.Cut(strings.TrimSpace(entry), "="); name == s.cfg.Name {
			urls = append(urls, u)
		}
	}
	return urls
}

func tlsInfo(f TLSFiles) transport.TLSInfo {
	return transport.TLSInfo{TrustedCAFile: f.CA, CertFile: f.Cert, KeyFile: f.Key, ClientCertAuth: f.CA != ""}
}

func parseURLs(flag string, texts []string) ([]url.URL, error) {
	urls := make([]url.URL, len(texts))
	for i, text := range texts {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" {
			return nil, fmt.Errorf("read %s: %q is no URL to listen on: write it as https://10.0.2.10:2379", flag, text)
		}
		urls[i] = *u
	}
	return urls, nil
}

// tenant is kept beside the data, since etcd itself takes no notice when
// a member is started again under another name or in another cluster.
type tenant struct {
	Name           string `json:"name"`
	InitialCluster string `json:"initialCluster"`
}

// claimDataDir makes the directory, and refuses one that is in use or that is
// another member's.
func (s *Server) claimDataDir() error {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", flagDataDir, err)
	}
	if err := refuseLocked(filepath.Join(s.cfg.DataDir, "member", "snap", "db")); err != nil {
		return fmt.Errorf("open %s %s: %w", flagDataDir, s.cfg.DataDir, err)
	}
	file := filepath.Join(s.cfg.DataDir, "seamark-member.json")
	us := tenant{s.cfg.Name, s.cfg.InitialCluster}
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		data, err := json.Marshal(us)
		if err != nil {
			return fmt.Errorf("encode store member: %w", err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", flagDataDir, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", flagDataDir, err)
	}
	var it tenant
	if err := json.Unmarshal(data, &it); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if it != us {
		return fmt.Errorf("open %s %s: it belongs to member %q of cluster %q, and this is %q of %q: correct %s and %s, or name another directory",
			flagDataDir, s.cfg.DataDir, it.Name, it.InitialCluster, us.Name, us.InitialCluster, flagName, flagCluster)
	}
	return nil
}

// refuseLocked is an error when another server holds the database. etcd
// itself would wait for it without an end.
func refuseLocked(db string) error {
	f, err := os.Open(db)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return errors.New("another store runs in it: stop that one, or name another directory")
		}
		return err
	}
	return syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
}

func (s *Server) explain(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("start store: %w: stop what listens there, or change %s or %s", err, flagClientURLs, flagPeerURLs)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("start store: %w: name an address of this machine in %s and %s", err, flagClientURLs, flagPeerURLs)
	case strings.Contains(err.Error(), "initial cluster"), strings.Contains(err.Error(), "--initial-"):
		return fmt.Errorf("start store: %w: correct %s", err, flagCluster)
	}
	return fmt.Errorf("start store: %w", err)
}
