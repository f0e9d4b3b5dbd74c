package pod_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
)

const tryAgain = types.ErrTryAgainLater

func TestAddWiresThePod(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	run(t, "", "sysctl -qw net.ipv4.ip_forward=0")
	run(t, "", "sysctl -qw net.ipv4.conf.default.rp_filter=1")
	t.Cleanup(func() { run(t, "", "sysctl -qw net.ipv4.conf.default.rp_filter=0") })
	n.serve()
	a, b := newNetns(t), newNetns(t)
	if got := n.add("a", a) + " " + n.add("b", b); got != "172.20.1.1 172.20.1.2" {
		t.Fatalf("addresses %s", got)
	}

	row, _ := n.db.Endpoints.Get(n.db.Snapshot(), "a/eth0")
	if row.Status.Phase != state.Done || !n.datapath.has("a/eth0") {
		t.Errorf("ADD returned before the datapath had the pod: %+v", row)
	}
	if row.Pod.String() != "default/a" || row.Addr != addr("172.20.1.1") {
		t.Errorf("row %+v", row)
	}
	link := run(t, "", "ip -d link show "+row.HostDevice)
	for _, part := range []string{"mtu 1450", row.HostMAC, "alias seamark-cni seamark a/eth0", ",UP"} {
		if !strings.Contains(link, part) {
			t.Errorf("host end lacks %q: %s", part, link)
		}
	}
	if got := run(t, a, "ip -o link show eth0"); !strings.Contains(got, row.PodMAC) || !strings.Contains(got, "mtu 1450") {
		t.Errorf("pod end: %s", got)
	}
	if got := run(t, a, "ip route"); got != "default via 169.254.1.1 dev eth0 \n169.254.1.1 dev eth0 scope link \n" {
		t.Errorf("pod's routes: %q", got)
	}
	if got := run(t, a, "ip neigh show 169.254.1.1"); !strings.Contains(got, row.HostMAC+" PERMANENT") {
		t.Errorf("pod's neighbours: %s", got)
	}
	for sysctl, want := range map[string]string{"ip_forward": "1", "conf/" + row.HostDevice + "/rp_filter": "0", "conf/" + row.HostDevice + "/proxy_arp": "0"} {
		if got := run(t, "", "cat /proc/sys/net/ipv4/"+sysctl); strings.TrimSpace(got) != want {
			t.Errorf("%s = %s, want %s", sysctl, got, want)
		}
	}

	run(t, n.outside, "ip route add 172.20.1.0/24 via 192.168.10.101")
	run(t, "", "ping -c1 -W2 172.20.1.1")        // node to pod
	run(t, a, "ping -c1 -W2 192.168.10.101")     // pod to node
	run(t, a, "ping -c1 -W2 172.20.1.2")         // pod to pod
	run(t, a, "ping -c1 -W2 192.168.10.200")     // pod to outside
	run(t, n.outside, "ping -c1 -W2 172.20.1.2") // outside to pod
	n.must("check", "a", a)
	n.must("status", "", "")

	if info, err := os.Stat(n.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

// A pod has one interface from Seamark; another is refused and leaves nothing behind.
func TestSecondInterfaceIsRefused(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	a := newNetns(t)
	n.add("a", a)
	before := run(t, a, "ip -o addr")
	_, err := n.cniOf("net1", "add", "a", a, strings.Replace(conf, `"seamark"`, `"second"`, 1))
	refused(t, err, types.ErrInvalidNetworkConfig, "net1 of network second", "eth0 of network seamark", "another CNI plugin")
	if after := run(t, a, "ip -o addr"); after != before {
		t.Errorf("the pod has changed from\n%sto\n%s", before, after)
	}
	if _, err := n.cniOf("net1", "del", "a", a, conf); err != nil {
		t.Errorf("DEL of what was refused: %v", err)
	}
	n.must("check", "a", a)
	n.must("del", "a", a)
	if _, err := n.cniOf("net1", "add", "a", a, conf); err != nil {
		t.Errorf("ADD of its only interface: %v", err)
	}
}

func TestAddIsIdempotent(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	netns := newNetns(t)
	first := n.must("add", "a", netns)
	before := run(t, "", "ip -o link")
	second := n.must("add", "a", netns)
	if !reflect.DeepEqual(first, second) {
		t.Errorf("first %v, second %v", first, second)
	}
	if after := run(t, "", "ip -o link"); after != before {
		t.Errorf("links before:\n%s\nafter:\n%s", before, after)
	}
	n.rows(1)

	// The pod's side was lost: ADD makes it anew, with the same address.
	run(t, netns, "ip addr flush dev eth0")
	if _, err := n.cni("check", "a", netns, conf); err == nil {
		t.Error("CHECK passes a pod without an address")
	}
	if third := n.add("a", netns); third != "172.20.1.1" {
		t.Errorf("address %s after ADD anew", third)
	}
	n.must("check", "a", netns)
	run(t, "", "ping -c1 -W2 172.20.1.1")
}

func TestDel(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	netns := newNetns(t)
	n.add("a", netns)
	for range 2 {
		n.must("del", "a", netns)
		n.rows(0)
		if left := append(n.podDevices(), n.recordFiles()...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if got := run(t, "", "ip route show 172.20.1.1"); got != "" {
			t.Errorf("route left: %s", got)
		}
	}
	if n.datapath.has("a/eth0") {
		t.Error("the datapath still has the pod")
	}
	n.must("del", "never-added", "")

	// The sandbox goes before DEL comes, as when a node was rebooted.
	n.add("b", netns)
	removeNetns(t, netns)
	n.must("del", "b", netns)
	n.rows(0)
	n.must("del", "b", "")
}

func TestAddressesAreReusedLast(t *testing.T) {
	n := newNode(t, "172.20.1.0/29") // .1 to .6
	n.serve()
	netns := newNetns(t)
	var got []string
	for i := range 8 {
		id := fmt.Sprintf("c%d", i)
		got = append(got, strings.TrimPrefix(n.add(id, netns), "172.20.1."))
		n.must("del", id, netns)
		n.rows(0)
	}
	if s := strings.Join(got, " "); s != "1 2 3 4 5 6 1 2" {
		t.Errorf("addresses %s", s)
	}
}

// While the datapath still has a pod that is gone, nobody gets its address.
func TestAddressIsHeldWhileTheDatapathHasIt(t *testing.T) {
	n := newNode(t, "172.20.1.0/30") // .1 and .2
	n.serve()
	a, b, c := newNetns(t), newNetns(t), newNetns(t)
	n.add("a", a)
	n.add("b", b)
	n.datapath.keep(errors.New("stuck"))
	n.must("del", "a", a)
	_, err := n.cni("add", "c", c, conf)
	refused(t, err, tryAgain, "no address is left in 172.20.1.0/30", "Node w1", "spec.podCIDR")
	if got := n.add("a", a); got != "172.20.1.1" { // but for itself
		t.Errorf("address %s", got)
	}
	n.must("del", "a", a)
	n.datapath.keep(nil)
	n.rows(1)
	if got := n.add("c", c); got != "172.20.1.1" {
		t.Errorf("address %s", got)
	}
}

func TestExhausted(t *testing.T) {
	n := newNode(t, "172.20.1.0/30")
	n.serve()
	a, b, c := newNetns(t), newNetns(t), newNetns(t)
	n.add("a", a)
	n.must("status", "", "")
	n.add("b", b)
	_, err := n.cni("add", "c", c, conf)
	refused(t, err, tryAgain, "no address is left in 172.20.1.0/30", "larger spec.podCIDR")
	_, err = n.cni("status", "", "", conf)
	refused(t, err, types.ErrPluginNotAvailable, "no pod can be added: no address is left")
	n.must("del", "a", a)
	n.rows(1)
	n.must("status", "", "")
	if got := n.add("c", c); got != "172.20.1.1" {
		t.Errorf("address %s", got)
	}
}

func TestNodeWithoutPodCIDR(t *testing.T) {
	n := newNode(t, "")
	n.serve()
	netns := newNetns(t)
	for _, tc := range []struct {
		name    string
		prepare func()
		want    string
	}{
		{"no CIDR", func() {}, "the Node w1 has no IPv4 pod CIDR; set its spec.podCIDR"},
		{"IPv6 alone", func() { n.setNode("fd00:20::/64") }, "the Node w1 has no IPv4 pod CIDR"},
		{"no Node", func() { n.writer.Update(func(tx *state.Tx) { n.db.Nodes.Delete(tx, "w1") }) }, "there is no Node w1; create it"},
	} {
		tc.prepare()
		_, err := n.cni("add", "a", netns, conf)
		refused(t, err, tryAgain, tc.want)
		_, err = n.cni("status", "", "", conf)
		refused(t, err, types.ErrPluginNotAvailable, "no pod can be added: "+tc.want)
	}
	n.setNode("172.20.1.0/24")
	n.must("status", "", "")
	n.add("a", netns)
}

func TestBadRequests(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	netns := newNetns(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tc := range []struct {
		command, container, netns, conf string
		code                            uint
		part                            string
	}{
		{"add", "a", missing, conf, types.ErrInvalidNetNS, "CNI_NETNS " + missing},
		{"add", "a", file, conf, types.ErrInvalidNetNS, "file of another kind"},
		{"add", "a", "/proc/self/ns/net", conf, types.ErrInvalidNetNS, "the node's own"},
		{"add", "", netns, conf, types.ErrUnknownContainer, "containerID"},
		{"add", "a", netns, `{`, types.ErrDecodingFailure, "network config"},
		{"add", "a", netns, `{"cniVersion":"1.1.0"}`, types.ErrInvalidNetworkConfig, "name"},
		{"check", "a", netns, conf, types.ErrUnknownContainer, "a/eth0 is not attached"},
		{"gc", "", "", conf, types.ErrInvalidNetworkConfig, "cni.dev/valid-attachments"},
	} {
		_, err := n.cni(tc.command, tc.container, tc.netns, tc.conf)
		refused(t, err, tc.code, tc.part)
	}
	if left := append(n.podDevices(), n.recordFiles()...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	n.rows(0)
}

// Whatever fails, the node is as before, and the next ADD goes through.
func TestRollback(t *testing.T) {
	for _, tc := range []struct {
		name       string
		spoil      func(n *node, netns string)
		repair     func(n *node, netns string)
		code       uint
		part, left string
	}{
		{"interface taken in the pod",
			func(n *node, netns string) { run(n.t, netns, "ip link add eth0 type veth peer name peer") },
			func(n *node, netns string) { run(n.t, netns, "ip link del eth0") },
			types.ErrInternal, "create veth", ""},
		{"default route taken in the pod", // the last step on the pod's side
			func(n *node, netns string) {
				run(n.t, netns, "ip link set lo up")
				run(n.t, netns, "ip route add default dev lo")
			},
			func(n *node, netns string) { run(n.t, netns, "ip route del default") },
			types.ErrInternal, "add route 0.0.0.0/0 in the pod: file exists", ""},
		{"route taken on the host", // the last step on the host's side
			func(n *node, netns string) { run(n.t, "", "ip route add 172.20.1.1/32 dev eth1") },
			func(n *node, netns string) { run(n.t, "", "ip route del 172.20.1.1/32 dev eth1") },
			types.ErrInternal, "a route to it by another device is there: remove it with 'ip route del 172.20.1.1/32'", ""},
		{"record cannot be written",
			func(n *node, netns string) {
				if err := os.WriteFile(filepath.Join(n.stateDir, "endpoints"), nil, 0o600); err != nil {
					n.t.Fatal(err)
				}
			},
			func(n *node, netns string) {
				if err := os.Remove(filepath.Join(n.stateDir, "endpoints")); err != nil {
					n.t.Fatal(err)
				}
			},
			types.ErrInternal, "write record of sm", ""},
		{"datapath refuses",
			func(n *node, netns string) { n.datapath.fail(errors.New("map endpoints is full")) },
			func(n *node, netns string) { n.datapath.fail(nil) },
			tryAgain, "add pod: program datapath: map endpoints is full", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, "172.20.1.0/24")
			n.timeout = 2 * time.Second
			n.serve()
			netns := newNetns(t)
			tc.spoil(n, netns)
			before := run(t, "", "ip route") + run(t, netns, "ip -o link") + run(t, netns, "ip route")
			_, err := n.cni("add", "a", netns, conf)
			refused(t, err, tc.code, tc.part)
			n.rows(0)
			if devices := n.podDevices(); len(devices) > 0 {
				t.Errorf("devices left: %v", devices)
			}
			if after := run(t, "", "ip route") + run(t, netns, "ip -o link") + run(t, netns, "ip route"); withoutLo(after) != withoutLo(before) {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			tc.repair(n, netns)
			n.add("b", netns)
			n.must("check", "b", netns)
			if files := n.recordFiles(); len(files) != 1 {
				t.Errorf("records %v", files)
			}
		})
	}
}

// withoutLo drops the lines about lo, which ADD sets up and leaves so.
func withoutLo(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if !strings.Contains(line, " lo:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// A datapath that fails at first is waited for.
func TestAddWaitsForTheDatapath(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	netns := newNetns(t)
	n.datapath.fail(errors.New("not loaded yet"))
	added := make(chan error, 1)
	go func() {
		_, err := n.cni("add", "a", netns, conf)
		added <- err
	}()
	eventually(t, "the datapath has failed twice", func() bool {
		row, ok := n.db.Endpoints.Get(n.db.Snapshot(), "a/eth0")
		return ok && row.Status.Tries >= 2
	})
	select {
	case err := <-added:
		t.Fatalf("ADD returned %v before the datapath had the pod", err)
	default:
	}
	n.datapath.fail(nil)
	if err := <-added; err != nil {
		t.Errorf("ADD: %v", err)
	}
}

func TestStopGivesUpAnAddThatWaits(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	stop := n.serve()
	netns := newNetns(t)
	n.datapath.fail(errors.New("not loaded yet"))
	added := make(chan error, 1)
	go func() {
		_, err := n.cni("add", "a", netns, conf)
		added <- err
	}()
	eventually(t, "the row is there", func() bool {
		_, ok := n.db.Endpoints.Get(n.db.Snapshot(), "a/eth0")
		return ok
	})
	stop()
	refused(t, <-added, tryAgain, "the daemon is stopping")
	if left := append(n.podDevices(), n.recordFiles()...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRestartRestores(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	stop := n.serve()
	a, b, c, d := newNetns(t), newNetns(t), newNetns(t), newNetns(t)
	n.add("a", a)
	n.add("b", b)
	n.add("c", c)
	stop()
	if _, err := os.Stat(n.socket); err == nil {
		t.Error("the socket is left")
	}
	before := n.db.Endpoints.Rows(n.db.Snapshot())

	// While the daemon is away: b's veth goes, the route of a goes, the record
	// of c is lost, and files that hold nothing appear.
	run(t, b, "ip link del eth0")
	run(t, "", "ip route del 172.20.1.1")
	var ofC string
	for _, file := range n.recordFiles() {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"containerID": "c"`) {
			ofC = string(text)
			os.Remove(file)
		}
	}
	for name, text := range map[string]string{
		"smffffffffffff.json": "{",
		".123":                ofC, // as a crash leaves it before the rename
		"sm000000000000.json": `{"containerID":"z","interface":"eth0","address":"172.20.1.50","hostDevice":"eth1"}`,
	} {
		if err := os.WriteFile(filepath.Join(n.stateDir, "endpoints", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	n2 := *n // the same node, and a daemon with empty tables
	n2.db, n2.writer = state.New()
	n2.datapath = &programmer{rows: map[string]state.Endpoint{}}
	n2.setNode("172.20.1.0/24")
	n2.background(&pod.Devices{DB: n2.db, Writer: n2.writer, Log: n2.log})
	n2.background(&state.Reconciler[state.Endpoint]{DB: n2.db, Writer: n2.writer, Table: n2.db.Endpoints, Target: n2.datapath, Log: n2.log,
		Gate: func(s state.Snapshot) bool { return n2.db.Endpoints.Synced(s) }})
	n2.serve()
	eventually(t, "a is programmed again", func() bool { return n2.datapath.has("a/eth0") })
	rows := n2.db.Endpoints.Rows(n2.db.Snapshot())
	if len(rows) != 1 || !rows[0].SameSpec(before[0]) {
		t.Errorf("restored %+v, want %+v", rows, before[0])
	}
	n2.must("check", "a", a)
	run(t, "", "ping -c1 -W2 172.20.1.1")
	run(t, "", "ping -c1 -W2 172.20.1.3") // c, of which there is no record, was not cut off
	if got := n2.add("d", d); got != "172.20.1.2" {
		t.Errorf("d has %s: it was b's that was free", got)
	}
	if got := n2.add("e", newNetns(t)); got != "172.20.1.4" {
		t.Errorf("e has %s: 172.20.1.3 is held by a veth without a record", got)
	}
	n2.must("del", "c", c)
	if devices := n2.podDevices(); len(devices) != 3 {
		t.Errorf("devices %v", devices)
	}
}

func TestGC(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	stop := n.serve()
	names := []string{"stay", "go", "stray"}
	for _, name := range names {
		n.add(name, newNetns(t))
	}
	foreign := newNetns(t)
	if _, err := n.cni("add", "other-network", foreign, strings.Replace(conf, "seamark", "blue", 1)); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, file := range n.recordFiles() {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), `"containerID": "stray"`) {
			os.Remove(file)
		}
	}
	n.writer.Update(func(tx *state.Tx) { n.db.Endpoints.Delete(tx, "stray/eth0") })
	n.serve()

	gc := func(valid string) error {
		_, err := n.cni("gc", "", "", strings.TrimSuffix(conf, "}")+`,"cni.dev/valid-attachments":`+valid+`}`)
		return err
	}
	for range 2 {
		if err := gc(`[{"containerID":"stay","ifname":"eth0"},{"containerID":"unknown","ifname":"eth0"}]`); err != nil {
			t.Fatal(err)
		}
		n.rows(2)
		if devices := n.podDevices(); len(devices) != 2 {
			t.Errorf("devices %v", devices)
		}
		if _, ok := n.db.Endpoints.Get(n.db.Snapshot(), "stay/eth0"); !ok {
			t.Error("a valid attachment was removed")
		}
	}
	refused(t, gc(`"all"`), types.ErrDecodingFailure, "cni.dev/valid-attachments")
	if err := gc(`null`); err != nil {
		t.Fatal(err)
	}
	n.rows(1)
	n.must("check", "other-network", foreign)
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	for i, tc := range []struct{ spoil, part string }{
		{"ip link set eth0 down", "eth0 in the pod is down"},
		{"ip route del default", "the pod has no route to 0.0.0.0/0 by eth0"},
		{"ip neigh replace 169.254.1.1 lladdr 02:00:00:00:00:01 dev eth0", "the pod has no permanent neighbour 169.254.1.1"},
		{"ip addr add 172.20.1.99/32 dev eth0", ""},
		{"ip link set eth0 address 02:00:00:00:00:01", "eth0 in the pod has MAC 02:00:00:00:00:01"},
		{"ip link del eth0", "find sm"},
	} {
		id := fmt.Sprint("c", i)
		netns := newNetns(t)
		n.add(id, netns)
		n.must("check", id, netns)
		run(t, netns, tc.spoil)
		_, err := n.cni("check", id, netns, conf)
		if tc.part == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.spoil, err)
			}
			continue
		}
		refused(t, err, 100, tc.part, "delete the pod")
	}
	netns := newNetns(t)
	ip := n.add("host", netns)
	withPrev := func(ip string) string {
		return strings.TrimSuffix(conf, "}") + `,"prevResult":{"cniVersion":"1.1.0","ips":[{"address":"` + ip + `/32"}]}}`
	}
	if _, err := n.cni("check", "host", netns, withPrev(ip)); err != nil {
		t.Error(err)
	}
	_, err := n.cni("check", "host", netns, withPrev("172.20.1.200"))
	refused(t, err, 100, "prevResult does not have its address "+ip)
	run(t, "", "ip route del "+ip)
	_, err = n.cni("check", "host", netns, conf)
	refused(t, err, 100, "the host has no route to "+ip)
}

// Many runtimes' threads at once: every pod its own address.
func TestAddsAtOnce(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	const pods = 12
	got := make([]string, pods)
	netns := make([]string, pods)
	for i := range pods {
		netns[i] = newNetns(t)
	}
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() {
			result, err := n.cni("add", fmt.Sprint("c", i), netns[i], conf)
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = result.IPs[0].Address.IP.String()
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for i, ip := range got {
		if seen[ip] {
			t.Errorf("%s twice", ip)
		}
		seen[ip] = true
		run(t, "", "ping -c1 -W2 "+ip)
		n.must("check", fmt.Sprint("c", i), netns[i])
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	err := n.server().Run(context.Background())
	if err == nil || !strings.Contains(err.Error(), "another seamarkd answers there; stop it first") {
		t.Errorf("second daemon: %v", err)
	}
	n.must("status", "", "") // the first still serves
}

func TestStaleSocketIsReplaced(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	if err := os.WriteFile(n.socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.server().Run(context.Background()); err == nil || !strings.Contains(err.Error(), "a file that is not a socket") {
		t.Errorf("file in the socket's place: %v", err)
	}
	if text, err := os.ReadFile(n.socket); err != nil || string(text) != "precious" {
		t.Errorf("the file was touched: %q, %v", text, err)
	}
	os.Remove(n.socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as a daemon that was killed leaves it
	l.Close()
	n.serve()
	n.must("status", "", "")
}

// A daemon that cannot read its records does not go on as if there were no
// pods: their rows would be pruned from the datapath.
func TestRecordsUnreadable(t *testing.T) {
	db, writer := state.New()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "endpoints"), nil, 0o644); err != nil { // no directory
		t.Fatal(err)
	}
	s := &pod.Server{DB: db, Writer: writer, Log: slog.New(slog.DiscardHandler), Node: "n", Socket: filepath.Join(dir, "cni.sock"), StateDir: dir}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "restore attachments: list records: ") || !strings.Contains(err.Error(), dir) {
		t.Errorf("run: %v", err)
	}
	if db.Endpoints.Synced(db.Snapshot()) {
		t.Error("the datapath may prune all pods")
	}
}
