package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// Server answers the CLI. What is nil is answered with an Error that says so.
type Server struct {
	// Socket is the path to listen on; DefaultSocket when "".
	Socket string
	Log    *slog.Logger

	// Objects that source.Kinds are kept in.
	Objects source.Objects
	// DB is where the tables and the announcements are read from.
	DB *state.DB
	// Status says how the daemon is. Version, Tables and
	// Problems are filled in by the Server.
	Status func() Status
	// DumpLB writes the datapath's load-balancer maps as text.
	DumpLB func(io.Writer) error
	// Maglev reads the active table of one frontend from the datapath. An
	// address without a frontend is an error that wraps source.ErrNotFound.
	Maglev func(netip.AddrPort, state.Protocol) (Maglev, error)
}

// dialTimeout bounds how long another daemon may take to accept on the socket.
const dialTimeout = time.Second

// shutdownTimeout bounds how long requests in flight may take to end.
const shutdownTimeout = 2 * time.Second

// Run listens on the socket and answers until ctx ends, then removes the
// socket. It refuses to take the socket of a daemon that is alive.
func (s *Server) Run(ctx context.Context) error {
	path := s.Socket
	if path == "" {
		path = DefaultSocket
	}
	l, err := listen(path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	ours, err := os.Stat(path)
	if err != nil {
		l.Close()
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	defer func() {
		// A daemon that came after may have put its own there.
		if now, err := os.Stat(path); err == nil && os.SameFile(ours, now) {
			os.Remove(path)
		}
	}()

	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", path, err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(end); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("shut down %s: %w", path, err)
	}
	srv.Close()
	return nil
}

// listen binds in a directory that nobody else can enter and moves the socket
// into place when its mode is right, so there is no moment at which others
// could connect, nor one without a socket when a stale one is replaced.
func listen(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, dialTimeout); err == nil {
		conn.Close()
		return nil, errors.New("another seamarkd answers there; stop it first, or give this one a --socket of its own")
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != os.ModeSocket {
		return nil, errors.New("there is a file that is not a socket; remove it, or choose another --socket")
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(parent, ".")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(private, "s"), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(l.Addr().String(), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	if err := os.Rename(l.Addr().String(), path); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
