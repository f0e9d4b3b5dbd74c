package kubescenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
)

// podOf is the pod of each node.
var podOf = map[string]string{ctr: podCtr, w1: podW1, w0: podW0}

// routerAddr is the router's on the VIP's segment.
const routerAddr = "192.168.10.200"

// service is a Service as the API server has it, as far as tests ask.
type service struct {
	Metadata struct{ DeletionTimestamp string }
	Spec     struct {
		Ports []struct{ NodePort int }
	}
	Status struct {
		LoadBalancer struct{ Ingress []struct{ IP, IPMode string } }
		Conditions   []struct{ Type, Status, Reason string }
	}
}

// address that the Service was given, "" for none.
func (s service) address() string {
	if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
		return in[0].IP
	}
	return ""
}

// reason of Seamark's condition, "" when it has none.
func (s service) reason() string {
	for _, c := range s.Status.Conditions {
		if c.Type == "seamark.dev/IPAMRequestSatisfied" {
			return c.Reason
		}
	}
	return ""
}

func (l lab) service(name string) (s service, err error) {
	out, err := l.tryKubectl("get", "service", name, "-o", "json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// given waits until the Service has the address, and a node announces it.
func (l lab) given(name, address string) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("Service %s has %s, and it is announced", name, address), func() error {
		s, err := l.service(name)
		if err != nil {
			return err
		}
		if s.address() != address || s.reason() != "Satisfied" {
			return fmt.Errorf("status %+v", s.Status)
		}
		var a announcement
		if err := l.tryJSON(&a, ctr, "get", "announcement", address); err != nil {
			return err
		}
		if a.Node == "" || a.Service != "default/"+name {
			return fmt.Errorf("announcement %+v", a)
		}
		return nil
	})
}

// bare waits until the Service carries nothing of Seamark's, and its address is
// not announced.
func (l lab) bare(name, address string) {
	l.t.Helper()
	l.eventually("Service "+name+" is Seamark's no longer", func() error {
		s, err := l.service(name)
		if err == nil && (s.address() != "" || s.reason() != "") {
			err = fmt.Errorf("status %+v", s.Status)
		}
		return err
	})
	l.withdrawn(address)
}

// nodePorts are the ports that Kubernetes gave to Services on every node.
func (l lab) nodePorts() []string {
	l.t.Helper()
	return strings.Fields(l.kubectl("get", "services", "--all-namespaces", "-o", "jsonpath={.items[*].spec.ports[*].nodePort}"))
}

// withdrawn waits until no node's kernel has anything to do with the address, but
// for these ports: node ports, where the address is a node's own.
func (l lab) withdrawn(address string, but ...string) {
	l.t.Helper()
	l.eventually("no node announces or serves "+address, func() error {
		for _, node := range nodes {
			dump, err := l.try(node, "seamark", "bpf", "lb", "list")
			if err != nil {
				return err
			}
			for line := range strings.Lines(dump) {
				rest, served := strings.CutPrefix(line, "frontend "+address+":")
				port, _, _ := strings.Cut(rest, "/")
				if strings.HasPrefix(line, "announced "+address+" ") || served && !slices.Contains(but, port) {
					return fmt.Errorf("%s: %s", node, line)
				}
			}
		}
		return nil
	})
}

// told waits until kubectl describe shows the Event on the object: its type,
// reason and any of these parts of its message.
func (l lab) told(kind, name, eventType, reason string, anyOf ...string) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%s %s is told %s", kind, name, reason), func() error {
		out, err := l.tryKubectl("describe", kind, name)
		if err != nil {
			return err
		}
		_, events, _ := strings.Cut(out, "\nEvents:")
		for line := range strings.Lines(events) {
			fields := strings.Fields(line)
			if len(fields) > 2 && fields[0] == eventType && fields[1] == reason &&
				slices.ContainsFunc(anyOf, func(part string) bool { return strings.Contains(line, part) }) {
				return nil
			}
		}
		return fmt.Errorf("no %s %s with %q in:%s", eventType, reason, anyOf, events)
	})
}

// available waits until the pool of that name says how many addresses it has left.
func (l lab) available(pool, want string) {
	l.t.Helper()
	l.kubectlSays(want, "get", "ippools.seamark.dev", pool, "-o", "jsonpath={.status.available}{' '}")
}

// reaches waits until requests through the VIP have met all of these pods.
func (l lab) reaches(pods ...string) {
	l.t.Helper()
	missing := slices.Clone(pods)
	l.eventually("the VIP leads to "+strings.Join(pods, ", "), func() error {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(p string) bool { return p == pod })
		if len(missing) > 0 {
			return fmt.Errorf("never to %s", strings.Join(missing, ", "))
		}
		return nil
	})
}

// slots are how many of the VIP's Maglev slots lead to each node's pods, as a
// node's kernel has it.
func (l lab) slots(on string) (map[string]int, error) {
	var table struct {
		Backends []struct{ Node string }
		Slots    []int
	}
	if err := l.tryJSON(&table, on, "bpf", "maglev", "get", web.String()); err != nil {
		return nil, err
	}
	slots := map[string]int{}
	for _, i := range table.Slots {
		slots[table.Backends[i].Node]++
	}
	return slots, nil
}

// spared waits until no new connection is led to the node's pods.
func (l lab) spared(node string) {
	l.t.Helper()
	l.eventually("no connection leads to "+node, func() error {
		for _, on := range []string{ctr, w1} {
			if on == node {
				continue
			}
			slots, err := l.slots(on)
			if err != nil {
				return err
			}
			if slots[node] > 0 {
				return fmt.Errorf("%d slots of %s do", slots[node], on)
			}
		}
		return nil
	})
}

// movedFrom waits until a node other than the old one announces the VIP, and
// answers for it; it returns the node.
func (l lab) movedFrom(old string) string {
	l.t.Helper()
	now := other(old)
	l.eventually(now+" announces the VIP", func() error {
		node, err := l.tryHolder(now, vipText)
		if err == nil && node != now {
			err = fmt.Errorf("%s announces it", node)
		}
		return err
	})
	l.eventually(now+"'s kernel answers ARP for the VIP", func() error {
		dump, err := l.try(now, "seamark", "bpf", "lb", "list")
		if err == nil && !strings.Contains(dump, "\nannounced "+vipText+" ") {
			err = errors.New("not in its maps")
		}
		return err
	})
	return now
}

// coordinate restarts daemons until the node is the coordinator.
func (l lab) coordinate(node string) {
	l.t.Helper()
	l.eventually(node+" is the coordinator", func() error {
		switch now := l.status(node).Coordinator.Identity; now {
		case node:
			return nil
		case "":
			return errors.New("there is none")
		default:
			l.daemon(now, testlab.Stop) // it gives the office up
			defer l.daemon(now, testlab.Start)
			l.eventually(now+" is no longer the coordinator", func() error {
				if l.status(node).Coordinator.Identity == now {
					return errors.New("it still is")
				}
				return nil
			})
			return fmt.Errorf("%s was", now)
		}
	})
}

// askedFor has the router ask for a while who has an address. One watch at a
// time: of two, the one would take answers to the other for second answers.
func (l lab) askedFor(address string, d time.Duration) traffic.ARPResult {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), d)
	defer cancel()
	r, err := traffic.WatchARP(ctx, l.host(router), "eth1", netip.MustParseAddr(address), 25*time.Millisecond)
	l.must(err)
	return r
}

// movedOnce wants the VIP to have gone from one MAC to another, for good, with
// never an answer by both.
func (l lab) movedOnce(r traffic.ARPResult, from, to string) {
	l.t.Helper()
	l.t.Logf("ARP: %s", r)
	if len(r.Holders) != 2 || r.Holders[0].MAC != from || r.Holders[1].MAC != to {
		l.t.Errorf("ARP was answered by %+v, want first %s, then %s", r.Holders, from, to)
	}
	if len(r.Doubles) > 0 {
		l.t.Errorf("%d questions were answered by two, the first: %+v", len(r.Doubles), r.Doubles[0])
	}
}

func absolute(l lab, path string) string {
	l.t.Helper()
	path, err := filepath.Abs(path)
	l.must(err)
	return path
}
