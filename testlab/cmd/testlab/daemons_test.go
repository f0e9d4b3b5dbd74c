package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"golang.org/x/sys/unix"
)

// builtDir is where `make build` puts the programs.
func builtDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"testlab", "seamarkd", "seamark", "seamark-cni"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			t.Skipf("%v: this test needs the programs: run make build", err)
		}
	}
	return dir
}

func processOf(t *testing.T, l *testlab.Lab, name string) string {
	t.Helper()
	all, err := l.Status()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(s testlab.Status) bool { return s.Name == name })
	return all[i].Process
}

// storeRoundTrip is the time of one HTTP request from a host to the store.
func storeRoundTrip(t *testing.T, from *testlab.Host) (time.Duration, error) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = from.Do(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	begin := time.Now()
	resp, err := client.Get("http://10.0.2.10:2379/version")
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return time.Since(begin), nil
}

// TestLabWithDaemons runs the whole lab and breaks it in every way there is.
func TestLabWithDaemons(t *testing.T) {
	needRoot(t)
	bin := builtDir(t)
	l, err := testlab.Up(t.Context(), testlab.Config{Name: newLabName(), BinDir: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		if left := remains(l.Name); len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, ", "))
		}
	})
	node := mustHost(t, l, "k8s-w1")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	seamark := func(host string, args ...string) string {
		t.Helper()
		out, err := mustHost(t, l, host).Command(t.Context(), "seamark", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("on %s: seamark %s: %v: %s", host, strings.Join(args, " "), err, out)
		}
		return string(out)
	}

	t.Run("objects", func(t *testing.T) {
		for _, host := range []string{"router", "api", "k8s-w0", podW1} {
			if out := seamark(host, "get", "nodes"); strings.Count(out, "k8s-") != 3 {
				t.Errorf("nodes, asked from %s:\n%s", host, out)
			}
		}
		if out := seamark("router", "get", "endpointslices", "-A", "-o", "yaml"); strings.Count(out, "name: webpod-") < 4 {
			t.Errorf("EndpointSlice webpod-1 of three pods:\n%s", out)
		}
		must(l.SetReady(t.Context(), false, podW1))
		if out := seamark("router", "get", "endpointslices", "-A", "-o", "yaml"); strings.Count(out, "ready: false") != 1 {
			t.Errorf("one pod is not ready:\n%s", out)
		}
		must(l.SetReady(t.Context(), true, podW1))
		if err := l.SetReady(t.Context(), true, "nopod"); err == nil {
			t.Error("an unknown pod was made ready")
		}
	})

	t.Run("daemon", func(t *testing.T) {
		for _, step := range []struct{ action, want string }{
			{testlab.Pause, "paused"}, {testlab.Resume, "running"},
			{testlab.Pause, "paused"}, {testlab.Stop, "stopped"}, {testlab.Stop, "stopped"}, {testlab.Start, "running"},
			{testlab.Start, "running"}, {testlab.Kill, "stopped"}, {testlab.Start, "running"},
		} {
			must(l.Daemon(t.Context(), "k8s-w1", step.action))
			for deadline := time.Now().Add(30 * time.Second); processOf(t, l, "k8s-w1") != step.want; {
				if time.Now().After(deadline) {
					t.Fatalf("after %s the daemon is %s, want %s", step.action, processOf(t, l, "k8s-w1"), step.want)
				}
			}
		}
		seamark("k8s-w1", "status")
		must(l.Daemon(t.Context(), "k8s-w1", testlab.Stop))
		if err := l.Daemon(t.Context(), "k8s-w1", testlab.Resume); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("resume of a daemon that does not run: %v", err)
		}
		must(l.Daemon(t.Context(), "k8s-w1", testlab.Start))
	})

	t.Run("api", func(t *testing.T) {
		quick, err := storeRoundTrip(t, node)
		must(err)
		must(l.DelayAPI(t.Context(), 60*time.Millisecond))
		slow, err := storeRoundTrip(t, node)
		must(err)
		if slow < 120*time.Millisecond || quick >= 120*time.Millisecond {
			t.Errorf("a request took %v, and with 60 ms each way %v", quick, slow)
		}
		must(l.DelayAPI(t.Context(), 0))
		must(l.StopAPI(t.Context()))
		if _, err := storeRoundTrip(t, node); err == nil {
			t.Error("a stopped store answered")
		}
		must(l.StartAPI(t.Context()))
		if again, err := storeRoundTrip(t, node); err != nil || again >= 120*time.Millisecond {
			t.Errorf("the store that was started again took %v, %v", again, err)
		}
		if out := seamark("router", "get", "nodes"); strings.Count(out, "k8s-") != 3 {
			t.Errorf("the store forgot:\n%s", out)
		}
	})

	t.Run("power", func(t *testing.T) {
		bpffs := filepath.Join("/run/testlab", l.Name, "k8s-w1", "bpf")
		pins := func() int {
			entries, err := os.ReadDir(bpffs)
			must(err)
			return len(entries)
		}
		if pins() == 0 {
			t.Error("the daemon pinned nothing: this test shows nothing")
		}
		must(os.WriteFile(filepath.Join(bpffs, "..", "state", "on-disk"), nil, 0o600))
		probe := filepath.Join(bpffs, "of-the-old-kernel")
		must(os.Mkdir(probe, 0o700))
		must(l.PowerOff("k8s-w1"))
		if p := processOf(t, l, "k8s-w1"); p != "stopped" {
			t.Errorf("without power the daemon is %s", p)
		}
		must(l.PowerOn(t.Context(), "k8s-w1"))
		if _, err := os.Stat(probe); err == nil {
			t.Error("a pin outlived its kernel")
		}
		var st unix.Statfs_t
		if must(unix.Statfs(bpffs, &st)); st.Type != unix.BPF_FS_MAGIC {
			t.Error("after the boot there is no bpffs")
		}
		if _, err := os.Stat(filepath.Join(bpffs, "..", "state", "on-disk")); err != nil {
			t.Errorf("the disk was wiped: %v", err)
		}
		out := seamark("router", "get", "endpointslices", "-A", "-o", "yaml")
		all, err := l.Status()
		must(err)
		i := slices.IndexFunc(all, func(s testlab.Status) bool { return s.Name == podW1 })
		address := strings.TrimPrefix(all[i].Addresses[0], "eth0 ")
		if !strings.Contains(out, "- "+address+"\n") {
			t.Errorf("the booted pod's address %s is not in the EndpointSlice:\n%s", address, out)
		}
		var body string
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(body, podW1); {
			if body, err = fetch(l.Name, "router", address); time.Now().After(deadline) {
				t.Fatalf("the booted pod does not answer the router: %q, %v", body, err)
			}
		}
		must(l.PowerOff("api"))
		if _, err := storeRoundTrip(t, node); err == nil {
			t.Error("a store without power answered")
		}
		must(l.PowerOn(t.Context(), "api"))
		if _, err := storeRoundTrip(t, node); err != nil {
			t.Errorf("the store that was booted does not answer: %v", err)
		}
	})
}

// TestUpSaysWhyADaemonDied, and leaves nothing.
func TestUpSaysWhyADaemonDied(t *testing.T) {
	needRoot(t)
	bin := builtDir(t)
	lab := newLabName()
	l, err := testlab.Up(t.Context(), testlab.Config{Name: lab, BinDir: bin, DaemonArgs: []string{"--no-such-flag"}})
	if err == nil {
		l.Down()
		t.Fatal("daemons with a flag they do not know came up")
	}
	for _, want := range []string{"it has ended", "unknown flag: --no-such-flag"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if left := remains(lab); len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}
