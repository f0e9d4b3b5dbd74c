package scenario

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/vishvananda/netlink"
)

// What of the lab (testlab/topology.yaml) and of deploy/demo/manifests the
// tests name.
const (
	ctr    = "k8s-ctr"
	w1     = "k8s-w1"
	w0     = "k8s-w0" // behind the router, so never a holder of the VIP
	router = "router"
	api    = "api"

	podCtr = "webpod-697b545f57-7kq4m"
	podW1  = "webpod-697b545f57-d9xwz"
	podW0  = "webpod-697b545f57-tr2fh"

	routerAddr = "192.168.10.200"
	vipText    = "192.168.10.211"
)

var (
	nodes = []string{ctr, w1, w0}
	podOf = map[string]string{ctr: podCtr, w1: podW1, w0: podW0}
	vip   = netip.MustParseAddr(vipText)
	web   = netip.AddrPortFrom(vip, 80)
)

// within bounds what is awaited. It is no promise: the machine may be busy.
const within = 60 * time.Second

// lab is a lab of one test. Its methods end the test when they fail.
type lab struct {
	*testlab.Lab
	t *testing.T
}

// labPrefix begins the names of this process's labs, and of no other's: a pid
// has at most five digits of base 36.
var labPrefix = func() string {
	pid := strconv.FormatInt(int64(os.Getpid()), 36)
	return "s" + strings.Repeat("0", 5-len(pid)) + pid
}()

// newLabName gives every test a lab of its own.
var newLabName = func() func() string {
	var count atomic.Int64
	return func() string { return labPrefix + strconv.FormatInt(count.Add(1), 36) }
}()

// up brings up a lab, with daemonArgs for the nodes' daemons, or skips the test.
func up(t *testing.T, daemonArgs ...string) lab {
	t.Helper()
	return upWith(t, testlab.Config{DaemonArgs: daemonArgs})
}

// upWith is up for a lab of another kind.
func upWith(t *testing.T, config testlab.Config) lab {
	t.Helper()
	if reason := whyNot(); reason != "" {
		t.Skip(reason)
	}
	begin := time.Now()
	config.Name, config.BinDir = newLabName(), cmp.Or(config.BinDir, binDir)
	inner, err := testlab.Up(interrupted, config)
	if err != nil {
		t.Fatal(err)
	}
	l := lab{inner, t}
	t.Logf("lab %s is up after %s", l.Name, ms(time.Since(begin)))
	t.Cleanup(func() {
		if t.Failed() {
			l.printLogs()
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// upServing brings up a lab in which the demo's Service is served and announced.
func upServing(t *testing.T, daemonArgs ...string) lab {
	t.Helper()
	l := up(t, daemonArgs...)
	l.applyDemo()
	return l
}

// applyDemo applies the demo's manifests and waits until the VIP is served.
func (l lab) applyDemo() {
	l.t.Helper()
	l.announceDemo()
	l.answers()
}

// announceDemo applies them and waits until the VIP is announced.
func (l lab) announceDemo() {
	l.t.Helper()
	manifests, err := filepath.Abs("../../deploy/demo/manifests")
	l.must(err)
	l.seamark(ctr, "apply", "-f", manifests)
	l.eventually("the VIP is announced", func() error {
		_, err := l.tryHolder(ctr, vipText)
		return err
	})
}

// in is the lab for a subtest.
func (l lab) in(t *testing.T) lab { return lab{l.Lab, t} }

func (l lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// eventually waits until try succeeds.
func (l lab) eventually(what string, try func() error) {
	l.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			l.t.Fatalf("waited %v until %s: %v", within, what, err)
		}
	}
}

func (l lab) host(name string) *testlab.Host {
	l.t.Helper()
	h, err := l.Host(name)
	l.must(err)
	return h
}

// labsDir holds a directory for each lab.
const labsDir = "/run/testlab"

// dir is a host's directory: its bpffs, state and run directories are in it.
func (l lab) dir(host string) string { return filepath.Join(labsDir, l.Name, host) }

// nodeFlags say to seamarkd where a host keeps what.
func (l lab) nodeFlags(host string) []string {
	dir := l.dir(host)
	return []string{"--bpffs", filepath.Join(dir, "bpf"), "--state-dir", filepath.Join(dir, "state"), "--run-dir", filepath.Join(dir, "run")}
}

// try runs a command on a host and returns its output, or what it said in the error.
func (l lab) try(host, name string, args ...string) (string, error) {
	h, err := l.Host(host)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), within)
	defer cancel()
	return output(h.Command(ctx, name, args...))
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// run is try for what must succeed.
func (l lab) run(host, name string, args ...string) string {
	l.t.Helper()
	out, err := l.try(host, name, args...)
	if err != nil {
		l.t.Fatalf("on %s: %s %s: %v", host, name, strings.Join(args, " "), err)
	}
	return out
}

func (l lab) seamark(host string, args ...string) string {
	l.t.Helper()
	return l.run(host, "seamark", args...)
}

// refused runs a command that must fail with all of want in what it says.
func (l lab) refused(host string, argv []string, want ...string) {
	l.t.Helper()
	_, err := l.try(host, argv[0], argv[1:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		l.t.Errorf("on %s: %s: want it refused, got %v", host, strings.Join(argv, " "), err)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			l.t.Errorf("on %s: %s: no %q in: %v", host, strings.Join(argv, " "), w, err)
		}
	}
}

// apply applies manifests.
func (l lab) apply(manifests string) {
	l.t.Helper()
	l.must(l.Apply(l.t.Context(), manifests))
}

// daemon acts on a host's daemon: testlab.Stop and so on.
func (l lab) daemon(host, action string) {
	l.t.Helper()
	l.must(l.Daemon(l.t.Context(), host, action))
}

// announcement is what `seamark get announcement -o json` says of an address.
type announcement struct {
	Address    netip.Addr
	Service    string
	Node       string
	Interfaces []string
	Generation int64
	Reason     string
	Previous   string
	MACs       []string
}

// status is what `seamark status -o json` says, as far as tests ask.
type status struct {
	Ready       bool
	Lease       struct{ State string }
	Coordinator struct{ Identity string }
	Store       struct{ Err string }
	Problems    []string
	Verdicts    []struct {
		Reason  string
		Dropped bool
		Packets uint64
	}
}

func (l lab) tryJSON(into any, host string, args ...string) error {
	out, err := l.try(host, "seamark", append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

func (l lab) status(host string) status {
	l.t.Helper()
	var s status
	l.must(l.tryJSON(&s, host, "status"))
	return s
}

func (l lab) announcement(from, address string) announcement {
	l.t.Helper()
	var a announcement
	l.must(l.tryJSON(&a, from, "get", "announcement", address))
	return a
}

// tryHolder asks a node which node announces an address.
func (l lab) tryHolder(from, address string) (string, error) {
	var a announcement
	if err := l.tryJSON(&a, from, "get", "announcement", address); err != nil {
		return "", err
	}
	if a.Node == "" {
		return "", fmt.Errorf("nobody announces %s: %s", address, a.Reason)
	}
	return a.Node, nil
}

func (l lab) holder() string {
	l.t.Helper()
	node, err := l.tryHolder(ctr, vipText)
	l.must(err)
	return node
}

// other is the other node that can hold the VIP.
func other(holder string) string {
	if holder == ctr {
		return w1
	}
	return ctr
}

// mac of a node's eth1.
func (l lab) mac(node string) string {
	l.t.Helper()
	var mac string
	l.must(l.host(node).Do(func() error {
		link, err := netlink.LinkByName("eth1")
		if err == nil {
			mac = link.Attrs().HardwareAddr.String()
		}
		return err
	}))
	return mac
}

// fetch makes a request from a host, by a connection of its own, and returns
// the answer's body. With a body it is a POST.
func (l lab) fetch(from, url, body string) (string, error) {
	h, err := l.Host(from)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = h.Do(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return string(answer), err
}

// page asks a webpod for its page and returns the pod's name and the client
// that it saw.
func (l lab) page(from, url string) (pod, client string, err error) {
	body, err := l.fetch(from, url, "")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(body) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Hostname":
			pod = value
		case "RemoteAddr":
			client, _, _ = net.SplitHostPort(value)
		}
	}
	if pod == "" || client == "" {
		return pod, client, fmt.Errorf("%s answered %q", url, body)
	}
	return pod, client, nil
}

// answers waits until the VIP answers the router.
func (l lab) answers() {
	l.t.Helper()
	l.eventually("the VIP answers", func() error {
		_, _, err := l.page(router, "http://"+vipText+"/")
		return err
	})
}

// reaches waits until requests through the VIP have met all of these pods.
func (l lab) reaches(pods ...string) {
	l.t.Helper()
	missing := slices.Clone(pods)
	l.eventually("the VIP leads to "+strings.Join(pods, ", "), func() error {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(p string) bool { return p == pod })
		if len(missing) > 0 {
			return fmt.Errorf("never to %s", strings.Join(missing, ", "))
		}
		return nil
	})
}

// movedFrom waits until a node other than the old one announces the VIP, and
// answers for it; it returns the node.
func (l lab) movedFrom(old string) string {
	l.t.Helper()
	now := other(old)
	l.eventually(now+" announces the VIP", func() error {
		node, err := l.tryHolder(now, vipText)
		if err == nil && node != now {
			err = fmt.Errorf("%s announces it", node)
		}
		return err
	})
	l.eventually(now+"'s kernel answers ARP for the VIP", func() error {
		dump, err := l.try(now, "seamark", "bpf", "lb", "list")
		if err == nil && !strings.Contains(dump, "\nannounced "+vipText+" ") {
			err = fmt.Errorf("not in its maps")
		}
		return err
	})
	return now
}

// leased waits until the node's lease is valid: it may be chosen.
func (l lab) leased(node string) {
	l.t.Helper()
	l.eventually(node+"'s lease is valid", func() error {
		var s status
		if err := l.tryJSON(&s, node, "status"); err != nil {
			return err
		}
		if s.Lease.State != "valid" || s.Store.Err != "" {
			return fmt.Errorf("lease %s, store %q", s.Lease.State, s.Store.Err)
		}
		return nil
	})
}

// coordinate restarts daemons until the node is the coordinator.
func (l lab) coordinate(node string) {
	l.t.Helper()
	l.eventually(node+" is the coordinator", func() error {
		switch now := l.status(node).Coordinator.Identity; now {
		case node:
			return nil
		case "":
			return errors.New("there is none")
		default:
			l.daemon(now, testlab.Stop) // it gives the office up
			defer l.daemon(now, testlab.Start)
			l.eventually(now+" is no longer the coordinator", func() error {
				if l.status(node).Coordinator.Identity == now {
					return errors.New("it still is")
				}
				return nil
			})
			return fmt.Errorf("%s was", now)
		}
	})
}

// printLogs shows how the logs of a failed test end.
func (l lab) printLogs() {
	files, _ := filepath.Glob(filepath.Join(labsDir, l.Name, "log", "*seamarkd.log"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		l.t.Logf("%s ends:\n%s", filepath.Base(file), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// ms rounds a duration for people.
func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
