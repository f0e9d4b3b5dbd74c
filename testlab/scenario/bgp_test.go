package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const bgpVIP = "10.10.50.1"

// bgpManifests: every node advertises the addresses of a pool of its own to the
// router, which is a peer at each node's default gateway.
const bgpManifests = `
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: routed}
spec:
  blocks: [{start: 10.10.50.1, stop: 10.10.50.9}]
  autoAssign: false
---
apiVersion: seamark.dev/v1alpha1
kind: BGPInstance
metadata: {name: lab}
spec: {localASN: 65001}
---
apiVersion: seamark.dev/v1alpha1
kind: BGPPeer
metadata: {name: router}
spec:
  autoDiscovery: {mode: DefaultGateway, addressFamily: ipv4}
  peerASN: 65000
  families: [{afi: ipv4, safi: unicast}]
  timers: {connectRetryTimeSeconds: 1, holdTimeSeconds: 9}
  gracefulRestart: {enabled: true, restartTimeSeconds: 60}
---
apiVersion: seamark.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: routed}
spec:
  advertisements: [{type: LoadBalancer, pools: [routed]}]
---
apiVersion: v1
kind: Service
metadata:
  name: routed
  namespace: default
  annotations: {seamark.dev/pool: routed}
spec:
  type: LoadBalancer
  loadBalancerClass: seamark.dev/bgp
  selector: {app: webpod}
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: routed-1
  namespace: default
  labels: {kubernetes.io/service-name: routed}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
- {addresses: [172.20.0.1], nodeName: k8s-ctr, conditions: {ready: true}}
- {addresses: [172.20.1.1], nodeName: k8s-w1, conditions: {ready: true}}
- {addresses: [172.20.2.1], nodeName: k8s-w0, conditions: {ready: true}}
`

const frrConfig = `router bgp 65000
 no bgp ebgp-requires-policy
 bgp graceful-restart
 neighbor nodes peer-group
 neighbor nodes remote-as 65001
 bgp listen range 192.168.10.0/24 peer-group nodes
 bgp listen range 192.168.20.0/24 peer-group nodes
 address-family ipv4 unicast
  maximum-paths 16
 exit-address-family
`

// frr runs FRR's zebra and bgpd on the router.
type frr struct {
	l   lab
	dir string
}

func (l lab) frr() frr {
	l.t.Helper()
	for _, program := range []string{"zebra", "bgpd"} {
		if _, err := os.Stat("/usr/lib/frr/" + program); err != nil {
			l.t.Skipf("needs %s: apt-get install frr", program)
		}
	}
	f := frr{l, l.t.TempDir()}
	conf := filepath.Join(f.dir, "bgpd.conf")
	l.must(os.WriteFile(conf, []byte(frrConfig), 0o644))
	l.must(os.Chmod(filepath.Dir(f.dir), 0o755)) // FRR's programs are a user of their own
	out, err := exec.Command("chown", "frr:frr", f.dir).CombinedOutput()
	if err != nil {
		l.t.Fatalf("chown: %v: %s", err, out)
	}
	f.start("zebra")
	l.eventually("zebra runs", func() error { _, err := os.Stat(f.dir + "/zserv"); return err })
	f.start("bgpd", "-f", conf)
	return f
}

func (f frr) start(program string, args ...string) {
	f.l.t.Helper()
	args = append([]string{"-i", f.dir + "/" + program + ".pid", "-z", f.dir + "/zserv", "--vty_socket", f.dir, "-P", "0", "--log", "stdout"}, args...)
	cmd := f.l.host(router).Command(context.Background(), "/usr/lib/frr/"+program, args...)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	f.l.must(cmd.Start())
	f.l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if f.l.t.Failed() {
			f.l.t.Logf("%s: %s", program, out.String())
		}
	})
}

// nextHops are those that the router's kernel has for the address.
func (l lab) nextHops(addr string) ([]string, error) {
	out, err := l.try(router, "ip", "-j", "route", "show", addr)
	if err != nil {
		return nil, err
	}
	var routes []struct {
		Gateway  string
		Nexthops []struct{ Gateway string }
	}
	if err := json.Unmarshal([]byte(out), &routes); err != nil {
		return nil, err
	}
	var hops []string
	for _, r := range routes {
		if r.Gateway != "" {
			hops = append(hops, r.Gateway)
		}
		for _, h := range r.Nexthops {
			hops = append(hops, h.Gateway)
		}
	}
	slices.Sort(hops)
	return hops, nil
}

// routedBy waits until the router's kernel sends the address to these nodes.
func (l lab) routedBy(addr string, want ...string) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("the router sends %s to %v", addr, want), func() error {
		hops, err := l.nextHops(addr)
		if err == nil && !slices.Equal(hops, want) {
			err = fmt.Errorf("to %v", hops)
		}
		return err
	})
}

// speaks waits until the node says that it has the session.
func (l lab) speaks(node string) {
	l.t.Helper()
	l.eventually(node+" has the session", func() error {
		out, err := l.try(node, "seamark", "bgp", "peers")
		if err == nil && !strings.Contains(out, "Established") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
}

// TestBGP: every node advertises a Service's address to a router with FRR, whose
// kernel spreads it over the nodes; a node that serves no more is withdrawn, and a
// daemon that restarts is not noticed.
func TestBGP(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	l.frr()
	l.apply(bgpManifests)
	all := []string{"192.168.10.100", "192.168.10.101", "192.168.20.100"}
	l.routedBy(bgpVIP, all...)
	met := map[string]bool{}
	l.eventually("the address leads to all pods", func() error {
		pod, _, err := l.page(router, "http://"+bgpVIP+"/")
		if met[pod] = true; err == nil && len(met) < len(nodes) {
			err = fmt.Errorf("met %v", met)
		}
		return err
	})

	for _, node := range nodes {
		l.speaks(node)
		if out := l.seamark(node, "bgp", "routes", "advertised", "router"); !strings.Contains(out, bgpVIP+"/32") {
			t.Errorf("%s: %s", node, out)
		}
	}

	// With the policy Local, only nodes with a pod: k8s-w1's is not ready.
	l.apply(strings.NewReplacer("type: LoadBalancer\n", "type: LoadBalancer\n  externalTrafficPolicy: Local\n",
		"nodeName: k8s-w1, conditions: {ready: true}", "nodeName: k8s-w1, conditions: {ready: false}").Replace(bgpManifests))
	l.routedBy(bgpVIP, "192.168.10.100", "192.168.20.100")
	l.apply(bgpManifests)
	l.routedBy(bgpVIP, all...)

	l.daemon(w1, "stop")
	hops, err := l.nextHops(bgpVIP)
	l.must(err)
	if !slices.Equal(hops, all) {
		t.Errorf("a daemon that stops for a restart takes its routes along: %v", hops)
	}
	l.daemon(w1, "start")
	l.speaks(w1)
	l.routedBy(bgpVIP, all...)

	l.seamark(ctr, "delete", "service", "routed")
	l.routedBy(bgpVIP)
}
