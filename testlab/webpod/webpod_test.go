package webpod

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHandlerSaysWhoAnswersAndWhoAsked(t *testing.T) {
	server := httptest.NewServer(Handler("webpod-a"))
	defer server.Close()
	req, err := http.NewRequest("GET", server.URL+"/x?y=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "shop.example"
	req.Header.Set("X-Colour", "blue")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.ReplaceAll(string(body), "\r", ""), "\n")
	if lines[0] != "Hostname: webpod-a" {
		t.Errorf("first line is %q", lines[0])
	}
	for _, want := range []string{"IP: 127.0.0.1", "GET /x?y=1 HTTP/1.1", "Host: shop.example", "X-Colour: blue"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	for _, l := range lines {
		if addr, ok := strings.CutPrefix(l, "RemoteAddr: "); ok {
			if host, _, err := net.SplitHostPort(addr); err != nil || host != "127.0.0.1" {
				t.Errorf("RemoteAddr is %q", addr)
			}
			return
		}
	}
	t.Error("no RemoteAddr")
}

func TestStream(t *testing.T) {
	server := httptest.NewServer(Handler("webpod-a"))
	defer server.Close()
	resp, err := http.Get(server.URL + "/stream?interval=1&count=3")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for scanner := bufio.NewScanner(resp.Body); scanner.Scan(); {
		got = append(got, scanner.Text())
	}
	if want := "1 webpod-a,2 webpod-a,3 webpod-a"; strings.Join(got, ",") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, query := range []string{"interval=0", "interval=x", "count=-1"} {
		resp, err := http.Get(server.URL + "/stream?" + query)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %s, want 400", query, resp.Status)
		}
	}
}

func TestEcho(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go echo(server, "webpod-a")
	client, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("ping 7")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := client.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(buf[:n]); got != "ping 7 webpod-a" {
		t.Errorf("echo is %q", got)
	}
}
