package testlab

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// within bounds what is awaited. It is no promise: the machine may be busy.
const within = 30 * time.Second

func TestDefaultTopologyIsTheLabPeopleKnow(t *testing.T) {
	topology := DefaultTopology()
	want := map[string]string{
		"router eth1":  "192.168.10.200/24",
		"router eth2":  "192.168.20.200/24",
		"router loop1": "10.10.1.200/24",
		"router loop2": "10.10.2.200/24",
		"api eth0":     "10.0.2.10/24",
		"k8s-ctr eth1": "192.168.10.100/24",
		"k8s-w1 eth1":  "192.168.10.101/24",
		"k8s-w0 eth1":  "192.168.20.100/24",
	}
	management := netip.MustParsePrefix("10.0.2.0/24")
	for _, h := range topology.Hosts {
		if !h.onLink(management.Addr().Next()) {
			t.Errorf("host %s has no address on the management network", h.Name)
		}
		for _, i := range h.Interfaces {
			key := h.Name + " " + i.Name
			if a, ok := want[key]; ok && i.Addresses[0].String() == a {
				delete(want, key)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("missing or different: %v", want)
	}
	for node, cidr := range map[string]string{"k8s-ctr": "172.20.0.0/24", "k8s-w1": "172.20.1.0/24", "k8s-w0": "172.20.2.0/24"} {
		h, _ := topology.host(node)
		if len(h.PodCIDRs) != 1 || h.PodCIDRs[0].String() != cidr {
			t.Errorf("%s has podCIDRs %v, want %s", node, h.PodCIDRs, cidr)
		}
		if pods := topology.podsOn(node); len(pods) != 1 || !strings.HasPrefix(pods[0].Name, "webpod-") || pods[0].Service != "default/webpod" {
			t.Errorf("%s has pods %v", node, pods)
		}
	}
}

func TestTopologiesWithNames(t *testing.T) {
	if got := TopologyNames(); !slices.Equal(got, []string{"bgp", "bgp2"}) {
		t.Errorf("names are %v", got)
	}
	routers := map[string]int{"bgp": 1, "bgp2": 3}
	for _, name := range TopologyNames() {
		topology, err := ReadTopology(name)
		if err != nil {
			t.Error(err)
		}
		frr := 0
		for _, h := range topology.Hosts {
			if h.FRR != "" {
				frr++
			}
		}
		if frr != routers[name] {
			t.Errorf("%s has %d hosts with FRR, want %d", name, frr, routers[name])
		}
	}
	if _, err := ReadTopology("bpg"); err == nil || !strings.Contains(err.Error(), "those with a name are bgp, bgp2") {
		t.Errorf("a name that is none: %v", err)
	}
}

func TestTopologySurvivesItsRecord(t *testing.T) {
	want := DefaultTopology()
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Topology
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestValidateRefuses(t *testing.T) {
	for _, tc := range []struct{ yaml, want string }{
		{`hosts: [{name: Router}]`, `host "Router": the name must be a DNS label`},
		{`hosts: [{name: a/b}]`, `host "a/b"`},
		{`hosts: [{name: wire}]`, `taken by the lab itself`},
		{`hosts: [{name: log}]`, `taken by the lab itself`},
		{`hosts: [{name: a}, {name: a}]`, `the name is given twice`},
		{`hosts: [{name: a, role: king}]`, `role "king"`},
		{`hosts: [{name: a, role: node}]`, `a node needs podCIDRs`},
		{`hosts: [{name: a, role: node, podCIDRs: [fd00::/64]}]`, `the first must be an IPv4 network`},
		{`hosts: [{name: a, role: node, podCIDRs: [10.0.0.0/31]}]`, `of at least 4 addresses`},
		{`hosts: [{name: a, role: node, podCIDRs: [10.0.0.0/24]}]`, `needs an interface eth1`},
		{`hosts: [{name: a, role: control-plane}]`, `needs an address on its first interface`},
		{`hosts: [{name: a, interfaces: [{name: lo}]}]`, `interface "lo"`},
		{`hosts: [{name: a, interfaces: [{name: sixteen-letters-}]}]`, `of 1–15 characters`},
		{`hosts: [{name: a, role: control-plane, frr: router bgp 1}]`, `host a: frr: a control-plane runs none`},
		{`networks: [n, n]`, `network "n"`},
		{`hosts: [{name: a, interfaces: [{name: e, addresses: [10.0.0.1]}]}]`, `10.0.0.1`},
		{`pods: [{name: p, node: x, service: y/z}]`, `node "x" is no host`},
		{`pods: [{name: p, node: x, service: y}]`, `want namespace/name`},
	} {
		_, err := ParseTopology([]byte(tc.yaml))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.yaml, err, tc.want)
		}
	}
	two := `
networks: [n]
hosts:
- {name: a, role: control-plane, interfaces: [{name: e, network: n, addresses: [10.0.0.1/24]}]}
- {name: b, role: control-plane, interfaces: [{name: e, network: n, addresses: [10.0.0.2/24]}]}`
	if _, err := ParseTopology([]byte(two)); err == nil || !strings.Contains(err.Error(), "host b: there is a control-plane host already") {
		t.Errorf("two control planes: %v", err)
	}
}

func TestPortNamesFitAndDiffer(t *testing.T) {
	if got := portName("k8s-ctr", "eth1"); got != "k8s-ctr.eth1" {
		t.Errorf("port of k8s-ctr eth1 is %s", got)
	}
	long, other := portName("a-host-with-a-long-name", "eth0"), portName("a-host-with-a-long-name", "eth1")
	if len(long) > maxInterfaceName || len(other) > maxInterfaceName || long == other {
		t.Errorf("ports are %s and %s", long, other)
	}
}

func TestSignalSparesARecycledPID(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	s, err := readStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := process{cmd.Process.Pid, s.start + 1}
	if other.alive() {
		t.Error("a process with another start time counts as the recorded one")
	}
	if err := other.signal(unix.SIGKILL); err != nil {
		t.Errorf("signal to a process that has ended: %v", err)
	}
	real := process{cmd.Process.Pid, s.start}
	if !real.alive() || real.condition() != "running" {
		t.Fatal("the signal went to the process that has the pid now")
	}
	if err := real.signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(within); real.condition() != "paused"; {
		if time.Now().After(deadline) {
			t.Fatalf("stopped process is %s", real.condition())
		}
	}
	if err := real.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := real.awaitEnd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := real.signal(unix.SIGKILL); err != nil {
		t.Errorf("signal to a process that has ended: %v", err)
	}
}

// endMainThread, in the environment of this test's binary, has its main thread end.
const endMainThread = "TESTLAB_END_MAIN_THREAD"

func init() { // runs on the main thread
	if os.Getenv(endMainThread) != "" {
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0) // those of the runtime stay
	}
}

// TestMainThreadEnded: a process is alive while one of its threads is. One that is
// killed keeps its locks until the last has ended, and its main thread may be first.
func TestMainThreadEnded(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), endMainThread+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(within); ; {
		s, err := readStat(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if s.state == 'Z' {
			if p := (process{cmd.Process.Pid, s.start}); !p.alive() {
				t.Errorf("with %d threads it is not alive", s.threads)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the main thread is in state %c", s.state)
		}
	}
	s, _ := readStat(cmd.Process.Pid)
	if err := (process{cmd.Process.Pid, s.start}).kill(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStopOrKill: what ends by SIGTERM is not killed, what does not is.
func TestStopOrKill(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ script, ends string }{
		"ends by itself": {"trap 'exit 3' TERM; echo; while :; do read _; done", "exit status 3"},
		"ignores it":     {"trap '' TERM; echo; exec sleep 60", "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("sh", "-c", tc.script)
			stdin, err := cmd.StdinPipe() // which stays open, for read to wait on
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil { // its trap is set
				t.Fatal(err)
			}
			s, err := readStat(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			p := process{cmd.Process.Pid, s.start}
			grace := within
			if tc.ends == "signal: killed" {
				grace = 100 * time.Millisecond
				if err := p.stop(t.Context(), grace); err == nil || !p.alive() {
					t.Errorf("stop: %v, want an error, and the process as it was", err)
				}
			}
			if err := p.stopOrKill(t.Context(), grace); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err == nil || err.Error() != tc.ends {
				t.Errorf("it ended by %v, want %s", err, tc.ends)
			}
		})
	}
}

func TestManifests(t *testing.T) {
	r := record{Topology: DefaultTopology(), Pods: map[string]wiredPod{
		"webpod-697b545f57-7kq4m": {Address: netip.MustParseAddr("172.20.0.9")},
		"webpod-697b545f57-d9xwz": {Address: netip.MustParseAddr("172.20.1.9"), NotReady: true},
		"webpod-697b545f57-tr2fh": {ContainerID: "without an address yet"},
	}}
	docs := func(manifests string) []map[string]any {
		var all []map[string]any
		for _, doc := range strings.Split(manifests, "---\n")[1:] {
			var m map[string]any
			if err := yaml.UnmarshalStrict([]byte(doc), &m); err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
			all = append(all, m)
		}
		return all
	}
	nodes := docs(nodeManifests(r.Topology))
	if len(nodes) != 3 {
		t.Fatalf("%d Nodes, want 3", len(nodes))
	}
	wantSpec := map[string]any{"podCIDR": "172.20.0.0/24", "podCIDRs": []any{"172.20.0.0/24"}}
	if !reflect.DeepEqual(nodes[0]["spec"], wantSpec) {
		t.Errorf("spec of the first Node is %v, want %v", nodes[0]["spec"], wantSpec)
	}
	addresses := nodes[0]["status"].(map[string]any)["addresses"].([]any)
	if !reflect.DeepEqual(addresses[0], map[string]any{"type": "InternalIP", "address": "192.168.10.100"}) {
		t.Errorf("first address of the first Node is %v", addresses[0])
	}

	slices := docs(sliceManifests(r))
	if len(slices) != 1 {
		t.Fatalf("%d EndpointSlices, want 1", len(slices))
	}
	meta := slices[0]["metadata"].(map[string]any)
	wantMeta := map[string]any{"name": "webpod-1", "namespace": "default", "labels": map[string]any{"kubernetes.io/service-name": "webpod"}}
	if !reflect.DeepEqual(meta, wantMeta) {
		t.Errorf("metadata is %v, want %v", meta, wantMeta)
	}
	endpoints := slices[0]["endpoints"].([]any)
	if len(endpoints) != 2 {
		t.Fatalf("endpoints are %v, want two: the third pod has no address", endpoints)
	}
	second := endpoints[1].(map[string]any)
	if second["nodeName"] != "k8s-w1" || !reflect.DeepEqual(second["addresses"], []any{"172.20.1.9"}) ||
		second["conditions"].(map[string]any)["ready"] != false {
		t.Errorf("second endpoint is %v", second)
	}
	empty := docs(sliceManifests(record{Topology: r.Topology}))
	if got := empty[0]["endpoints"]; !reflect.DeepEqual(got, []any{}) {
		t.Errorf("without pods, endpoints are %v, want none", got)
	}
}

func TestPodManifests(t *testing.T) {
	r := record{Topology: DefaultTopology(), Pods: map[string]wiredPod{
		"webpod-697b545f57-7kq4m": {Address: netip.MustParseAddr("172.20.0.9"), ContainerID: "a"},
		"webpod-697b545f57-d9xwz": {Address: netip.MustParseAddr("172.20.1.9"), NotReady: true},
	}}
	var pods []corev1.Pod
	for _, doc := range strings.Split(podManifests(r.Topology, r.Pods), "---\n")[1:] {
		var p corev1.Pod
		if err := yaml.UnmarshalStrict([]byte(doc), &p); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		pods = append(pods, p)
	}
	if len(pods) != 3 {
		t.Fatalf("%d Pods, want 3", len(pods))
	}
	for i, want := range []struct {
		node, host, ip string
		ready          corev1.ConditionStatus
	}{{"k8s-ctr", "192.168.10.100", "172.20.0.9", "True"}, {"k8s-w1", "192.168.10.101", "172.20.1.9", "False"}} {
		p := pods[i]
		ready := p.Status.Conditions[len(p.Status.Conditions)-1]
		if p.Namespace != "default" || p.Labels["app"] != "webpod" || p.Spec.NodeName != want.node ||
			p.Status.Phase != corev1.PodRunning || p.Status.HostIP != want.host || p.Status.PodIP != want.ip ||
			ready.Type != corev1.PodReady || ready.Status != want.ready ||
			p.Status.ContainerStatuses[0].Ready != (want.ready == corev1.ConditionTrue) {
			t.Errorf("Pod %d is %+v, want %+v", i, p, want)
		}
	}
	if !reflect.DeepEqual(pods[2].Status, corev1.PodStatus{}) {
		t.Errorf("a pod without an address has status %+v", pods[2].Status)
	}
	two := r.Topology
	two.Pods = append(two.Pods, PodSpec{Name: "x", Node: "k8s-w0", Service: "shop/front"})
	if got := namespaceManifests(two); strings.Count(got, "kind: Namespace") != 2 || !strings.Contains(got, "name: shop\n") {
		t.Errorf("namespaces are\n%s", got)
	}
}

// TestPrograms: what runs where, and with which store its daemon is started.
func TestPrograms(t *testing.T) {
	topology := DefaultTopology()
	for _, tc := range []struct {
		controlPlane    string
		noDaemons       bool
		onNode, onPlane int
	}{
		{etcdControlPlane, false, 1, 1},
		{etcdControlPlane, true, 0, 0},
		{kubeControlPlane, false, 1, 4},
		{kubeControlPlane, true, 0, 4},
	} {
		r := record{Topology: topology, ControlPlane: tc.controlPlane, NoDaemons: tc.noDaemons}
		for host, want := range map[string]int{"router": 0, "k8s-w1": tc.onNode, "api": tc.onPlane} {
			h, _ := topology.host(host)
			if got := r.programs(h); len(got) != want {
				t.Errorf("%s, no daemons %v: on %s %v, want %d", tc.controlPlane, tc.noDaemons, host, got, want)
			}
		}
		if _, ok := r.controlPlane(); ok != (tc.onPlane > 0) {
			t.Errorf("%s, no daemons %v: there is a control plane: %v", tc.controlPlane, tc.noDaemons, ok)
		}
	}
	l := &Lab{Name: "x", dir: "/run/testlab/x"}
	node, _ := topology.host("k8s-w1")
	for controlPlane, want := range map[string]string{
		etcdControlPlane: "--store etcd --etcd-endpoints http://10.0.2.10:2379 --last",
		kubeControlPlane: "--store kube --kubeconfig /run/testlab/x/k8s-w1/kubeconfig --last",
	} {
		argv := l.daemonArgs(record{Topology: topology, ControlPlane: controlPlane, DaemonArgs: []string{"--last"}}, node)
		if got := strings.Join(argv, " "); !strings.HasSuffix(got, want) {
			t.Errorf("%s: the daemon is started by %s, want %s at the end", controlPlane, got, want)
		}
	}
}

// TestDaemonsHaveNoAdministratorsRights: commands that people run have.
func TestDaemonsHaveNoAdministratorsRights(t *testing.T) {
	t.Setenv("KUBECONFIG", "/of/someone/else")
	l := &Lab{Name: "x", dir: "/run/testlab/x"}
	r := record{Topology: DefaultTopology(), ControlPlane: kubeControlPlane, BinDir: "/bin/of/lab"}
	admin := "KUBECONFIG=/run/testlab/x/api/state/kubeconfig"
	if env := l.env(r, "k8s-w1"); slices.Contains(env, admin) {
		t.Errorf("daemons have %s", admin)
	}
	env := l.env(r, "k8s-w1", l.kubeEnv(r)...)
	if !slices.Contains(env, admin) || slices.Contains(env, "KUBECONFIG=/of/someone/else") {
		t.Errorf("commands have %v, want %s", env, admin)
	}
	if path := env[slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })]; !strings.HasPrefix(path, "PATH=/bin/of/lab:/run/testlab/x/api/state/bin:") {
		t.Errorf("programs are looked for in %s", path)
	}
}

func TestConditionOfSeveralPrograms(t *testing.T) {
	self, err := readStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	running := process{os.Getpid(), self.start}
	r := record{Topology: DefaultTopology(), ControlPlane: kubeControlPlane, Processes: map[string]process{}}
	api, _ := r.Topology.host("api")
	if got := r.condition(api); got != "stopped" {
		t.Errorf("nothing runs: %q", got)
	}
	r.Processes["api/etcd"] = running
	want := "etcd running, kube-apiserver stopped, kube-controller-manager stopped, kube-scheduler stopped"
	if got := r.condition(api); got != want {
		t.Errorf("one runs: %q, want %q", got, want)
	}
	for _, program := range kubePrograms {
		r.Processes["api/"+program] = running
	}
	if got := r.condition(api); got != "running" {
		t.Errorf("all run: %q", got)
	}
}

func TestRecordIsReplacedInOneStep(t *testing.T) {
	l := &Lab{Name: "x", dir: t.TempDir()}
	if _, err := l.read(); err == nil || !strings.Contains(err.Error(), "lab x is not up") {
		t.Errorf("read without a record: %v", err)
	}
	if err := l.write(record{Processes: map[string]process{}}); err != nil {
		t.Fatal(err)
	}
	const writers = 20
	done := make(chan error, writers)
	for i := range writers {
		go func() {
			done <- l.update(func(r *record) { r.Processes[string(rune('a'+i))] = process{PID: i} })
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	r, err := l.read()
	if err != nil || len(r.Processes) != writers {
		t.Errorf("%d of %d updates are in the record, %v", len(r.Processes), writers, err)
	}
	entries, _ := os.ReadDir(l.dir)
	if len(entries) != 1 || entries[0].Name() != recordFile {
		t.Errorf("files left: %v", entries)
	}
}

func TestMissingProgramsSayMakeBuild(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "testlab"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := (Config{BinDir: dir, NoDaemons: true}).binDir(); err != nil || got != dir {
		t.Errorf("without daemons: %q, %v", got, err)
	}
	if _, err := (Config{BinDir: dir}).binDir(); err == nil || !strings.Contains(err.Error(), "find seamarkd in "+dir) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("with daemons: %v", err)
	}
}
