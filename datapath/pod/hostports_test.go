package pod_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/seamark-lb/seamark/state"
)

// mapped is the network config of a pod with these port mappings.
func mapped(mappings ...string) string {
	return `{"cniVersion":"1.1.0","name":"seamark","type":"seamark-cni","runtimeConfig":{"portMappings":[` + strings.Join(mappings, ",") + `]}}`
}

// A pod has its host ports for as long as it is there, over a restart as well.
func TestHostPorts(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	stop := n.serve()
	a, b := newNetns(t), newNetns(t)
	hostPorts := func(container string) string {
		row, _ := n.db.Endpoints.Get(n.db.Snapshot(), container+"/eth0")
		var all []string
		for _, p := range row.HostPorts {
			all = append(all, fmt.Sprintf("%s=%d", p, p.Target))
		}
		return strings.Join(all, " ")
	}
	web := mapped(`{"hostPort":8080,"containerPort":80,"protocol":"tcp"}`, `{"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"192.168.10.101"}`,
		`{"hostPort":0,"containerPort":9090}`, `{"hostPort":8443,"containerPort":443,"protocol":"TCP","hostIP":"0.0.0.0"}`)
	const want = "192.168.10.101:53/UDP=53 8080/TCP=80 8443/TCP=443"
	for range 2 { // idempotent
		if _, err := n.cni("add", "a", a, web); err != nil {
			t.Fatal(err)
		}
		if got := hostPorts("a"); got != want {
			t.Fatalf("host ports %s, want %s", got, want)
		}
	}

	stop()
	n.writer.Update(func(tx *state.Tx) { n.db.Endpoints.Delete(tx, "a/eth0") })
	n.serve()
	eventually(t, "the pod is restored", func() bool { return hostPorts("a") == want })

	taken := mapped(`{"hostPort":8080,"containerPort":81,"protocol":"tcp","hostIP":"192.168.10.101"}`)
	_, err := n.cni("add", "b", b, taken)
	refused(t, err, tryAgain, "host port 192.168.10.101:8080/TCP is pod default/a's", "another hostPort")
	if devices := n.podDevices(); len(devices) != 1 {
		t.Errorf("devices %v after a refusal", devices)
	}
	// Another protocol, or another address, is another port.
	if _, err := n.cni("add", "b", b, mapped(`{"hostPort":8080,"containerPort":81,"protocol":"udp"}`, `{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"10.0.2.15"}`)); err != nil {
		t.Error(err)
	}
	n.must("del", "b", b)
	n.must("del", "a", a)
	if _, err := n.cni("add", "b", b, taken); err != nil {
		t.Errorf("the port of a pod that is gone: %v", err)
	}
	if got := hostPorts("b"); got != "192.168.10.101:8080/TCP=81" {
		t.Errorf("host ports %s", got)
	}
}

func TestBadHostPorts(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	netns := newNetns(t)
	for mapping, want := range map[string]string{
		`{"hostPort":65536,"containerPort":80}`:                      "runtimeConfig.portMappings[0].hostPort: 65536 is no port",
		`{"hostPort":-1,"containerPort":80}`:                         "hostPort: -1 is no port",
		`{"hostPort":80,"containerPort":0}`:                          "containerPort: 0 is no port",
		`{"hostPort":80,"containerPort":80,"protocol":"icmp"}`:       `protocol: "icmp" is none that can be mapped`,
		`{"hostPort":80,"containerPort":80,"hostIP":"eth0"}`:         `hostIP: "eth0" is no IP address`,
		`{"hostPort":80,"containerPort":80,"hostIP":"fe80::1%eth1"}`: `hostIP: "fe80::1%eth1" is no IP address`,
	} {
		_, err := n.cni("add", "a", netns, mapped(mapping))
		refused(t, err, types.ErrInvalidNetworkConfig, want)
	}
	wrong := mapped(`{"hostPort":"80","containerPort":80}`)
	_, err := n.cni("add", "a", netns, wrong)
	refused(t, err, types.ErrDecodingFailure, "hostPort")
	if _, err := n.cni("del", "a", netns, wrong); err != nil { // what the runtime does then, and must go through
		t.Error(err)
	}
	n.rows(0)
}
