package scenario

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

const vip6 = "fd00:10::d3"

// ipv6 gives the segment of the VIPs IPv6, and a Service an address of it.
func (l lab) ipv6() {
	l.t.Helper()
	for host, addr := range map[string]string{router: "fd00:10::c8/64", ctr: "fd00:10::64/64", w1: "fd00:10::65/64"} {
		l.run(host, "ip", "-6", "address", "add", addr, "dev", "eth1", "nodad")
	}
	l.apply(`
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: six}
spec:
  blocks: [{start: "fd00:10::d3", stop: "fd00:10::d7"}]
---
apiVersion: v1
kind: Service
metadata: {name: six, namespace: default}
spec:
  type: LoadBalancer
  ipFamilies: [IPv6]
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: six-1
  namespace: default
  labels: {kubernetes.io/service-name: six}
addressType: IPv6
ports: [{name: http, port: 80}]
endpoints:
- addresses: ["fd00:20::1"]
  nodeName: k8s-w0
  conditions: {ready: true}
`)
}

// solicited is the MAC that answers the router's Neighbor Solicitation.
func (l lab) solicited(addr string) (mac string, err error) {
	out, err := l.try(router, "ndisc6", "-1", "-q", "-w", "500", addr, "eth1")
	return strings.ToLower(strings.TrimSpace(out)), err
}

// at wants the router to find an address at a MAC, by asking.
func (l lab) at(addr, mac string) {
	l.t.Helper()
	l.eventually(addr+" is at "+mac, func() error {
		got, err := l.solicited(addr)
		if err == nil && got != mac {
			err = fmt.Errorf("it is at %s", got)
		}
		return err
	})
}

// TestNeighbours: the segment's router finds an IPv6 VIP by neighbour discovery, is told
// when it moves, and follows an interface that changes its MAC.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	l.ipv6()
	l.eventually("the address is announced", func() error {
		_, err := l.tryHolder(ctr, vip6)
		return err
	})
	old, err := l.tryHolder(ctr, vip6)
	l.must(err)
	l.at(vip6, l.mac(old))
	l.run(router, "ping", "-c", "1", "-W", "2", vip6)
	if _, err := l.solicited("fd00:10::d4"); err == nil {
		t.Error("an address that no Service has is answered for")
	}

	l.daemon(old, testlab.Kill)
	now := other(old)
	l.eventually("the other node announces it, and the router has heard", func() error {
		if holder, err := l.tryHolder(now, vip6); err != nil || holder != now {
			return fmt.Errorf("held by %q, %v", holder, err)
		}
		known, err := l.try(router, "ip", "-6", "neighbour", "show", vip6, "dev", "eth1")
		if err == nil && !strings.Contains(known, l.mac(now)) {
			err = errors.New(known)
		}
		return err
	})
	l.run(router, "ping", "-c", "1", "-W", "2", vip6)

	const changed = "02:00:00:00:77:01"
	l.run(now, "ip", "link", "set", "dev", "eth1", "address", changed)
	l.at(vip6, changed)
	l.eventually("the router pings it there", func() error {
		_, err := l.try(router, "ping", "-c", "1", "-W", "2", vip6)
		return err
	})
}

// TestAddressOfAnother: a machine on the segment has an address of the pool. It is
// not announced when a Service first gets it, and people are told which machine it is.
func TestAddressOfAnother(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	const stolen = "192.168.10.212"
	l.run(router, "ip", "address", "add", stolen+"/32", "dev", "eth1")
	l.apply(services("s2"))
	l.eventually("the holder says who has the address", func() error {
		holder, err := l.tryHolder(ctr, stolen)
		if err != nil {
			return err
		}
		problems := l.status(holder).Problems
		for _, p := range problems {
			if strings.Contains(p, "default/s2") && strings.Contains(p, stolen) && strings.Contains(p, l.mac(router)) {
				return nil
			}
		}
		return fmt.Errorf("problems of %s: %q", holder, problems)
	})
	holder, err := l.tryHolder(ctr, stolen)
	l.must(err)
	if dump := l.seamark(holder, "bpf", "lb", "list"); !strings.Contains(dump, " probing") || l.counted(holder, "arp_claim") == 0 {
		t.Errorf("%s does not listen for the address, or answers for it:\n%s", holder, dump)
	}
}
