package delay

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// startProxy runs a proxy before an echo server and returns the proxy's address.
func startProxy(t *testing.T, p *Proxy) string {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	p.To = server.Addr().String()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go p.Serve(t.Context(), front)
	return front.Addr().String()
}

func TestDelayHoldsEachDirectionBack(t *testing.T) {
	var p Proxy
	address := startProxy(t, &p)
	control := filepath.Join(t.TempDir(), "control.sock")
	go p.Control(t.Context(), control)
	for {
		if conn, err := net.Dial("unix", control); err == nil {
			conn.Close()
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("control socket never came up")
		}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	roundTrip := func() time.Duration {
		t.Helper()
		begin := time.Now()
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "ping" {
			t.Fatalf("echo %q, %v", buf, err)
		}
		return time.Since(begin)
	}
	roundTrip()
	if err := Set(t.Context(), control, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if d := roundTrip(); d < 100*time.Millisecond {
		t.Errorf("with 50 ms each way the round trip took %v", d)
	}
	if err := Set(t.Context(), control, -time.Second); err == nil {
		t.Error("a negative delay was taken")
	}
	if err := Set(t.Context(), control, 0); err != nil {
		t.Fatal(err)
	}
	if d := roundTrip(); d >= 100*time.Millisecond {
		t.Errorf("with the delay gone the round trip took %v", d)
	}
}

func TestEndOfStreamAndResetPassThrough(t *testing.T) {
	var p Proxy
	address := startProxy(t, &p)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "last words" {
		t.Errorf("after the end of stream: %q, %v", got, err)
	}

	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lonely := Proxy{To: "127.0.0.1:1"} // nobody listens
	go lonely.Serve(t.Context(), front)
	conn, err = net.Dial("tcp", front.Addr().String())
	if err == nil { // else the reset was quicker
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("with no server: %v, want a reset", err)
	}
}

func TestServeEndsItsConnections(t *testing.T) {
	p := Proxy{}
	address := startProxy(t, &p)
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	q := Proxy{To: address}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.Serve(ctx, front) }()
	conn, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlived the proxy")
	}
}
