package health_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/datapath/health"
	"github.com/seamark-lb/seamark/state"
)

func get(t *testing.T, port uint16) (status int, weight, body string) {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
	if err != nil {
		return 0, "", err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight"), strings.TrimSpace(string(text))
}

// freePort is one that nobody listens on now.
func freePort(t *testing.T) (uint16, net.Listener) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	return uint16(l.Addr().(*net.TCPAddr).Port), l
}

func TestChecks(t *testing.T) {
	healthy := true
	checks := health.NewChecks(func() bool { return healthy }, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { checks.Close() })
	port, taken := freePort(t)
	row := state.HealthCheck{Service: state.ObjectName{Namespace: "default", Name: "web"}, Port: port, Local: 2}

	if err := checks.Update(t.Context(), row); err == nil || !strings.Contains(err.Error(), "default/web") || !strings.Contains(err.Error(), "kube-proxy") {
		t.Fatalf("on a port that is taken: %v", err)
	}
	taken.Close()
	for _, tc := range []struct {
		name    string
		local   int
		healthy bool
		status  int
		body    string
	}{
		{"two here", 2, true, 200, `{"service":{"namespace":"default","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}`},
		{"none here", 0, true, 503, `{"service":{"namespace":"default","name":"web"},"localEndpoints":0,"serviceProxyHealthy":true}`},
		{"not healthy", 1, false, 503, `{"service":{"namespace":"default","name":"web"},"localEndpoints":1,"serviceProxyHealthy":false}`},
	} {
		row.Local, healthy = tc.local, tc.healthy
		if err := checks.Update(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		status, weight, body := get(t, port)
		if status != tc.status || weight != fmt.Sprint(tc.local) || body != tc.body {
			t.Errorf("%s: %d, weight %s, %s", tc.name, status, weight, body)
		}
	}
	for range 2 { // the second time it is absent, which is no error
		if err := checks.Delete(t.Context(), row); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, body := get(t, port); status != 0 {
		t.Errorf("answers after Delete: %d %s", status, body)
	}
	if err := checks.Update(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	if err := checks.Prune(t.Context(), []state.HealthCheck{row}); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, port); status == 0 {
		t.Error("Prune stopped one that is wanted")
	}
	if err := checks.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := get(t, port); status != 0 {
		t.Error("answers after Prune")
	}
}
