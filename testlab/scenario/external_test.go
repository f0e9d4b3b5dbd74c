package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
)

// udpService is a Service whose pods echo UDP, with the endpoints that the
// controllers of a cluster would write.
func (l lab) udpService(name string) string {
	l.t.Helper()
	all, err := l.Status()
	l.must(err)
	var endpoints strings.Builder
	for node, pod := range podOf {
		for _, s := range all {
			if s.Name == pod {
				fmt.Fprintf(&endpoints, "- addresses: [%s]\n  nodeName: %s\n  conditions: {ready: true}\n",
					strings.TrimPrefix(s.Addresses[0], "eth0 "), node)
			}
		}
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: default}
spec:
  type: LoadBalancer
  ports: [{name: echo, port: 80, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s-1
  namespace: default
  labels: {kubernetes.io/service-name: %[1]s}
addressType: IPv4
ports: [{name: echo, port: 80, protocol: UDP}]
endpoints:
%[2]s`, name, endpoints.String())
}

// echo sends a datagram from a host and returns the pod that echoed it.
func (l lab) echo(from string, to netip.AddrPort) (pod string, err error) {
	var conn net.Conn
	if err := l.host(from).Do(func() (err error) {
		conn, err = net.Dial("udp", to.String())
		return err
	}); err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := conn.Write([]byte("ahoy")); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	pod, ok := strings.CutPrefix(string(buf[:n]), "ahoy ")
	if !ok {
		return "", fmt.Errorf("%s answered %q", to, buf[:n])
	}
	return pod, nil
}

// refusedConnection dials from the router what must not answer.
func (l lab) refusedConnection(to netip.AddrPort, patience time.Duration) {
	l.t.Helper()
	var conn net.Conn
	err := l.host(router).Do(func() (err error) {
		conn, err = (&net.Dialer{Timeout: patience}).Dial("tcp", to.String())
		return err
	})
	if err == nil {
		conn.Close()
		l.t.Errorf("%s answered", to)
	}
	var timeout net.Error
	if err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
		l.t.Errorf("%s: %v, want it dropped", to, err)
	}
}

// TestExternalIP is the main job: an address that an outside router can arp,
// ping and curl.
func TestExternalIP(t *testing.T) {
	t.Parallel()
	l := upServing(t)

	t.Run("commands show it", func(t *testing.T) {
		l := l.in(t)
		if out := l.seamark(ctr, "get", "service", "webpod"); !strings.Contains(out, " "+vipText+" ") {
			t.Errorf("service:\n%s", out)
		}
		l.eventually("the pool has 4 addresses left", func() error {
			var pool struct {
				Status struct{ Available, Used string }
			}
			if err := l.tryJSON(&pool, ctr, "get", "ippool", "lab"); err != nil {
				return err
			}
			if pool.Status.Available != "4" || pool.Status.Used != "1" {
				return fmt.Errorf("status %+v", pool.Status)
			}
			return nil
		})
		out := l.seamark(ctr, "get", "ippool")
		if !strings.Contains(out, "IPS AVAILABLE") || !strings.Contains(out, " 4 ") {
			t.Errorf("ippool:\n%s", out)
		}
		a := l.announcement(ctr, vipText)
		if a.Service != "default/webpod" || a.Node != ctr && a.Node != w1 || a.Generation != 1 || len(a.Interfaces) != 1 || a.Interfaces[0] != "eth1" {
			t.Errorf("announcement %+v", a)
		}
		for _, host := range []string{w1, w0, router, api, podW0} {
			if out, want := l.seamark(host, "get", "announcement"), l.seamark(ctr, "get", "announcement"); out != want {
				t.Errorf("announcements asked from %s:\n%swant\n%s", host, out, want)
			}
		}
	})

	t.Run("one node answers ARP", func(t *testing.T) {
		l := l.in(t)
		r := l.watchARPFor(time.Second)
		l.held(r, l.mac(l.holder()))
		if len(r.Doubles) > 0 {
			t.Errorf("answered by two: %v", r.Doubles)
		}
	})

	t.Run("ping", func(t *testing.T) {
		l := l.in(t)
		l.run(router, "ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", vipText)
	})

	t.Run("requests spread, clients are seen as they are", func(t *testing.T) {
		l := l.in(t)
		pods := map[string]int{}
		for range 60 {
			pod, client, err := l.page(router, "http://"+vipText+"/")
			l.must(err)
			if client != routerAddr {
				t.Fatalf("%s saw %s as its client, want %s", pod, client, routerAddr)
			}
			pods[pod]++
		}
		t.Logf("60 requests: %v", pods)
		for _, pod := range podOf {
			if pods[pod] == 0 {
				t.Errorf("no request went to %s", pod)
			}
		}
	})

	t.Run("a megabyte each way", func(t *testing.T) { // in full segments, which encapsulation must leave room for
		l := l.in(t)
		megabyte := strings.Repeat("0123456789abcdef", 1<<16)
		missing := []string{podCtr, podW1, podW0}
		l.eventually("each pod has answered it", func() error {
			answer, err := l.fetch(router, "http://"+vipText+"/", megabyte)
			if err != nil {
				return err
			}
			if !strings.HasSuffix(answer, megabyte) {
				t.Fatalf("answer of %d bytes does not end in what was sent", len(answer))
			}
			missing = slices.DeleteFunc(missing, func(pod string) bool { return strings.HasPrefix(answer, "Hostname: "+pod+"\n") })
			if len(missing) > 0 {
				return fmt.Errorf("not %s", strings.Join(missing, ", "))
			}
			return nil
		})
	})

	t.Run("an unserved port is dropped and counted", func(t *testing.T) {
		l := l.in(t)
		holder := l.holder()
		before := l.counted(holder, "unserved_port")
		l.refusedConnection(netip.AddrPortFrom(vip, 81), 500*time.Millisecond)
		l.eventually("the drop is counted", func() error {
			if n := l.counted(holder, "unserved_port") - before; n == 0 {
				return fmt.Errorf("verdicts of %s: %+v", holder, l.status(holder).Verdicts)
			}
			return nil
		})
	})

	t.Run("UDP", func(t *testing.T) {
		l := l.in(t)
		l.apply(l.udpService("echo"))
		echo := netip.MustParseAddrPort("192.168.10.212:80")
		pods := map[string]int{}
		l.eventually("datagrams come back from all pods", func() error {
			pod, err := l.echo(router, echo)
			if err != nil {
				return err
			}
			if pods[pod]++; len(pods) < len(podOf) {
				return fmt.Errorf("only from %v", pods)
			}
			return nil
		})
		l.refusedConnection(echo, 500*time.Millisecond) // by TCP it is no Service
	})
}

// TestTwoLabs side by side do not know each other: the same addresses, names
// of nodes and MACs on one kernel.
func TestTwoLabs(t *testing.T) {
	t.Parallel()
	one, two := upServing(t), upServing(t)
	streams := two.streams(20)
	if one.mac(ctr) == two.mac(ctr) {
		t.Error("nodes of two labs have one MAC")
	}
	pod, _, err := one.page(router, "http://"+vipText+"/")
	one.must(err)
	t.Logf("%s answered in lab %s", pod, one.Name)
	one.must(testlab.Down(one.Name))
	if _, err := testlab.Open(one.Name); err == nil {
		t.Error("the lab that is down can be opened")
	}
	two.reaches(podCtr, podW1, podW0)
	two.flowing(streams, podCtr, podW1, podW0)
	two.unbroken(streams, generously, podCtr, podW1, podW0)
}
