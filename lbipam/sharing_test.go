package lbipam

import (
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// sharing gives a Service the key and ports, each as "80" or "53/UDP".
func sharing(key, ports string) func(*state.Service) {
	return func(s *state.Service) {
		s.Sharing = key
		for p := range strings.FieldsSeq(ports) {
			number, protocol, _ := strings.Cut(p, "/")
			port := state.ServicePort{Protocol: state.TCP}
			if protocol == "UDP" {
				port.Protocol = state.UDP
			}
			for _, digit := range number {
				port.Port = 10*port.Port + uint16(digit-'0')
			}
			s.Ports = append(s.Ports, port)
		}
	}
}

func with(namespaces ...string) func(*state.Service) {
	return func(s *state.Service) { s.SharingWith = namespaces }
}

func local(app string) func(*state.Service) {
	return func(s *state.Service) {
		s.ExternalTrafficPolicyLocal = true
		pods(app)(s)
	}
}

func pods(app string) func(*state.Service) {
	return func(s *state.Service) {
		if app != "" {
			s.Selector = map[string]string{"app": app}
		}
	}
}

func TestSharing(t *testing.T) {
	type services = []state.Service
	p := []state.Pool{pl("p", 0, few)}
	for _, c := range []struct {
		name     string
		services services
		pools    []state.Pool
		want     string
	}{
		{"ports differ",
			services{svc("a", 1, sharing("k", "80")), svc("b", 2, sharing("k", "443 53/UDP")), svc("c", 3, sharing("k", "80/UDP 53"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.1@p\nc 10.0.0.1@p\n"},
		{"a port collides: its own, and then the lowest that has room",
			services{svc("a", 1, sharing("k", "80")), svc("b", 2, sharing("k", "80 443")), svc("c", 3, sharing("k", "443")), svc("d", 4, sharing("k", "8080"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service default/a, which has port 80/TCP, too\n" +
				"c 10.0.0.1@p\nd 10.0.0.1@p\n"},
		{"keys differ, or there is none",
			services{svc("a", 1, sharing("k", "80")), svc("b", 2, sharing("m", "81")), svc("c", 3, sharing("", "82"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.2@p\nc 10.0.0.3@p\n"},
		{"no port at all collides with none",
			services{svc("a", 1, sharing("k", "")), svc("b", 2, sharing("k", ""))}, p,
			"a 10.0.0.1@p\nb 10.0.0.1@p\n"},

		{"of two namespaces: both consent",
			services{svc("x/a", 1, sharing("k", "80"), with("y")), svc("y/b", 2, sharing("k", "81"), with("z", "x"))}, p,
			"x/a 10.0.0.1@p\ny/b 10.0.0.1@p\n"},
		{"of two namespaces: one with all, the other by name",
			services{svc("x/a", 1, sharing("k", "80"), with("*")), svc("y/b", 2, sharing("k", "81"), with("x"))}, p,
			"x/a 10.0.0.1@p\ny/b 10.0.0.1@p\n"},
		{"of two namespaces: one does not consent",
			services{svc("x/a", 1, sharing("k", "80")), svc("y/b", 2, sharing("k", "81"), with("x"))}, p,
			"x/a 10.0.0.1@p\ny/b 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service x/a, of another namespace: both must name the other's in annotation seamark.dev/sharing-cross-namespace\n"},
		{"with every tenant, not just the first",
			services{svc("x/a", 1, sharing("k", "80"), with("y", "z")), svc("y/b", 2, sharing("k", "81"), with("x")), svc("z/c", 3, sharing("k", "82"), with("x", "y"))}, p,
			"x/a 10.0.0.1@p\ny/b 10.0.0.1@p\nz/c 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service y/b, of another namespace: both must name the other's in annotation seamark.dev/sharing-cross-namespace\n"},

		{"externalTrafficPolicy Local: the same pods",
			services{svc("a", 1, sharing("k", "80"), local("x")), svc("b", 2, sharing("k", "81"), local("x")), svc("c", 3, sharing("k", "82"), pods("x"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.1@p\nc 10.0.0.1@p\n"},
		{"externalTrafficPolicy Local: other pods",
			services{svc("a", 1, sharing("k", "80"), pods("y")), svc("b", 2, sharing("k", "81"), local("x"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service default/a, which does not select the same pods, as it must with externalTrafficPolicy Local\n"},
		{"externalTrafficPolicy Local: other pods of the second tenant",
			services{svc("a", 1, sharing("k", "80"), pods("x")), svc("b", 2, sharing("k", "81"), pods("y")), svc("c", 3, sharing("k", "82"), local("x"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.1@p\nc 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service default/b, which does not select the same pods, as it must with externalTrafficPolicy Local\n"},
		{"externalTrafficPolicy Local of a tenant binds who comes",
			services{svc("a", 1, sharing("k", "80"), local("x")), svc("b", 2, sharing("k", "81"), pods("y"))}, p,
			"a 10.0.0.1@p\nb 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service default/a, which does not select the same pods, as it must with externalTrafficPolicy Local\n"},
		{"externalTrafficPolicy Local without a selector: whose pods is not known",
			services{svc("a", 1, sharing("k", "80"), local("")), svc("b", 2, sharing("k", "81"), local(""))}, p,
			"a 10.0.0.1@p\nb 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service default/a, which does not select the same pods, as it must with externalTrafficPolicy Local\n"},
		{"externalTrafficPolicy Local in another namespace: other pods",
			services{svc("x/a", 1, sharing("k", "80"), local("x"), with("*")), svc("y/b", 2, sharing("k", "81"), local("x"), with("*"))}, p,
			"x/a 10.0.0.1@p\ny/b 10.0.0.2@p Satisfied: 10.0.0.1 of its sharing key is not shared with Service x/a, which does not select the same pods, as it must with externalTrafficPolicy Local\n"},

		{"both carry it: both keep it",
			services{svc("a", 1, sharing("k", "80"), carries("10.0.0.2")), svc("b", 2, sharing("k", "81"), carries("10.0.0.2")), svc("c", 3, sharing("k", "82"))}, p,
			"a 10.0.0.2@p\nb 10.0.0.2@p\nc 10.0.0.2@p\n"},
		{"the lowest of the group, before a lower free one",
			services{svc("a", 1, sharing("k", "80"), carries("10.0.0.3")), svc("b", 2, sharing("k", "80"), carries("10.0.0.2")), svc("c", 3, sharing("k", "81"))}, p,
			"a 10.0.0.3@p\nb 10.0.0.2@p\nc 10.0.0.2@p\n"},
		{"both carry it, and ports collide now: the older keeps it",
			services{svc("a", 1, sharing("k", "80"), carries("10.0.0.2")), svc("b", 2, sharing("k", "80"), carries("10.0.0.2"))}, p,
			"a 10.0.0.2@p\nb 10.0.0.1@p\n"},
		{"both carry it, and one no longer has a key: the older keeps it",
			services{svc("a", 1, carries("10.0.0.2")), svc("b", 2, sharing("k", "80"), carries("10.0.0.2"))}, p,
			"a 10.0.0.2@p\nb 10.0.0.1@p\n"},

		{"asked for by both",
			services{svc("a", 1, sharing("k", "80"), asks("10.0.0.3")), svc("b", 2, sharing("k", "81"), asks("10.0.0.3"))}, p,
			"a 10.0.0.3@p\nb 10.0.0.3@p\n"},
		{"asked for, and shared with who asks for nothing",
			services{svc("a", 1, sharing("k", "80")), svc("b", 2, sharing("k", "81"), asks("10.0.0.3"))}, p,
			"a 10.0.0.3@p\nb 10.0.0.3@p\n"},
		{"asked for, and not to be shared",
			services{svc("a", 1, sharing("k", "80"), asks("10.0.0.3")), svc("b", 2, sharing("k", "80"), asks("10.0.0.3")), svc("c", 3, sharing("m", "81"), asks("10.0.0.3")),
				svc("d", 4, asks("10.0.0.3")), svc("e", 5, carries("10.0.0.1")), svc("f", 6, sharing("k", "82"), asks("10.0.0.1"))}, p,
			"a 10.0.0.3@p\n" +
				"b AlreadyAssigned: 10.0.0.3, asked for in spec.loadBalancerIP, belongs to Service default/a, which has port 80/TCP, too: ask for another address, or take it from that Service first\n" +
				"c AlreadyAssigned: 10.0.0.3, asked for in spec.loadBalancerIP, belongs to Service default/a, whose sharing key is another: ask for another address, or take it from that Service first\n" +
				"d AlreadyAssigned: 10.0.0.3, asked for in spec.loadBalancerIP, belongs to Service default/a: ask for another address, or take it from that Service first\n" +
				"e 10.0.0.1@p\n" +
				"f AlreadyAssigned: 10.0.0.1, asked for in spec.loadBalancerIP, belongs to Service default/e, which has no sharing key: ask for another address, or take it from that Service first\n"},

		{"not from a pool that does not give to it",
			services{svc("a", 1, sharing("k", "80"), fromPool("p")), svc("b", 2, sharing("k", "81"), fromPool("q"))},
			[]state.Pool{pl("p", 0, few, onDemand), pl("q", 1, "10.0.1.1")},
			"a 10.0.0.1@p\nb 10.0.1.1@q Satisfied: 10.0.0.1 of its sharing key is not shared: it is of pool p: annotation seamark.dev/pool names pool q\n"},
		{"not from a pool on demand, unless it is named, too",
			services{svc("a", 1, sharing("k", "80"), fromPool("p")), svc("b", 2, sharing("k", "81"), fromPool("p")), svc("c", 3, sharing("k", "82"))},
			[]state.Pool{pl("p", 0, few, onDemand), pl("q", 1, "10.0.1.1")},
			"a 10.0.0.1@p\nb 10.0.0.1@p\nc 10.0.1.1@q Satisfied: 10.0.0.1 of its sharing key is not shared: it is of pool p: autoAssign is false, so it must be named in annotation seamark.dev/pool\n"},
		{"nothing left, and what there is cannot be shared",
			services{svc("a", 1, sharing("k", "80")), svc("b", 2, sharing("k", "80"))},
			[]state.Pool{pl("p", 0, "10.0.0.1")},
			"a 10.0.0.1@p\nb PoolExhausted: no free IPv4 address in pool p (1 of 1 in use): add a block, or release an address; " +
				"10.0.0.1 of its sharing key is not shared with Service default/a, which has port 80/TCP, too\n"},
		{"of each family",
			services{svc("a", 1, sharing("k", "80"), families("IPv4", "IPv6")), svc("b", 2, sharing("k", "81"), families("IPv6")), svc("c", 3, sharing("k", "81"), families("IPv4"))},
			[]state.Pool{pl("p", 0, few+" fd00::1-fd00::9")},
			"a 10.0.0.1@p fd00::1@p\nb fd00::1@p\nc 10.0.0.1@p\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows, statuses := allocate(c.services, c.pools)
			if got := text(rows); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			// What is said stays so when it is in the Services' status.
			again, statusesAgain := Inputs{Services: c.services, Decided: rows, Pools: c.pools}.Allocate()
			if got := text(again); got != c.want {
				t.Errorf("again, got\n%swant\n%s", got, c.want)
			}
			if statuses[0].Used != statusesAgain[0].Used {
				t.Errorf("%s in use, and again %s: a shared address counts once", statuses[0].Used, statusesAgain[0].Used)
			}
		})
	}
}

// One key on many Services costs little, whether they share or collide.
func BenchmarkSharing(b *testing.B) {
	for name, port := range map[string]func(i int) uint16{
		"one port":       func(int) uint16 { return 80 },
		"a port each":    func(i int) uint16 { return uint16(i) },
		"a hundred each": func(i int) uint16 { return uint16(i % 100) },
	} {
		services, pools := large(2000)
		for i := range services {
			services[i].Name.Namespace = "default"
			services[i].Sharing, services[i].Ports = "k", []state.ServicePort{{Protocol: state.TCP, Port: port(i)}}
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				allocate(services, pools)
			}
		})
	}
}
