package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// connection is the client, made at the first use: with auth, making it
// already asks the server for a token.
type connection struct {
	cfg      Config
	tls      *tls.Config
	password string
	log      *slog.Logger
	// made holds the client, or nil before there is one. Who takes it from
	// the channel puts it back.
	made chan *clientv3.Client
}

func newConnection(cfg Config, log *slog.Logger) (*connection, error) {
	c := &connection{cfg: cfg, log: log, made: make(chan *clientv3.Client, 1)}
	c.made <- nil
	var err error
	if c.tls, err = cfg.tlsConfig(); err != nil {
		return nil, err
	}
	if c.password, err = cfg.password(); err != nil {
		return nil, err
	}
	return c, nil
}

// client returns the client. Concurrent callers wait for the one that makes it.
func (c *connection) client(ctx context.Context) (*clientv3.Client, error) {
	var made *clientv3.Client
	select {
	case made = <-c.made:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { c.made <- made }()
	if made != nil {
		return made, nil
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   c.cfg.Endpoints,
		TLS:         c.tls,
		Username:    c.cfg.User,
		Password:    c.password,
		DialTimeout: c.cfg.RequestTimeout,
		// A member that hangs is given up after 8 s, for watches too. Servers refuse pings below 5 s.
		DialKeepAliveTime:    6 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		DialOptions:          []grpc.DialOption{grpc.WithConnectParams(c.cfg.connectParams())},
		Logger:               zap.New(slogCore{c.log, nil}),
	})
	if err != nil {
		return nil, err
	}
	made = client
	return made, nil
}

// connectParams let no node be long behind the others when the store comes
// back: by then its lease would be over, and its addresses another's. gRPC's
// own wait between two tries grows to two minutes.
func (cfg Config) connectParams() grpc.ConnectParams {
	wait := backoff.DefaultConfig
	wait.BaseDelay, wait.MaxDelay = min(wait.BaseDelay, cfg.CheckInterval), cfg.CheckInterval
	return grpc.ConnectParams{Backoff: wait, MinConnectTimeout: cfg.RequestTimeout}
}

// close ends the client. The connection may be used again; it is made anew then.
func (c *connection) close() error {
	client := <-c.made
	c.made <- nil
	if client == nil {
		return nil
	}
	return client.Close()
}

// do runs one request within the timeout, and says what is wrong when the
// store does not answer it.
func (c *connection) do(ctx context.Context, request func(context.Context, *clientv3.Client) error) error {
	bounded, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	client, err := c.client(bounded)
	if err == nil {
		err = request(bounded, client)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err() // the caller's own deadline or end
	}
	return c.explain(err)
}

// errUnreachable marks errors of a store that gave no answer.
var errUnreachable = errors.New("no answer")

// explain puts etcd's errors into words that name the flag to look at.
func (c *connection) explain(err error) error {
	where := strings.Join(c.cfg.Endpoints, ",")
	switch {
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("log in to etcd at %s: %w: it wants a user: give %s and %s", where, err, flagUser, flagPassword)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("log in to etcd at %s as %s: %w: correct %s or %s", where, c.cfg.User, err, flagUser, flagPassword)
	case errors.Is(err, rpctypes.ErrAuthNotEnabled):
		return fmt.Errorf("log in to etcd at %s as %s: %w: leave %s and %s out, or enable auth", where, c.cfg.User, err, flagUser, flagPassword)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("use etcd at %s as %s: %w: grant that user (%s) a role with readwrite on prefix %s/", where, c.cfg.User, err, flagUser, c.cfg.Prefix)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("write to etcd at %s: %w: raise its quota, or compact and defragment it, then disarm the alarm", where, err)
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeout), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail), errors.Is(err, rpctypes.ErrTimeoutDueToConnectionLost), errors.Is(err, rpctypes.ErrLeaderChanged):
		return fmt.Errorf("use etcd at %s: %w: %w: a majority of its members must be up", where, errUnreachable, err)
	}
	code := status.Code(err)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled {
		return fmt.Errorf("reach etcd: %w: %s", errUnreachable, c.diagnose())
	}
	return fmt.Errorf("use etcd at %s: %w", where, err)
}

// diagnose tries each endpoint by hand, since the client does not say why it waits.
func (c *connection) diagnose() string {
	said := make([]chan string, len(c.cfg.Endpoints))
	for i, endpoint := range c.cfg.Endpoints {
		said[i] = make(chan string, 1)
		go func() { said[i] <- endpoint + ": " + c.diagnoseOne(endpoint) }()
	}
	parts := make([]string, len(said))
	for i := range said {
		parts[i] = <-said[i]
	}
	return strings.Join(parts, "; ")
}

// diagnosisTimeout bounds each step of a diagnosis.
const diagnosisTimeout = 500 * time.Millisecond

func (c *connection) diagnoseOne(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err.Error()
	}
	conn, err := net.DialTimeout("tcp", u.Host, diagnosisTimeout)
	if err != nil {
		return fmt.Sprintf("%v: is it up, and is %s right?", withoutAddress(err), flagEndpoints)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(diagnosisTimeout))
	if u.Scheme == "http" {
		probe := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // a question only: nothing is sent over it
		if probe.Handshake() == nil {
			return fmt.Sprintf("it speaks TLS: write https:// in %s, and give %s", flagEndpoints, flagCA)
		}
		return "it accepts connections, but does not answer requests in time: a majority of its members must be up"
	}
	config := c.tls.Clone()
	config.ServerName = u.Hostname()
	config.NextProtos = []string{"h2"}
	secure := tls.Client(conn, config)
	if err := secure.Handshake(); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return fmt.Sprintf("it does not speak TLS: write http:// in %s, without %s and %s", flagEndpoints, flagCA, flagCert)
		}
		return fmt.Sprintf("%v: is %s right?", err, flagCA)
	}
	// In TLS 1.3 the server's verdict on our certificate comes after the handshake.
	if _, err := secure.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		var netErr net.Error
		if !errors.As(err, &netErr) || !netErr.Timeout() {
			return fmt.Sprintf("%v: are %s and %s right?", err, flagCert, flagKey)
		}
	}
	return "it accepts connections, but does not answer requests in time: a majority of its members must be up"
}

// withoutAddress drops "dial tcp 1.2.3.4:5:", which the endpoint says already.
func withoutAddress(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
