package datapath

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

func backend(addr, node, condition string) state.Backend {
	b := state.Backend{Addr: netip.MustParseAddr(addr), Node: node}
	switch condition {
	case "ready":
		b.Ready, b.Serving = true, true
	case "draining":
		b.Serving, b.Terminating = true, true
	case "gone":
		b.Terminating = true
	case "failing": // alive, and not ready
	default:
		panic(condition)
	}
	return b
}

func TestFrontendsBackends(t *testing.T) {
	all := []state.Backend{
		backend("172.20.2.1", "w2", "ready"), backend("172.20.1.1", "w1", "ready"), backend("172.20.1.2", "w1", "draining"),
		backend("172.20.0.1", "w0", "gone"), backend("172.20.0.2", "w0", "failing"), backend("fd00::1", "w0", "ready"),
	}
	for _, c := range []struct {
		name      string
		endpoints []state.Backend
		local     bool
		want      string
	}{
		{"the ready ones, sorted", all, false, "172.20.1.1:8080 172.20.2.1:8080"},
		{"local: those of this node", all, true, "172.20.1.1:8080"},
		{"none ready: those that drain", all[2:5], false, "172.20.1.2:8080"},
		{"local, none ready here: those that drain here", append([]state.Backend{all[0]}, all[2:]...), true, "172.20.1.2:8080"},
		{"none at all", all[3:], false, ""},
		{"twice the same", append(slices.Clone(all), all...), false, "172.20.1.1:8080 172.20.2.1:8080"},
	} {
		svc := state.Service{Name: state.ObjectName{Namespace: "a", Name: "web"}, Type: "LoadBalancer",
			Ingress: []netip.Addr{netip.MustParseAddr("192.168.10.211")}, ExternalTrafficPolicyLocal: c.local,
			Ports: []state.ServicePort{{Name: "http", Protocol: state.TCP, Port: 80}}}
		endpoints := []state.EndpointSlice{
			{Service: svc.Name, Endpoints: c.endpoints, Ports: []state.EndpointPort{
				{Name: "http", Protocol: state.TCP, Port: 8080}, {Name: "http", Protocol: state.UDP, Port: 1}, {Name: "other", Protocol: state.TCP, Port: 2}}},
			{Service: state.ObjectName{Namespace: "a", Name: "stranger"}, Endpoints: all, Ports: []state.EndpointPort{{Name: "http", Protocol: state.TCP, Port: 3}}},
		}
		rows := Frontends([]state.Service{svc}, endpoints, "w1")
		if len(rows) != 1 {
			t.Fatalf("%s: %d rows", c.name, len(rows))
		}
		var got []string
		for _, b := range rows[0].Backends {
			got = append(got, netip.AddrPortFrom(b.Addr, b.Port).String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestFrontendsAddresses(t *testing.T) {
	addrs := func(list ...string) (all []netip.Addr) {
		for _, a := range list {
			all = append(all, netip.MustParseAddr(a))
		}
		return all
	}
	port := []state.ServicePort{{Protocol: state.TCP, Port: 80}}
	day := func(n int) time.Time { return time.Unix(int64(n)*86400, 0) }
	services := []state.Service{
		{Name: state.ObjectName{Namespace: "a", Name: "young"}, Created: day(2), Type: "LoadBalancer", Ingress: addrs("10.0.0.1"), Ports: port},
		{Name: state.ObjectName{Namespace: "z", Name: "old"}, Created: day(1), Type: "ClusterIP", ExternalIPs: addrs("10.0.0.1"), Ports: port},
		{Name: state.ObjectName{Namespace: "b", Name: "twin2"}, Created: day(3), Type: "NodePort", ExternalIPs: addrs("10.0.0.2"), Ports: port},
		{Name: state.ObjectName{Namespace: "b", Name: "twin1"}, Created: day(3), Type: "LoadBalancer", Ingress: addrs("10.0.0.2", "::ffff:10.0.0.9"), ExternalIPs: addrs("10.0.0.2"), Ports: port},
		{Name: state.ObjectName{Namespace: "c", Name: "name"}, Type: "ExternalName", ExternalIPs: addrs("10.0.0.3"), Ports: port},
		{Name: state.ObjectName{Namespace: "c", Name: "no-longer"}, Type: "ClusterIP", Ingress: addrs("10.0.0.4"), Ports: port},
		{Name: state.ObjectName{Namespace: "c", Name: "portless"}, Type: "LoadBalancer", Ingress: addrs("10.0.0.5", "10.0.0.1", "fd00::5")},
	}
	want := []string{
		"10.0.0.1:80/TCP z/old ExternalIP",
		"10.0.0.2:80/TCP b/twin1 LoadBalancer",
		"10.0.0.5:0/? c/portless LoadBalancer",
		"10.0.0.9:80/TCP b/twin1 LoadBalancer",
	}
	for range len(services) {
		services = append(services[1:], services[0])
		var got []string
		for _, row := range Frontends(services, nil, "w1") {
			got = append(got, fmt.Sprintf("%s %s %s", row.RowKey(), row.Service, row.Kind))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("rows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// What is not a Service's to claim is not served, and is once it may be.
func TestFrontendsOfRightfulAddresses(t *testing.T) {
	db, writer := state.New()
	addr := netip.MustParseAddr
	svc := state.Service{Name: state.ObjectName{Namespace: "a", Name: "web"}, Type: "LoadBalancer", ExternalIPs: []netip.Addr{addr("10.0.0.1"), addr("10.0.0.9")},
		Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}}
	for _, step := range []struct {
		name   string
		change func(*state.Tx)
		want   string // served
		refuse string // "" for nothing
	}{
		{"nobody's", func(tx *state.Tx) { db.Services.Put(tx, svc) }, "10.0.0.1:80/TCP 10.0.0.9:80/TCP", ""},
		{"a gateway's", func(tx *state.Tx) {
			db.Devices.Put(tx, state.Device{Name: "eth0", Gateways: []netip.Addr{addr("10.0.0.1")}})
		},
			"10.0.0.9:80/TCP", "10.0.0.1 is a gateway of this node, through eth0"},
		{"no longer a gateway's, but of a pool", func(tx *state.Tx) {
			db.Devices.Put(tx, state.Device{Name: "eth0"})
			db.Pools.Put(tx, state.Pool{Name: "p", Ranges: []state.Range{{From: addr("10.0.0.1"), To: addr("10.0.0.4")}}})
		}, "10.0.0.9:80/TCP", "10.0.0.1 is in pool p"},
		{"given to it", func(tx *state.Tx) { svc.Ingress = []netip.Addr{addr("10.0.0.1")}; db.Services.Put(tx, svc) },
			"10.0.0.1:80/TCP 10.0.0.9:80/TCP", ""},
		{"no longer a load balancer's", func(tx *state.Tx) { svc.Type = "ClusterIP"; db.Services.Put(tx, svc) },
			"10.0.0.9:80/TCP", "10.0.0.1 is in pool p"},
		{"the pool is gone", func(tx *state.Tx) { db.Pools.Delete(tx, "p") }, "10.0.0.1:80/TCP 10.0.0.9:80/TCP", ""},
		{"the Service is gone", func(tx *state.Tx) { db.Services.Delete(tx, "a/web") }, "", ""},
	} {
		writer.Update(step.change)
		rows, problems := FrontendsOf(db, db.Snapshot(), "n")
		var served []string
		for _, row := range rows {
			served = append(served, row.RowKey())
		}
		if got := strings.Join(served, " "); got != step.want {
			t.Errorf("%s: served %s, want %s", step.name, got, step.want)
		}
		if step.refuse == "" && len(problems) > 0 || step.refuse != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].Message, step.refuse)) {
			t.Errorf("%s: problems %v, want %q", step.name, problems, step.refuse)
		}
	}
}

func TestFrontendProblems(t *testing.T) {
	addr := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	services := []state.Service{
		{Name: state.ObjectName{Namespace: "a", Name: "web"}, Type: "LoadBalancer", Ingress: addr[:1], Ports: []state.ServicePort{{Protocol: state.TCP, Port: 80}}},
		{Name: state.ObjectName{Namespace: "b", Name: "web"}, Type: "LoadBalancer", Ingress: addr, Ports: []state.ServicePort{
			{Protocol: state.SCTP, Port: 80}, {Protocol: state.TCP, Port: 80}, {Protocol: state.TCP, Port: 81}}},
		{Name: state.ObjectName{Namespace: "c", Name: "inside"}, Type: "ClusterIP", Ports: []state.ServicePort{{Protocol: state.SCTP, Port: 80}}},
	}
	var got []string
	for _, p := range FrontendProblems(services, Frontends(services, nil, "w1")) {
		got = append(got, p.String())
	}
	want := []string{
		"service/b/web: address fd00::1 is not served: only IPv4 is balanced yet; use an IPv4 address",
		"service/b/web: spec.ports[0].protocol: SCTP is not balanced yet; use TCP or UDP",
		"service/b/web: spec.ports[1].port: 10.0.0.1:80/TCP is served for the older service a/web; give one of the two another port or address",
	}
	if !slices.Equal(got, want) {
		t.Errorf("problems\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestHoldWhileAnnounced(t *testing.T) {
	db, writer := state.New()
	leaving := frontend("a/web", "192.168.10.211:80/TCP").WithStatus(state.Status{Phase: state.Deleting})
	wanted := frontend("a/web", "192.168.10.211:81/TCP")
	announcement := state.Announcement{Addr: leaving.Addr, Interface: "eth1", Status: state.Status{Phase: state.Deleting}}
	hold := HoldWhileAnnounced(db)
	check := func(what string, row state.Frontend, want state.Reason) {
		t.Helper()
		if got := hold(db.Snapshot(), row); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	writer.Update(func(tx *state.Tx) { db.Frontends.Put(tx, leaving) })
	check("not announced", leaving, "")
	writer.Update(func(tx *state.Tx) { db.Announcements.Put(tx, announcement) })
	check("announced, be it on its way out", leaving, state.ReasonStillAnnounced)
	check("wanted", wanted, "")
	writer.Update(func(tx *state.Tx) { db.Frontends.Put(tx, wanted) })
	check("the address keeps another port", leaving, "")
	writer.Update(func(tx *state.Tx) {
		db.Frontends.Delete(tx, wanted.RowKey())
		db.Announcements.Delete(tx, announcement.RowKey())
	})
	check("withdrawn", leaving, "")
}
