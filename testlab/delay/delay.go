// Package delay is a TCP proxy that holds everything back for a while, each
// way: a slow network, for kernels without netem.
package delay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Proxy carries TCP connections from one address to another.
type Proxy struct {
	// To is the address (host:port) that connections are carried to.
	To    string
	delay atomic.Int64 // ns
}

// SetDelay makes what arrives from now on wait that long, in each direction.
func (p *Proxy) SetDelay(d time.Duration) { p.delay.Store(int64(d)) }

// Serve carries the connections of the listener until ctx ends; it closes the
// listener.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the connections
	context.AfterFunc(ctx, func() { listener.Close() })
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept connection: %w", err)
		}
		go p.carry(ctx, conn.(*net.TCPConn))
	}
}

func (p *Proxy) carry(ctx context.Context, client *net.TCPConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", p.To)
	if err != nil {
		client.SetLinger(0) // a reset is what the client would have got
		client.Close()
		return
	}
	server := conn.(*net.TCPConn)
	context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
	})
	back := make(chan struct{})
	go func() {
		defer close(back)
		p.pipe(ctx, client, server, cancel)
	}()
	p.pipe(ctx, server, client, cancel)
	<-back
}

// chunk is data on its way, and after it the end of the stream if err is
// io.EOF, or of the connection if it is another error.
type chunk struct {
	due  time.Time
	data []byte
	err  error
}

// pipe carries one direction. An end of stream is passed on, as everything
// else, after the delay; an error breaks the connection.
func (p *Proxy) pipe(ctx context.Context, dst, src *net.TCPConn, breakOff func()) {
	queue := make(chan chunk, 1024)
	go func() {
		defer close(queue)
		for {
			buf := make([]byte, 16<<10)
			n, err := src.Read(buf)
			select {
			case queue <- chunk{time.Now().Add(time.Duration(p.delay.Load())), buf[:n], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range queue {
		select {
		case <-time.After(time.Until(c.due)):
		case <-ctx.Done():
			return
		}
		if len(c.data) > 0 {
			if _, err := dst.Write(c.data); err != nil {
				breakOff()
				return
			}
		}
		switch c.err {
		case nil:
		case io.EOF:
			dst.CloseWrite()
			return
		default:
			breakOff()
			return
		}
	}
}

// Control sets the delay by what is written to the unix socket at path, until
// ctx ends: a line with a duration ("250ms") is answered with "ok".
func (p *Proxy) Control(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", path, err)
		}
		p.obey(conn)
	}
}

func (p *Proxy) obey(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	d, err := time.ParseDuration(strings.TrimSpace(line))
	if err != nil || d < 0 {
		fmt.Fprintf(conn, "delay %s: want a duration such as 250ms\n", strconv.Quote(line))
		return
	}
	p.SetDelay(d)
	fmt.Fprintln(conn, "ok")
}

// Set tells the proxy whose Control listens at path to use this delay.
func Set(ctx context.Context, path string, d time.Duration) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("set delay: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(conn, d)
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("set delay: %w", err)
	}
	if answer != "ok\n" {
		return fmt.Errorf("set delay: %s", strings.TrimSpace(answer))
	}
	return nil
}
