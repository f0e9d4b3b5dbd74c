package testlab

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

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
	startTime, _, err := procStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := process{cmd.Process.Pid, startTime + 1}
	if other.alive() {
		t.Error("a process with another start time counts as the recorded one")
	}
	if err := other.signal(unix.SIGKILL); err != nil {
		t.Errorf("signal to a process that has ended: %v", err)
	}
	real := process{cmd.Process.Pid, startTime}
	if !real.alive() || real.condition() != "running" {
		t.Fatal("the signal went to the process that has the pid now")
	}
	if err := real.signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); real.condition() != "paused"; {
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
