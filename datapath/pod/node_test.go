package pod_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
)

// programmer is a datapath that notes the pods it was given, or refuses them.
type programmer struct {
	mu   sync.Mutex
	rows map[string]state.Endpoint
	err  error // of Update
	kept error // of Delete
}

func (p *programmer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *programmer) keep(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = err
}

func (p *programmer) has(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.rows[key]
	return ok
}

func (p *programmer) Update(_ context.Context, row state.Endpoint) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.rows[row.RowKey()] = row
	}
	return p.err
}

func (p *programmer) Delete(_ context.Context, row state.Endpoint) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil {
		delete(p.rows, row.RowKey())
	}
	return p.kept
}

func (p *programmer) Prune(context.Context, []state.Endpoint) error { return nil }

// node is the process's network namespace with eth1 on an outside segment, and
// a daemon's pod parts running in it.
type node struct {
	t        *testing.T
	db       *state.DB
	writer   *state.Writer
	log      *slog.Logger
	outside  string // network namespace of the machine at the other end of eth1
	stateDir string
	socket   string
	datapath *programmer
	timeout  time.Duration
}

// newNode brings up node w1, 192.168.10.101/24 on eth1 with the given pod CIDR.
func newNode(t *testing.T, podCIDR string) *node {
	needKernel(t)
	n := &node{t: t, stateDir: t.TempDir(), outside: newNetns(t), timeout: 10 * time.Second,
		datapath: &programmer{rows: map[string]state.Endpoint{}},
		log:      slog.New(slog.NewTextHandler(t.Output(), nil))}
	n.socket = filepath.Join(n.stateDir, "cni.sock")
	n.db, n.writer = state.New()
	n.setNode(podCIDR)
	run(t, "", "ip link set lo up")
	run(t, "", "ip link add eth1 mtu 1450 type veth peer name eth1 netns "+n.outside)
	t.Cleanup(func() {
		_ = pod.Cleanup(n.stateDir)
		run(t, "", "ip link del eth1")
	})
	run(t, "", "ip addr add 192.168.10.101/24 dev eth1")
	run(t, "", "ip link set eth1 up")
	run(t, n.outside, "ip addr add 192.168.10.200/24 dev eth1")
	run(t, n.outside, "ip link set eth1 up")
	n.background(&pod.Devices{DB: n.db, Writer: n.writer, Log: n.log})
	n.background(&state.Reconciler[state.Endpoint]{DB: n.db, Writer: n.writer, Table: n.db.Endpoints, Target: n.datapath, Log: n.log,
		Gate: func(s state.Snapshot) bool { return n.db.Endpoints.Synced(s) }, MaxBackoff: 100 * time.Millisecond})
	eventually(t, "eth1 is in the devices", func() bool {
		d, ok := n.db.Devices.Get(n.db.Snapshot(), "eth1")
		return ok && d.Up && len(d.Prefixes) > 0
	})
	return n
}

func (n *node) setNode(podCIDR string) {
	row := state.Node{Name: "w1", Addrs: []netip.Addr{addr("192.168.10.101")}}
	if podCIDR != "" {
		row.PodCIDRs = prefixes(podCIDR)
	}
	n.writer.Update(func(tx *state.Tx) {
		n.db.Nodes.Put(tx, row)
		n.db.Nodes.MarkSynced(tx)
	})
}

// background runs something until the test ends, or until stop is called.
func (n *node) background(r interface{ Run(context.Context) error }) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				n.t.Errorf("run %T: %v", r, err)
			}
		case <-time.After(20 * time.Second):
			n.t.Errorf("%T did not stop", r)
		}
	})
	n.t.Cleanup(stop)
	return stop
}

func (n *node) server() *pod.Server {
	return &pod.Server{DB: n.db, Writer: n.writer, Log: n.log, Node: "w1",
		Socket: n.socket, StateDir: n.stateDir, ProgramTimeout: n.timeout}
}

// serve starts the CNI server.
func (n *node) serve() (stop func()) {
	stop = n.background(n.server())
	eventually(n.t, "the CNI socket is there", func() bool {
		conn, err := net.Dial("unix", n.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return stop
}

const conf = `{"cniVersion":"1.1.0","name":"seamark","type":"seamark-cni"}`

// cni sends a command as the plugin does. The error is a *types.Error or nil.
func (n *node) cni(command, container, netns, stdin string) (*types100.Result, error) {
	n.t.Helper()
	return n.cniOf("eth0", command, container, netns, stdin)
}

// cniOf is cni for an interface of that name in the pod.
func (n *node) cniOf(ifname, command, container, netns, stdin string) (*types100.Result, error) {
	n.t.Helper()
	body, err := json.Marshal(skel.CmdArgs{ContainerID: container, Netns: netns, IfName: ifname,
		Args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container, StdinData: []byte(stdin)})
	if err != nil {
		n.t.Fatal(err)
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.socket)
		}}}
	resp, err := client.Post("http://seamarkd/cni/"+command, "application/json", bytes.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		refusal := new(types.Error)
		if err := json.NewDecoder(resp.Body).Decode(refusal); err != nil {
			n.t.Fatalf("%s: %s, and no error: %v", command, resp.Status, err)
		}
		return nil, refusal
	}
	result := new(types100.Result)
	if command == "add" {
		if err := json.NewDecoder(resp.Body).Decode(result); err != nil {
			n.t.Fatal(err)
		}
	}
	return result, nil
}

func (n *node) must(command, container, netns string) *types100.Result {
	n.t.Helper()
	result, err := n.cni(command, container, netns, conf)
	if err != nil {
		n.t.Fatalf("%s %s: %v", command, container, err)
	}
	return result
}

// add wires a pod and returns its address.
func (n *node) add(container, netns string) string {
	n.t.Helper()
	return n.must("add", container, netns).IPs[0].Address.IP.String()
}

// refused checks that err has the code and says all of parts.
func refused(t *testing.T, err error, code uint, parts ...string) {
	t.Helper()
	var refusal *types.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a CNI error", err)
	}
	if refusal.Code != code {
		t.Errorf("code %d, want %d: %v", refusal.Code, code, refusal)
	}
	for _, part := range parts {
		if !strings.Contains(refusal.Error(), part) {
			t.Errorf("error %q lacks %q", refusal, part)
		}
	}
}

// podDevices are the names of the pods' veths that the node has.
func (n *node) podDevices() []string {
	n.t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, link := range links {
		if pod.IsPodDevice(link.Attrs().Name) {
			names = append(names, link.Attrs().Name)
		}
	}
	return names
}

// rows waits until the Endpoints table has that many rows.
func (n *node) rows(count int) {
	n.t.Helper()
	eventually(n.t, "the rows that are left are the right ones", func() bool {
		return len(n.db.Endpoints.Rows(n.db.Snapshot())) == count
	})
}

func (n *node) recordFiles() []string {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.stateDir, "endpoints", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	return files
}
