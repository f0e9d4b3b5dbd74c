package kubescenario

import (
	"bytes"
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
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"github.com/vishvananda/netlink"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
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

	vipText = "192.168.10.211"
)

var (
	nodes = []string{ctr, w1, w0}
	pods  = []string{podCtr, podW1, podW0}
	vip   = netip.MustParseAddr(vipText)
	web   = netip.AddrPortFrom(vip, 80)
)

// within bounds what is awaited. It is no promise: the machine may be busy.
const within = 90 * time.Second

// lab is a lab whose control plane is a real Kubernetes. Its methods end the
// test when they fail.
type lab struct {
	*testlab.Lab
	t *testing.T
}

// labPrefix begins the names of this process's labs, and of no other's: a pid
// has at most five digits of base 36.
var labPrefix = func() string {
	pid := strconv.FormatInt(int64(os.Getpid()), 36)
	return "k" + strings.Repeat("0", 5-len(pid)) + pid
}()

// newLabName gives every test a lab of its own.
var newLabName = func() func() string {
	var count atomic.Int64
	return func() string { return labPrefix + strconv.FormatInt(count.Add(1), 36) }
}()

// up brings up a lab, or skips the test. What config leaves open is a real
// Kubernetes and the programs of this tree.
func up(t *testing.T, config testlab.Config) lab {
	t.Helper()
	kubetest.Binary(t)
	if reason := whyNot(); reason != "" {
		t.Skip(reason)
	}
	begin := time.Now()
	config.Name = newLabName()
	if config.BinDir == "" {
		config.BinDir = binDir
	}
	if config.ControlPlane == "" {
		config.ControlPlane = "kube"
	}
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

// demoManifests are the demo's pool, policy and Service.
const demoManifests = "../../deploy/demo/manifests"

// applyDemo applies the demo's manifests and waits until the VIP is served.
func (l lab) applyDemo() {
	l.t.Helper()
	manifests, err := filepath.Abs(demoManifests)
	l.must(err)
	l.kubectl("apply", "-f", manifests)
	l.eventually("the VIP is announced", func() error {
		_, err := l.tryHolder(ctr, vipText)
		return err
	})
	l.answers()
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
	tick := time.NewTicker(100 * time.Millisecond)
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

// try runs a command on a host and returns its output, or what it said in the error.
func (l lab) try(host, name string, args ...string) (string, error) {
	return l.tryWith(host, "", name, args...)
}

// tryWith is try with something to read.
func (l lab) tryWith(host, stdin, name string, args ...string) (string, error) {
	h, err := l.Host(host)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), within)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return output(cmd)
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

// kubectl runs kubectl as administrator.
func (l lab) kubectl(args ...string) string {
	l.t.Helper()
	return l.run(api, "kubectl", args...)
}

func (l lab) tryKubectl(args ...string) (string, error) { return l.try(api, "kubectl", args...) }

// kubectlSays waits until the output of kubectl has want in it, with runs of
// spaces taken for one.
func (l lab) kubectlSays(want string, args ...string) {
	l.t.Helper()
	l.eventually("kubectl "+strings.Join(args, " ")+" says "+want, func() error {
		out, err := l.tryKubectl(args...)
		if err == nil && !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			err = errors.New(out)
		}
		return err
	})
}

// apply applies manifests.
func (l lab) apply(manifests string) {
	l.t.Helper()
	l.must(l.Apply(l.t.Context(), manifests))
}

// rest is how client-go reaches the API server as administrator.
func (l lab) rest() *rest.Config {
	l.t.Helper()
	kubeconfig, ok := l.Kubeconfig()
	if !ok {
		l.t.Fatal("the control plane is not Kubernetes")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	l.must(err)
	config.QPS, config.Burst = 1000, 1000
	h := l.host(api)
	config.Dial = func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = h.Do(func() (err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	return config
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
	Version     string
	Ready       bool
	Lease       struct{ State string }
	Coordinator struct{ Identity string }
	Store       struct {
		Err      string
		Requests uint64
	}
	Problems []string
	Verdicts []struct {
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

// announcements are all, as they are printed: for comparison byte by byte.
func (l lab) announcements(from string) string {
	l.t.Helper()
	return l.seamark(from, "get", "announcement", "-o", "json")
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

// fetch gets a page from a host, by a connection of its own.
func (l lab) fetch(from, url string) (string, error) {
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
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// page asks a webpod for its page and returns the pod's name and the client
// that it saw.
func (l lab) page(from, url string) (pod, client string, err error) {
	body, err := l.fetch(from, url)
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
	l.answersAt(vipText)
}

func (l lab) answersAt(address string) {
	l.t.Helper()
	l.eventually(address+" answers", func() error {
		_, _, err := l.page(router, "http://"+address+"/")
		return err
	})
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

// background runs watch until stop is called, which returns what it has seen.
func background[R any](l lab, watch func(context.Context) (R, error)) (stop func() R) {
	ctx, cancel := context.WithCancel(context.Background())
	type outcome struct {
		result R
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := watch(ctx)
		done <- outcome{result, err}
	}()
	l.t.Cleanup(cancel)
	return func() R {
		l.t.Helper()
		cancel()
		o := <-done
		l.must(o.err)
		return o.result
	}
}

// watchARP has the router ask who has the VIP, and returns when it has been answered.
func (l lab) watchARP() (stop func() traffic.ARPResult) {
	l.t.Helper()
	from, holder := l.host(router), l.holder()
	before := l.counted(holder, "arp_reply")
	stop = background(l, func(ctx context.Context) (traffic.ARPResult, error) {
		return traffic.WatchARP(ctx, from, "eth1", vip, 25*time.Millisecond)
	})
	l.eventually("the router's questions are answered", func() error {
		if l.counted(holder, "arp_reply") < before+2 { // one may be to the router's own kernel
			return errors.New("not one")
		}
		return nil
	})
	return stop
}

// counted is how many packets a node's programs have met with the verdict
// (bpf/reasons.h, in lower case).
func (l lab) counted(node, reason string) uint64 {
	l.t.Helper()
	var n uint64
	for _, v := range l.status(node).Verdicts {
		if strings.HasSuffix(v.Reason, "/"+reason) {
			n += v.Packets
		}
	}
	return n
}

// probe opens connections to the VIP, each anew.
func (l lab) probe() (stop func() traffic.ProbeResult) {
	l.t.Helper()
	from := l.host(router)
	return background(l, func(ctx context.Context) (traffic.ProbeResult, error) {
		return traffic.ProbeTCP(ctx, from, web, 20)
	})
}

// streams opens connections to the VIP on which the pods send lines.
func (l lab) streams(count int) *traffic.Streams {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), within)
	defer cancel()
	s, err := traffic.OpenStreams(ctx, l.host(router), web, count, 200*time.Millisecond)
	l.must(err)
	l.t.Cleanup(s.Close)
	return s
}

// flowing waits until every connection to the pods has brought more lines, or
// broke; of those that broke, none is excused.
func (l lab) flowing(s *traffic.Streams, pods ...string) {
	l.t.Helper()
	before := s.Result().Streams
	l.eventually("the streams flow", func() error {
		for i, now := range s.Result().Streams {
			switch {
			case !slices.Contains(pods, now.Pod):
			case now.Error != "":
				l.t.Fatalf("connection from %s to %s broke: %s", now.Local, now.Pod, now.Error)
			case now.Lines < before[i].Lines+2:
				return fmt.Errorf("connection from %s to %s stands still", now.Local, now.Pod)
			}
		}
		return nil
	})
}

// unbroken wants some connections to the pods, and all of them never broken.
func (l lab) unbroken(s *traffic.Streams, pods ...string) {
	l.t.Helper()
	r := s.Result()
	l.t.Logf("streams:\n%s", r)
	for _, pod := range pods {
		on := r.On(pod)
		if len(on.Streams) == 0 {
			l.t.Errorf("no connection leads to %s: this shows nothing", pod)
		}
		for _, broken := range on.Broken() {
			l.t.Errorf("connection from %s to %s broke: %s", broken.Local, pod, broken.Error)
		}
	}
}

// held wants one holder of the VIP's MAC.
func (l lab) held(r traffic.ARPResult, by string) {
	l.t.Helper()
	l.t.Logf("ARP: %s", r)
	if len(r.Holders) != 1 || r.Holders[0].MAC != by {
		l.t.Errorf("ARP was answered by %+v, want %s alone", r.Holders, by)
	}
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
