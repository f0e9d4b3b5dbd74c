package etcd

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"
)

// rejoinTimeout bounds one try to be taken in again.
const rejoinTimeout = 10 * time.Second

// joining is how a member without data of its own stands with its cluster.
type joining struct {
	// id is what the others know it by; 0: they do not.
	id types.ID
	// lost: they have known it with data, which is gone.
	lost bool
	// others are where they serve clients.
	others []string
}

// rejoin has a member that lost its data taken in again as a new one, as etcd's
// guide to replacing a failed machine has people do by hand: raft would count on what
// the old one has said. existing says that it joins a cluster that runs. It waits until
// a majority of the others agrees, or ctx ends.
func (s *Server) rejoin(ctx context.Context, cfg *embed.Config) (existing bool, err error) {
	if s.cfg.InitialCluster == "" {
		return false, nil
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "member", "wal")); err == nil {
		return false, nil // it has its data
	}
	peers, err := transport.NewTimeoutTransport(cfg.PeerTLSInfo, 2*time.Second, rejoinTimeout, rejoinTimeout)
	if err != nil {
		return false, fmt.Errorf("start store: %w", err)
	}
	defer peers.CloseIdleConnections()
	said := ""
	for told := false; ; {
		how, err := s.asksToJoin(cfg, peers)
		switch {
		case err != nil:
			return false, err
		case how.others == nil: // nobody has a cluster yet
			return false, nil
		case how.id != 0 && !how.lost:
			return how.id != s.firstID(cfg), nil
		}
		if !told {
			told = true
			s.log.Warn("store member has lost its data: it joins the others again, and gets theirs", "member", s.cfg.Name)
		}
		if err := s.replace(ctx, cfg, how); err != nil && ctx.Err() == nil && err.Error() != said { // once per cause
			said = err.Error()
			s.log.Warn("store member cannot join the others yet: a majority of them must be up", "member", s.cfg.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(time.Second):
		}
	}
}

// asksToJoin asks the other members, of whom the first to answer speaks for all.
func (s *Server) asksToJoin(cfg *embed.Config, peers http.RoundTripper) (joining, error) {
	all, err := types.NewURLsMap(cfg.InitialCluster)
	if err != nil {
		return joining{}, fmt.Errorf("read %s: %w", flagCluster, err)
	}
	own := all[s.cfg.Name].StringSlice()
	delete(all, s.cfg.Name)
	cluster, err := etcdserver.GetClusterFromRemotePeers(zap.NewNop(), all.URLs(), peers)
	if err != nil {
		return joining{}, nil // none of them is up
	}
	var how joining
	for _, m := range cluster.Members() {
		if slices.Equal(m.PeerURLs, own) {
			how.id, how.lost = m.ID, len(m.ClientURLs) > 0
		} else {
			how.others = append(how.others, m.ClientURLs...)
		}
	}
	return how, nil
}

// firstID is what the member is known by in a cluster that begins with it.
func (s *Server) firstID(cfg *embed.Config) types.ID {
	urls, err := types.NewURLs(s.ownPeerURLs())
	if err != nil {
		return 0
	}
	return membership.NewMember(s.cfg.Name, urls, cfg.InitialClusterToken, nil).ID
}

// replace has the others drop the member, if they know it, and take it in anew.
func (s *Server) replace(ctx context.Context, cfg *embed.Config, how joining) error {
	ctx, cancel := context.WithTimeout(ctx, rejoinTimeout)
	defer cancel()
	conf := clientv3.Config{Endpoints: how.others, DialTimeout: rejoinTimeout, Logger: zap.New(slogCore{s.log, nil})}
	if !cfg.ClientTLSInfo.Empty() {
		tls, err := cfg.ClientTLSInfo.ClientConfig()
		if err != nil {
			return err
		}
		conf.TLS = tls
	}
	client, err := clientv3.New(conf)
	if err != nil {
		return err
	}
	defer client.Close()
	if how.id != 0 {
		if _, err := client.MemberRemove(ctx, uint64(how.id)); err != nil {
			return fmt.Errorf("remove member %s: %w", how.id, err)
		}
	}
	if _, err := client.MemberAdd(ctx, s.ownPeerURLs()); err != nil {
		return fmt.Errorf("add member: %w", err)
	}
	return nil
}
