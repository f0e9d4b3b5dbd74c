// Package webpod is the server that runs in the lab's pods: it says who it is
// and who asked, as traefik/whoami does.
package webpod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Serve answers HTTP on TCP port and echoes on UDP port, on every address,
// until ctx ends. name is the Hostname it gives.
//
//	GET /                      who answers and who asked
//	GET /stream?interval=MS    a line "N NAME" every MS milliseconds (default 100);
//	                           with count=N, N lines and no more
//
// A UDP datagram comes back as it is, followed by a space and the name.
func Serve(ctx context.Context, name string, port int) error {
	address := ":" + strconv.Itoa(port)
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return fmt.Errorf("serve webpod: %w", err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve webpod: %w", err)
	}
	server := &http.Server{
		Handler:           Handler(name),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() {
		udp.Close()
		server.Close()
	})
	defer stop()

	failed := make(chan error, 2)
	go func() { failed <- server.Serve(tcp) }()
	go func() { failed <- echo(udp, name) }()
	err = <-failed
	server.Close()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve webpod: %w", err)
}

// Handler is the HTTP side of Serve.
func Handler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Hostname: %s\n", name)
		addrs, _ := net.InterfaceAddrs() // whoami says nothing either when it can't tell
		for _, a := range addrs {
			if ip, _, err := net.ParseCIDR(a.String()); err == nil {
				fmt.Fprintf(w, "IP: %s\n", ip)
			}
		}
		fmt.Fprintf(w, "RemoteAddr: %s\n", r.RemoteAddr)
		r.Write(w) // request line, Host and headers; a client that left is no error here
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		interval, err := positive(r, "interval", 100)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		count, err := positive(r, "count", 0)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		stream(w, r, name, time.Duration(interval)*time.Millisecond, count)
	})
	return mux
}

func stream(w http.ResponseWriter, r *http.Request, name string, interval time.Duration, count int) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	flush := http.NewResponseController(w)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(w, "%d %s\n", n, name); err != nil {
			return
		}
		if err := flush.Flush(); err != nil || n == count {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// positive reads a query parameter; absent, it is the default.
func positive(r *http.Request, key string, absent int) (int, error) {
	value := r.URL.Query().Get(key)
	if value == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s=%q: want a number of at least 1", key, value)
	}
	return n, nil
}

func echo(conn net.PacketConn, name string) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		// A peer that is gone is no reason to stop.
		conn.WriteTo(append(buf[:n:n], " "+name...), from)
	}
}
