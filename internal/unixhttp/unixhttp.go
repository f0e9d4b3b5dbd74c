// Package unixhttp serves HTTP on a unix socket that only its owner may enter.
package unixhttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	// dialTimeout bounds how long another daemon may take to accept on the socket.
	dialTimeout = time.Second
	// shutdownTimeout bounds how long requests in flight may take to end.
	shutdownTimeout = 2 * time.Second
)

// Serve listens on the path, with mode 0600, and answers until ctx ends; then
// requests in flight are cancelled and the socket is removed. It takes the
// place of a socket that nobody answers on, and refuses that of a daemon that
// is alive.
func Serve(ctx context.Context, path string, handler http.Handler, log *slog.Logger) error {
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
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
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
		return nil, errors.New("another seamarkd answers there; stop it first, or give this one another --run-dir")
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != os.ModeSocket {
		return nil, errors.New("there is a file that is not a socket; remove it, or choose another --run-dir")
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
