package source_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAnnouncedStatuses(t *testing.T) {
	db, w := state.New()
	name := func(n string) state.ObjectName { return state.ObjectName{Namespace: "default", Name: n} }
	many := state.Service{Name: name("many")}
	w.Update(func(tx *state.Tx) {
		for i := range 20 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			many.Ingress = append(many.Ingress, a)
			db.Assigned.Put(tx, state.Assignment{Addr: a, Node: "a", Interfaces: []string{"eth1"}})
		}
		db.Assigned.Put(tx, state.Assignment{Addr: addrs("192.168.10.211")[0], Service: name("web"), Node: "a", Interfaces: []string{"eth1", "eth2"}})
		db.Assigned.Put(tx, state.Assignment{Addr: addrs("192.168.10.212")[0], Service: name("half")})
		for _, svc := range []state.Service{
			many,
			{Name: name("web"), UID: "1", Ingress: addrs("192.168.10.211"), ExternalIPs: addrs("192.168.10.211")},
			{Name: name("web-udp"), Ingress: addrs("192.168.10.211")}, // shares the address
			{Name: name("half"), Ingress: addrs("192.168.10.211", "192.168.10.212")},
			{Name: name("elsewhere"), Ingress: addrs("192.168.10.213")}, // BGP's, or nobody's
			{Name: name("was"), Ingress: addrs("192.168.10.213"), Conditions: []metav1.Condition{{Type: v1alpha1.ConditionAnnounced, Status: "True"}}},
		} {
			db.Services.Put(tx, svc)
		}
	})
	got := map[string]string{}
	for _, row := range source.AnnouncedStatuses(db, db.Snapshot()) {
		got[row.Service.Name] = fmt.Sprintf("%s: %s", row.Reason, row.Message)
	}
	for service, want := range map[string]string{
		"web":     "Announced: 192.168.10.211 by node a on eth1, eth2",
		"web-udp": "Announced: 192.168.10.211 by node a on eth1, eth2",
		"half":    "NoCandidate: no node may announce 192.168.10.212: seamark explain announcement 192.168.10.212 says why",
		"was":     ": ",
	} {
		if got[service] != want {
			t.Errorf("%s: %q, want %q", service, got[service], want)
		}
	}
	if len(got) != 5 || !strings.HasSuffix(got["many"], "; 10.0.0.7 by node a on eth1; and 12 more") {
		t.Errorf("statuses %q", got)
	}
}
