package main

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// asDaemon makes the test binary seamarkd itself.
const asDaemon = "SEAMARKD_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// output is what a daemon wrote; it may be read while that runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var _ io.Writer = (*output)(nil)

// daemon starts seamarkd in namespaces of its own, with the addresses 192.0.2.1 and
// fd00:2::1 on a device that swallows what is sent. exited gets its end.
func daemon(t *testing.T, flags ...string) (process *os.Process, out *output, exited <-chan error) {
	t.Helper()
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("needs root and no -short: it loads BPF programs in a network namespace of its own")
	}
	dir := t.TempDir()
	flags = append([]string{"--node-name", "n", "--node-ip", "192.0.2.1", "--bpffs", filepath.Join(dir, "bpf"),
		"--run-dir", filepath.Join(dir, "run"), "--state-dir", filepath.Join(dir, "state")}, flags...)
	const prepare = `set -e
		ip link set lo up; ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up
		ip addr add 192.0.2.1/24 dev d0; ip addr add fd00:2::1/64 dev d0 nodad
		ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev d0
		mkdir "$1/bpf"; mount -t bpf bpf "$1/bpf"; shift
		exec "$@"`
	cmd := exec.Command("unshare", append([]string{"--net", "--mount", "sh", "-c", prepare, "sh", dir, os.Args[0]}, flags...)...)
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	out = &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	gone := make(chan struct{})
	go func() { defer close(gone); ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-gone
		if t.Failed() {
			t.Log(out)
		}
	})
	return cmd.Process, out, ended
}

func exit(t *testing.T, within time.Duration, exited <-chan error) error {
	t.Helper()
	select {
	case err := <-exited:
		return err
	case <-time.After(within):
		t.Fatalf("still runs after %v", within)
		return nil
	}
}

// A daemon whose store cannot run says so and exits, for its supervisor to
// start it again: it would never have a store.
func TestStoreCannotRun(t *testing.T) {
	_, out, exited := daemon(t, "--store", "embedded", "--store-dir", t.TempDir(), "--store-listen-client", "http://203.0.113.9:2379")
	if err := exit(t, 30*time.Second, exited); err == nil {
		t.Error("exit code 0")
	}
	if got := out.String(); !strings.Contains(got, "seamarkd: start store: ") || !strings.Contains(got, "--store-listen-client") {
		t.Error("no word of the flag to change")
	}
}

// A store that does not answer does not keep a daemon from stopping.
func TestStopWithoutStore(t *testing.T) {
	for name, endpoint := range map[string]string{"refuses": "http://192.0.2.1:1", "is silent": "http://192.0.2.9:2379"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			process, out, exited := daemon(t, "--store", "etcd", "--etcd-endpoints", endpoint)
			for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out.String(), "follow store"); <-time.After(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("does not say that the store is out of reach")
				}
			}
			if err := process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			asked := time.Now()
			err := exit(t, 20*time.Second, exited)
			if took := time.Since(asked); took > 6*time.Second || err != nil {
				t.Errorf("stopped after %v: %v", took, err)
			}
		})
	}
}

// The same for a coordinator whose store stops answering: it cannot give the
// office back, nor have its lease stretched.
func TestStopWhileStoreHangs(t *testing.T) {
	process, out, exited := daemon(t, "--store", "etcd", "--etcd-endpoints", "http://192.0.2.1:2379")
	says := func(text string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out.String(), text); <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("does not say %q", text)
			}
		}
	}
	says("seamarkd runs")
	store := exec.Command("nsenter", "--target", strconv.Itoa(process.Pid), "--net", os.Args[0], "store",
		"--store-listen-client", "http://192.0.2.1:2379", "--store-dir", filepath.Join(t.TempDir(), "store"), "--run-dir", t.TempDir())
	store.Env = append(os.Environ(), asDaemon+"=1")
	if err := store.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { store.Process.Kill(); store.Wait() }()
	says("lease valid")
	says("coordinator: this node decides")
	if err := store.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := exit(t, 20*time.Second, exited)
	if took := time.Since(asked); took > 6*time.Second || err != nil {
		t.Errorf("stopped after %v: %v", took, err)
	}
}

// The programs know the addresses of both families that the node has where its
// --node-ip is, of either.
func TestOwnAddrs(t *testing.T) {
	for _, given := range []string{"192.0.2.1", "fd00:2::1"} {
		t.Run(given, func(t *testing.T) {
			dir := t.TempDir()
			process, out, _ := daemon(t, "--node-ip", given, "--store", "etcd", "--etcd-endpoints", "http://192.0.2.1:1")
			for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), "seamarkd runs"); <-time.After(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("does not run")
				}
			}
			found, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(process.Pid), "root", filepath.Dir(dir), "*", "bpf", "seamark", "own_addrs"))
			if err != nil || len(found) != 1 {
				t.Fatalf("pins of own_addrs: %v, %v", found, err)
			}
			m, err := ebpf.LoadPinnedMap(found[0], nil)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			row, err := m.LookupBytes(uint32(0))
			if err != nil {
				t.Fatal(err)
			}
			// Eight of IPv4, eight of IPv6 (struct node_addrs).
			four, six := netip.AddrFrom4([4]byte(row)), netip.AddrFrom16([16]byte(row[32:]))
			if four.String() != "192.0.2.1" || six.String() != "fd00:2::1" {
				t.Errorf("the programs know %s and %s", four, six)
			}
		})
	}
}
