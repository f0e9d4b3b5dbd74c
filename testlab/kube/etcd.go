package main

import (
	"fmt"
	"net/url"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
)

// newEtcdCommand is a store of one member for the API server: a lab's, so it
// waits for no disk.
func newEtcdCommand() *cobra.Command {
	var dir, listen string
	cmd := &cobra.Command{
		Use:          "etcd",
		Short:        "The API server's store",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			client, err := url.Parse(listen)
			if err != nil {
				return fmt.Errorf("read --listen: %w", err)
			}
			cfg := embed.NewConfig()
			cfg.Name, cfg.Dir = "lab", dir
			cfg.LogLevel = "warn"
			cfg.WarningUnaryRequestDuration = time.Second // 0 would warn of every request
			cfg.UnsafeNoFsync = true
			cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
			cfg.ListenPeerUrls = nil // one member has no peers
			cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
			cfg.EnableGRPCGateway = false
			server, err := embed.StartEtcd(cfg)
			if err != nil {
				return fmt.Errorf("start etcd: %w", err)
			}
			defer server.Close()
			select {
			case <-ctx.Done():
				return nil
			case err := <-server.Err():
				return fmt.Errorf("serve etcd: %w", err)
			}
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "where the data is")
	cmd.Flags().StringVar(&listen, "listen", "http://127.0.0.1:2379", "URL that clients are served on")
	return cmd
}
