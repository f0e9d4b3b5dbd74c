package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/flowcontrol"
)

// Config says which API server holds the objects, and how to talk to it. The
// flags named in errors are seamarkd's.
type Config struct {
	// Kubeconfig is the path of a kubeconfig; "": the Pod's service account.
	Kubeconfig string
	// QPS bounds the requests per second, but for leases and the election; twice
	// as many may come at once. 50 when 0.
	QPS float32
	// LeaseRenew is how often this node's lease is renewed; 1 s when 0. Renewals
	// further apart tell that this process stood still.
	LeaseRenew time.Duration
	// RequestTimeout bounds every request but watches; 10 s when 0.
	RequestTimeout time.Duration
	// UserAgent of the requests; seamarkd when "".
	UserAgent string
	// IgnoreAgents: nobody looks for other projects' programs, so that nothing
	// is left to them.
	IgnoreAgents bool
}

// Flags that errors name.
const flagKubeconfig = "--kubeconfig"

func (cfg Config) withDefaults() Config {
	cfg.QPS = cmp.Or(cfg.QPS, 50)
	cfg.LeaseRenew = cmp.Or(cfg.LeaseRenew, time.Second)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, 10*time.Second)
	cfg.UserAgent = cmp.Or(cfg.UserAgent, "seamarkd")
	return cfg
}

// restConfig is where the API server is and who we are.
func (cfg Config) restConfig() (*rest.Config, error) {
	if cfg.Kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("find the API server: this is no Pod: name a kubeconfig with %s", flagKubeconfig)
		}
		if err != nil {
			return nil, fmt.Errorf("find the API server by the Pod's service account: %w: mount its token, or name a kubeconfig with %s", err, flagKubeconfig)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", flagKubeconfig, cfg.Kubeconfig, err)
	}
	return c, nil
}

// clients of one API server. What leases and the election need has a
// connection and a rate of its own, so that it never queues behind anything.
type clients struct {
	server   string
	core     kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	urgent   kubernetes.Interface
	// slices are read where leases are: when that connection is dead, neither
	// comes any more.
	slices dynamic.Interface
	// events has a rate of its own: what people are told must hold nothing up.
	events   kubernetes.Interface
	requests *atomic.Uint64
	closers  []func()
}

// The pace of what is not to be held up, and of what may be.
const (
	urgentQPS = 20
	eventsQPS = 10
)

func newClients(cfg Config) (*clients, error) {
	config, err := cfg.restConfig()
	if err != nil {
		return nil, err
	}
	config.UserAgent, config.WarningHandler = cfg.UserAgent, rest.NoWarnings{} // they are for who writes the objects
	c := &clients{server: config.Host, requests: new(atomic.Uint64)}
	// A connection that went dead is noticed after the two added up.
	bulk, err := c.withTransport(config, 6*time.Second, 2*time.Second)
	if err == nil {
		var urgent *rest.Config
		if urgent, err = c.withTransport(config, cfg.LeaseRenew, 2*cfg.LeaseRenew); err == nil {
			err = c.build(cfg, bulk, urgent)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make client of the API server at %s (%s): %w", c.server, flagKubeconfig, err)
	}
	return c, nil
}

func (c *clients) build(cfg Config, bulk, urgent *rest.Config) (err error) {
	bulk.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, max(1, int(2*cfg.QPS)))
	urgent.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(urgentQPS, 2*urgentQPS)
	events := rest.CopyConfig(bulk)
	events.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(eventsQPS, 10*eventsQPS)
	protobuf := func(config *rest.Config) *rest.Config {
		config = rest.CopyConfig(config)
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		return config
	}
	if c.core, err = kubernetes.NewForConfig(protobuf(bulk)); err != nil {
		return err
	}
	if c.urgent, err = kubernetes.NewForConfig(protobuf(urgent)); err != nil {
		return err
	}
	if c.slices, err = dynamic.NewForConfig(urgent); err != nil {
		return err
	}
	if c.events, err = kubernetes.NewForConfig(events); err != nil {
		return err
	}
	if c.dynamic, err = dynamic.NewForConfig(bulk); err != nil {
		return err
	}
	c.metadata, err = metadata.NewForConfig(bulk)
	return err
}

// withTransport is a copy of config with a connection of its own, which is
// given up when the server answers no ping of HTTP/2 within wait after idle.
// (client-go's own transport takes 45 s to notice.)
func (c *clients) withTransport(config *rest.Config, idle, wait time.Duration) (*rest.Config, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     tls,
		TLSHandshakeTimeout: 5 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: idle, PingTimeout: wait},
	}
	if config.Proxy != nil {
		transport.Proxy = config.Proxy
	}
	c.closers = append(c.closers, transport.CloseIdleConnections)
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	own := rest.CopyConfig(config)
	own.Host, own.TLSClientConfig = server.String(), rest.TLSClientConfig{} // the transport has it
	own.Transport = counting{transport, c.requests}
	return own, nil
}

// counting counts requests.
type counting struct {
	http.RoundTripper
	requests *atomic.Uint64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil || r.Context().Err() != nil || utilnet.IsConnectionRefused(err) {
		return resp, err
	}
	return nil, failed{err}
}

// failed is why a connection did, in no words or types that client-go knows. Of
// one that was cut or timed out it would try again ten times, a second apart,
// and make of a watch that could not begin one that ends at once, as if all were
// well: behind a load balancer, which goes on accepting connections, an API
// server that is gone would never be missed. (That connections are refused it
// does hand on, and the watch goes on where it was.)
type failed struct{ cause error }

func (failed) Error() string { return "the connection failed" }

func (c *clients) close() {
	for _, closeIdle := range c.closers {
		closeIdle()
	}
}

// bounded is ctx with an end to the request that is made with it.
func (cfg Config) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, cfg.RequestTimeout, errNoAnswer)
}
