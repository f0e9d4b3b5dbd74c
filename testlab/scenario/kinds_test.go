package scenario

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The addresses and ports of the Service that changes its kind.
const (
	shopVIP       = "192.168.10.214"
	shopClusterIP = "10.96.7.7"
	shopNodePort  = 30080
	shopHealth    = 31999
	shopHostPort  = 8080
)

var addrOf = map[string]string{ctr: "192.168.10.100", w1: "192.168.10.101", w0: "192.168.20.100"}

// zoneOf has one node alone in its zone.
var zoneOf = map[string]string{ctr: "a", w1: "b", w0: "b"}

// shop applies the Service with these lines in its spec, and an endpoint for each of
// the nodes with what is given of it.
func (l lab) shop(spec string, endpoints map[string]string) {
	l.t.Helper()
	all, err := l.Status()
	l.must(err)
	var list strings.Builder
	for _, node := range slices.Sorted(maps.Keys(endpoints)) {
		i := slices.IndexFunc(all, func(s testlab.Status) bool { return s.Name == podOf[node] })
		fmt.Fprintf(&list, "- {addresses: [%s], nodeName: %s, %s}\n", strings.TrimPrefix(all[i].Addresses[0], "eth0 "), node, endpoints[node])
	}
	l.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default, annotations: {seamark.dev/ips: %s}}
spec:
  type: LoadBalancer
  clusterIP: %s
  clusterIPs: [%[2]s]
  ports: [{name: http, port: 8000, targetPort: 80, nodePort: %d}]
%s
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, namespace: default, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
%s`, shopVIP, shopClusterIP, shopNodePort, spec, list.String()))
}

// everywhere is an endpoint on each node.
func everywhere(what string) map[string]string {
	return map[string]string{ctr: what, w1: what, w0: what}
}

// leadsTo waits until what is at the address has led a host to these pods, and for
// as many requests again, to no other.
func (l lab) leadsTo(from, at string, pods ...string) {
	l.t.Helper()
	url := "http://" + at + "/"
	l.eventually(fmt.Sprintf("%s leads %s to %v alone", url, from, pods), func() error {
		met := map[string]bool{}
		for range 10 * len(pods) {
			pod, _, err := l.page(from, url)
			if err != nil {
				return err
			}
			met[pod] = true
		}
		if got := slices.Sorted(maps.Keys(met)); !slices.Equal(got, slices.Sorted(slices.Values(pods))) {
			return fmt.Errorf("to %v", got)
		}
		return nil
	})
}

// leadsNowhere waits until nobody is answered at the address.
func (l lab) leadsNowhere(from, at string) {
	l.t.Helper()
	l.eventually(at+" leads "+from+" nowhere", func() error {
		if pod, _, err := l.page(from, "http://"+at+"/"); err == nil {
			return fmt.Errorf("to %s", pod)
		}
		return nil
	})
}

// TestKindsOfFrontends: node ports, host ports, ClusterIPs and the policies of Services,
// from the manifest to the packet, where no kube-proxy runs.
func TestKindsOfFrontends(t *testing.T) {
	t.Parallel()
	topology := testlab.DefaultTopology()
	for i, p := range topology.Pods {
		if p.Name == podW1 {
			topology.Pods[i].HostPorts = []testlab.HostPort{{HostPort: shopHostPort, ContainerPort: 80, Protocol: "tcp"}}
		}
	}
	l := upWith(t, testlab.Config{Topology: topology, DaemonArgs: []string{"--kube-proxy-replacement", "true"}})
	l.applyDemo()
	for node, zone := range zoneOf {
		l.changeNode(node, func(n *unstructured.Unstructured) {
			labels := n.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels["topology.kubernetes.io/zone"] = zone
			n.SetLabels(labels)
		})
	}
	pods := []string{podCtr, podW1, podW0}
	const ready = "conditions: {ready: true}"
	nodePort := func(node string) string { return fmt.Sprintf("%s:%d", addrOf[node], shopNodePort) }
	clusterIP, vip := shopClusterIP+":8000", shopVIP+":8000"

	t.Run("node ports and the ClusterIP lead to all", func(t *testing.T) {
		l := l.in(t)
		l.shop("", everywhere(ready))
		for _, node := range nodes {
			l.leadsTo(router, nodePort(node), pods...)
		}
		l.leadsTo(router, vip, pods...)
		for _, pod := range pods { // to itself, too
			l.leadsTo(pod, clusterIP, pods...)
		}
	})
	t.Run("a host port leads to its pod", func(t *testing.T) {
		l := l.in(t)
		at := fmt.Sprintf("%s:%d", addrOf[w1], shopHostPort)
		l.leadsTo(router, at, podW1)
		if _, client, err := l.page(router, "http://"+at+"/"); err != nil || client != routerAddr {
			t.Errorf("the pod saw %s as its client, %v; want %s", client, err, routerAddr)
		}
		l.leadsNowhere(router, fmt.Sprintf("%s:%d", addrOf[ctr], shopHostPort))
	})
	t.Run("externalTrafficPolicy Local", func(t *testing.T) {
		l := l.in(t)
		l.shop(fmt.Sprintf("  externalTrafficPolicy: Local\n  healthCheckNodePort: %d", shopHealth), map[string]string{w1: ready})
		l.leadsTo(router, nodePort(w1), podW1)
		if _, client, err := l.page(router, "http://"+nodePort(w1)+"/"); err != nil || client != routerAddr {
			t.Errorf("the pod saw %s as its client, %v; want %s", client, err, routerAddr)
		}
		l.leadsNowhere(router, nodePort(ctr))
		l.leadsTo(router, vip, podW1)
		if a := l.announcement(ctr, shopVIP); a.Node != w1 {
			t.Errorf("announced by %s, want %s, where the pod is", a.Node, w1)
		}
		l.leadsTo(podCtr, clusterIP, podW1)
		for node, want := range map[string]string{w1: `"localEndpoints":1,`, ctr: `"localEndpoints":0,`} {
			l.eventually("the health check of "+node+" says "+want, func() error {
				body, err := l.fetch(router, fmt.Sprintf("http://%s:%d/", addrOf[node], shopHealth), "")
				if err == nil && !strings.Contains(body, want) {
					err = errors.New(body)
				}
				return err
			})
		}
	})
	t.Run("an endpoint that terminates and serves is used when none is ready", func(t *testing.T) {
		l := l.in(t)
		const terminates = "conditions: {ready: false, serving: true, terminating: true}"
		l.shop("  externalTrafficPolicy: Local", map[string]string{w1: terminates})
		l.leadsTo(router, nodePort(w1), podW1)
		l.shop("  externalTrafficPolicy: Cluster", map[string]string{w1: terminates, ctr: ready})
		l.leadsTo(router, nodePort(w1), podCtr)
	})
	t.Run("internalTrafficPolicy Local", func(t *testing.T) {
		l := l.in(t)
		l.shop("  internalTrafficPolicy: Local", map[string]string{ctr: ready, w0: ready})
		l.leadsTo(podCtr, clusterIP, podCtr)
		l.leadsTo(podW0, clusterIP, podW0)
		l.leadsNowhere(podW1, clusterIP)
		l.leadsTo(router, nodePort(w1), podCtr, podW0)
	})
	t.Run("hints of zones", func(t *testing.T) {
		l := l.in(t)
		hinted := map[string]string{}
		for node, zone := range zoneOf {
			hinted[node] = ready + ", zone: " + zone + ", hints: {forZones: [{name: " + zone + "}]}"
		}
		l.shop("  trafficDistribution: PreferClose", hinted)
		l.leadsTo(podCtr, clusterIP, podCtr)
		l.leadsTo(podW1, clusterIP, podW1, podW0)
	})
	t.Run("session affinity", func(t *testing.T) {
		l := l.in(t)
		l.shop("  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}", everywhere(ready))
		l.eventually("twenty connections meet one pod", func() error {
			met := map[string]bool{}
			for range 20 {
				pod, _, err := l.page(router, "http://"+vip+"/")
				if err != nil {
					return err
				}
				met[pod] = true
			}
			if len(met) != 1 {
				return fmt.Errorf("%v", slices.Sorted(maps.Keys(met)))
			}
			return nil
		})
	})
	t.Run("source ranges", func(t *testing.T) {
		l := l.in(t)
		l.shop("  loadBalancerSourceRanges: [10.10.1.0/24]", everywhere(ready))
		l.leadsNowhere(router, vip)
		holder := l.announcement(ctr, shopVIP).Node
		before := l.counted(holder, "source_range")
		l.refusedConnection(netip.MustParseAddrPort(vip), 500*time.Millisecond)
		if l.counted(holder, "source_range") == before {
			t.Errorf("not counted: %+v", l.status(holder).Verdicts)
		}
		l.shop("  loadBalancerSourceRanges: [10.10.1.0/24, 192.168.10.0/24]", everywhere(ready))
		l.leadsTo(router, vip, pods...)
	})
}
