package announce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

func TestLocal(t *testing.T) {
	devices := []state.Device{{Name: "eth1", Index: 2, Up: true}, {Name: "eth2", Index: 3}, {Name: "eth3", Index: 4, Up: true}}
	web := state.ObjectName{Namespace: "default", Name: "web"}
	assigned := []state.Assignment{
		{Addr: addr(212), Service: web, Node: "a", Interfaces: []string{"eth1", "eth3"}, Generation: 4},
		{Addr: addr(211), Service: web, Node: "a", Interfaces: []string{"eth1"}, Generation: 1},
		{Addr: addr(213), Service: web, Node: "b", Interfaces: []string{"eth1"}, Generation: 1},
		{Addr: addr(214), Service: web, Node: "a", Interfaces: []string{"eth2", "eth9"}, Generation: 1}, // down, absent
		{Addr: addr(215), Service: web, Reason: state.ReasonNoCandidate},
	}
	devices[0].MAC, devices[2].MAC = "02:00:00:00:00:01", "02:00:00:00:00:03"
	var got []string
	for _, row := range Local(assigned, devices, "a") {
		got = append(got, fmt.Sprintf("%s#%d %s %d %s", row.RowKey(), row.Generation, row.Service, row.Index, row.MAC))
	}
	want := "192.168.10.211@eth1#1 default/web 2 02:00:00:00:00:01, 192.168.10.212@eth1#4 default/web 2 02:00:00:00:00:01, " +
		"192.168.10.212@eth3#4 default/web 4 02:00:00:00:00:03"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("local rows %s\nwant %s", s, want)
	}
}

func TestReport(t *testing.T) {
	prefix := netip.MustParsePrefix
	devices := []state.Device{
		{Name: "lo", MAC: "00:00:00:00:00:00", Up: true},
		{Name: "tun0", Up: true},
		{Name: "eth1", MAC: "02:00:00:00:00:01", Up: true, Prefixes: []netip.Prefix{
			prefix("192.168.10.100/24"), prefix("fe80::1/64"), prefix("192.168.10.211/32")}, Gateways: []netip.Addr{addr(200)}},
		{Name: "eth0", MAC: "02:00:00:00:00:02"},
		{Name: "bond0", MAC: "02:00:00:00:00:03", Up: true},
		{Name: "lxc1", MAC: "02:00:00:00:00:04", Up: true},
	}
	policies := []state.L2Policy{
		{Name: "mine", Interfaces: []string{"^bond", "lo"}, NodeSelector: matchLabels("name", "a")},
		{Name: "theirs", Interfaces: []string{"lxc1"}, NodeSelector: matchLabels("name", "b")},
		{Name: "any"},
	}
	outside := func(d state.Device) bool { return strings.HasPrefix(d.Name, "eth") }
	got := fmt.Sprint(Report(devices, policies, state.Node{Name: "a", Labels: map[string]string{"name": "a"}}, outside))
	want := "[{bond0 02:00:00:00:00:03 true [] [] [] [] } {eth0 02:00:00:00:00:02 false [] [] [] [] } {eth1 02:00:00:00:00:01 true [192.168.10.0/24] [192.168.10.200] [] [] }]"
	if got != want {
		t.Errorf("report %s\nwant %s", got, want)
	}
}

func TestClusterMACs(t *testing.T) {
	leases := []state.NodeLease{lease("a", 1), lease("b", 3), lease("c", 2), lease("d", 3)}
	leases[2].Interfaces = append(leases[2].Interfaces, state.LeaseInterface{Name: "x", MAC: "nonsense"})
	if got := fmt.Sprint(ClusterMACs(leases, "a")); got != "[02:00:00:00:00:02 02:00:00:00:00:03]" {
		t.Errorf("cluster MACs %s", got)
	}
}
