package pod_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/state"
)

func TestDevicesFollowTheKernel(t *testing.T) {
	n := newNode(t, "172.20.1.0/24") // its Devices resync every 30 s: what is seen here was notified
	if !n.db.Devices.Synced(n.db.Snapshot()) {
		t.Error("not synced after the first list")
	}
	device := func(name string) (state.Device, bool) { return n.db.Devices.Get(n.db.Snapshot(), name) }
	if lo, _ := device("lo"); lo.Type != "loopback" || !lo.Up {
		t.Errorf("lo: %+v", lo)
	}
	eth1, _ := device("eth1")
	if eth1.Type != "veth" || !eth1.Up || eth1.Index == 0 || len(eth1.MAC) != 17 ||
		!slices.Contains(eth1.Prefixes, prefixes("192.168.10.101/24")[0]) {
		t.Errorf("eth1: %+v", eth1)
	}

	run(t, "", "ip link add d1 type veth peer name d2")
	t.Cleanup(func() { _, _ = tryRun("", "ip link del d1") })
	for _, step := range []struct {
		words string
		ok    func(state.Device) bool
	}{
		{"ip link set d1 up", func(d state.Device) bool { return !d.Up && d.Index > 0 }}, // no carrier
		{"ip link set d2 up", func(d state.Device) bool { return d.Up }},
		{"ip addr add 10.9.0.1/24 dev d1", func(d state.Device) bool { return slices.Contains(d.Prefixes, prefixes("10.9.0.1/24")[0]) }},
		{"ip addr add fd00:9::1/64 dev d1", func(d state.Device) bool { return slices.Contains(d.Prefixes, prefixes("fd00:9::1/64")[0]) }},
		{"ip route add default via 10.9.0.254 dev d1 metric 900", gateways("10.9.0.254")},
		{"ip route add default metric 901 nexthop via 10.9.0.254 dev d1 nexthop via 10.9.0.253 dev d1", gateways("10.9.0.253 10.9.0.254")},
		{"ip -6 route add default via fd00:9::fe dev d1 metric 900", gateways("10.9.0.253 10.9.0.254 fd00:9::fe")},
		{"ip route add default via inet6 fd00:9::fd dev d1 metric 902", gateways("10.9.0.253 10.9.0.254 fd00:9::fd fd00:9::fe")},
		{"ip route del default metric 901", gateways("10.9.0.254 fd00:9::fd fd00:9::fe")},
		{"ip route del default via inet6 fd00:9::fd dev d1 metric 902", gateways("10.9.0.254 fd00:9::fe")},
		{"ip addr del 10.9.0.1/24 dev d1", func(d state.Device) bool {
			return !slices.Contains(d.Prefixes, prefixes("10.9.0.1/24")[0]) && slices.Contains(d.Prefixes, prefixes("fd00:9::1/64")[0])
		}},
		{"ip link set d1 address 02:00:00:00:00:09", func(d state.Device) bool { return d.MAC == "02:00:00:00:00:09" }},
		{"ip link set d2 down", func(d state.Device) bool { return !d.Up }},
	} {
		run(t, "", step.words)
		eventually(t, step.words+" is seen", func() bool { d, ok := device("d1"); return ok && step.ok(d) })
	}
	run(t, "", "ip link set d1 down")
	run(t, "", "ip link set d1 name d3")
	eventually(t, "the new name is seen", func() bool { _, old := device("d1"); _, now := device("d3"); return !old && now })
	run(t, "", "ip link del d3")
	eventually(t, "the device is gone", func() bool { _, d3 := device("d3"); _, d2 := device("d2"); return !d3 && !d2 })
}

// gateways are all that a device has.
func gateways(want string) func(state.Device) bool {
	return func(d state.Device) bool { return strings.Trim(fmt.Sprint(d.Gateways), "[]") == want }
}

func TestDevicesResync(t *testing.T) {
	n := newNode(t, "172.20.1.0/24")
	n.background(&pod.Devices{DB: n.db, Writer: n.writer, Log: n.log, Resync: 5 * time.Millisecond})
	n.writer.Update(func(tx *state.Tx) {
		n.db.Devices.Delete(tx, "eth1")
		n.db.Devices.Put(tx, state.Device{Name: "ghost0"})
	})
	eventually(t, "the table is as the kernel has it", func() bool {
		snap := n.db.Snapshot()
		_, eth1 := n.db.Devices.Get(snap, "eth1")
		_, ghost := n.db.Devices.Get(snap, "ghost0")
		return eth1 && !ghost
	})
}
