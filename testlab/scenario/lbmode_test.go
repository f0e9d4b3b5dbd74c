package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An appliance in front of machines that are no cluster's, which are behind the router.
const (
	lb                = "lb1"
	lbAddr            = "192.168.10.100"
	dsrVIP            = "192.168.10.212"
	applianceTopology = `
networks: [management, front, back]
hosts:
  - name: router
    role: router
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.200/24]}
      - {name: eth1, network: front, addresses: [192.168.10.200/24]}
      - {name: eth2, network: back, addresses: [192.168.20.200/24]}
  - name: api
    role: control-plane
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.10/24]}
  - name: lb1
    role: node
    podCIDRs: [172.20.0.0/24]
    interfaces:
      - {name: eth0, network: management, addresses: [10.0.2.100/24]}
      - {name: eth1, network: front, addresses: [192.168.10.100/24]}
    routes:
      - {to: 0.0.0.0/0, via: 192.168.10.200}
  - name: files1
    interfaces:
      - {name: eth1, network: back, addresses: [192.168.20.31/24]}
    routes:
      - {to: 0.0.0.0/0, via: 192.168.20.200}
  - name: files2
    interfaces:
      - {name: eth1, network: back, addresses: [192.168.20.32/24]}
    routes:
      - {to: 0.0.0.0/0, via: 192.168.20.200}
`
	applianceManifests = `
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: lab}
spec: {blocks: [{start: 192.168.10.211, stop: 192.168.10.215}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: lab}
spec: {loadBalancerIPs: true}
---
`
)

// filesService is a Service of both machines.
func filesService(name, vip, annotations string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata:
  name: %[1]s
  namespace: default
  annotations: {seamark.dev/ips: %[2]s, seamark.dev/health-check: http, seamark.dev/health-check-interval: 1s,
    seamark.dev/health-check-timeout: 900ms, seamark.dev/health-check-rise: "2", seamark.dev/health-check-fall: "2"%[3]s}
spec: {type: LoadBalancer, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: 80}]
endpoints:
- addresses: [192.168.20.31]
- addresses: [192.168.20.32]
---
`, name, vip, annotations)
}

// serve starts a web server on a host, which the returned function ends.
func (l lab) serve(host string) (stop func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := l.host(host).Command(ctx, "testlab", "webpod", "--name", host)
	l.must(cmd.Start())
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }() // it is killed
	stop = func() { cancel(); <-done }
	l.t.Cleanup(stop)
	return stop
}

// health waits until the appliance has found of each host, by name, that it is
// "up" or "down".
func (l lab) health(service string, want map[string]string) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("the backends of %s are %v", service, want), func() error {
		out, err := l.try(lb, "seamark", "describe", "service", service)
		if err != nil {
			return err
		}
		for host, state := range want {
			found := slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
				fields := strings.Fields(line)
				return len(fields) > 1 && fields[0] == filesAddr[host]+":80" && fields[1] == state
			})
			if !found {
				return fmt.Errorf("%s is not %s:\n%s", host, state, out)
			}
		}
		return nil
	})
}

var filesAddr = map[string]string{"files1": "192.168.20.31", "files2": "192.168.20.32"}

// serves waits until every one of many requests to the VIP is answered by one of
// the hosts, and each has answered.
func (l lab) serves(client string, hosts ...string) {
	l.t.Helper()
	l.eventually("the VIP leads to "+strings.Join(hosts, ", "), func() error {
		met := map[string]int{}
		for range 16 {
			host, from, err := l.page(router, "http://"+vipText+"/")
			if err != nil {
				return err
			}
			if from != client {
				l.t.Fatalf("%s saw %s as its client, want %s", host, from, client)
			}
			met[host]++
		}
		for _, host := range hosts {
			if met[host] == 0 {
				return fmt.Errorf("met %v", met)
			}
			delete(met, host)
		}
		if len(met) > 0 {
			return fmt.Errorf("met others: %v", met)
		}
		return nil
	})
}

// TestAppliance balances machines outside the cluster, by snat and by IP in IP,
// and leaves out those that do not answer.
func TestAppliance(t *testing.T) {
	t.Parallel()
	topology, err := testlab.ParseTopology([]byte(applianceTopology))
	if err != nil {
		t.Fatal(err)
	}
	l := upWith(t, testlab.Config{Topology: topology, DaemonArgs: []string{"--mode", "lb"}})
	stop1, stop2 := l.serve("files1"), l.serve("files2")
	l.apply(applianceManifests + filesService("files", vipText, ""))

	t.Run("translated, to kernels that know nothing of it", func(t *testing.T) {
		l := l.in(t)
		l.health("files", map[string]string{"files1": "up", "files2": "up"})
		l.serves(lbAddr, "files1", "files2")
	})
	t.Run("without being a Node", func(t *testing.T) {
		l := l.in(t)
		l.seamark(lb, "delete", "node", lb)
		l.daemon(lb, testlab.Stop)
		l.daemon(lb, testlab.Start)
		l.leased(lb)
		if node, err := l.tryHolder(lb, vipText); err != nil || node != lb {
			t.Errorf("announced by %s, %v", node, err)
		}
		if problems := l.status(lb).Problems; len(problems) > 0 {
			t.Errorf("problems %q", problems)
		}
		l.serves(lbAddr, "files1", "files2")
	})
	t.Run("one that dies is left out", func(t *testing.T) {
		l := l.in(t)
		stop1()
		l.health("files", map[string]string{"files1": "down", "files2": "up"})
		l.serves(lbAddr, "files2")
	})
	t.Run("one that was down is not tried when the daemon starts again", func(t *testing.T) {
		l := l.in(t)
		l.daemon(lb, testlab.Stop)
		l.daemon(lb, testlab.Start)
		for range 30 {
			if host, _, err := l.page(router, "http://"+vipText+"/"); err != nil || host != "files2" {
				t.Fatalf("answered by %q, %v", host, err)
			}
		}
	})
	t.Run("all are down: none is served", func(t *testing.T) {
		l := l.in(t)
		stop2()
		l.health("files", map[string]string{"files1": "down", "files2": "down"})
		l.eventually("what comes is dropped for it", func() error {
			before := l.counted(lb, "no_backend")
			if _, err := l.fetch(router, "http://"+vipText+"/", ""); err == nil {
				return errors.New("it was answered")
			}
			if l.counted(lb, "no_backend") == before {
				return errors.New("dropped, and not counted")
			}
			return nil
		})
	})
	t.Run("one comes back", func(t *testing.T) {
		l := l.in(t)
		l.serve("files1")
		l.health("files", map[string]string{"files1": "up", "files2": "down"})
		l.serves(lbAddr, "files1")
	})
	t.Run("IP in IP, to a host's tunnel", func(t *testing.T) {
		l := l.in(t)
		l.serve("files1")
		l.apply(filesService("direct", dsrVIP, ", seamark.dev/forwarding-mode: dsr"))
		l.health("direct", map[string]string{"files1": "up", "files2": "down"})
		l.tunnel("files1", dsrVIP)
		l.eventually("the host answers the client itself", func() error {
			host, client, err := l.page(router, "http://"+dsrVIP+"/")
			if err == nil && (host != "files1" || client != routerAddr) {
				t.Fatalf("%s saw %s as its client, want files1 and %s", host, client, routerAddr)
			}
			return err
		})
	})
}

// tunnel does on a host, for packets to an address, what the kernel's tunl0 does
// (RFC 2003), which not every kernel has: it takes them out of IP in IP. It looks
// at each.
func (l lab) tunnel(host, address string) {
	l.t.Helper()
	for _, args := range [][]string{{"ip", "addr", "add", address + "/32", "dev", "lo"}, {"sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0"},
		{"sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0"}} {
		l.run(host, args[0], args[1:]...)
	}
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tunnel"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1}
	var wire int
	l.must(l.host(host).Do(func() error {
		if err := errors.Join(netlink.LinkAdd(tun), netlink.LinkSetUp(tun)); err != nil {
			return err
		}
		eth1, err := net.InterfaceByName("eth1")
		if err != nil {
			return err
		}
		const ip = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // network byte order
		if wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, ip); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
			unix.Bind(wire, &unix.SockaddrLinklayer{Protocol: ip, Ifindex: eth1.Index}))
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		const ethernet, ipv4, protocol = 14, 20, 9 // lengths, and where in the IPv4 header
		for frame := make([]byte, 65536); ctx.Err() == nil; {
			n, _, err := unix.Recvfrom(wire, frame, 0)
			if err != nil || n < ethernet+2*ipv4 || frame[ethernet+protocol] != unix.IPPROTO_IPIP {
				continue // nothing came meanwhile, or something else
			}
			looks := packet.String(frame[:n])
			for _, want := range []string{lbAddr, filesAddr[host], routerAddr, address} { // outer and inner
				if !strings.Contains(looks, want) {
					l.t.Errorf("a packet without %s:\n%s", want, looks)
				}
			}
			if _, err := tun.Fds[0].Write(frame[ethernet+ipv4 : n]); err != nil {
				l.t.Errorf("hand on what was in the tunnel: %v\n%s", err, looks)
			}
		}
	}()
	l.t.Cleanup(func() {
		cancel()
		<-done
		unix.Close(wire)
		tun.Fds[0].Close()
	})
}
