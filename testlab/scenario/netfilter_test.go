package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"github.com/seamark-lb/seamark/testlab/webpod"
)

// clusterIP is what kube-proxy, not Seamark, makes of the demo's Service.
const clusterIP = "10.96.0.100"

// gatewayOf is the router, as each node knows it.
var gatewayOf = map[string]string{ctr: routerAddr, w1: routerAddr, w0: "192.168.20.200"}

// ruleset is what others' netfilter rules are on a node.
type ruleset struct {
	tool string
	// script installs the rules, in sh, from the addresses of pods.
	script func(pods []string) string
	// dump prints the rules with their counters; a rule that drops what is
	// INVALID to conntrack is matched by invalid, which captures its packets.
	dump    []string
	invalid *regexp.Regexp
	// translates: the rules translate VIP and clusterIP, as kube-proxy's do, in
	// a rule that translated captures the packets of.
	translated *regexp.Regexp
}

// kubeProxy is what kube-proxy writes in mode iptables for the demo's Service
// (pkg/proxy/iptables/proxier.go), and a firewall's drops in INPUT and OUTPUT.
var kubeProxy = ruleset{
	tool: "iptables-legacy",
	script: func(pods []string) string {
		var endpoints strings.Builder
		for i, pod := range pods {
			fmt.Fprintf(&endpoints, "-A KUBE-SVC-WEBPOD -m statistic --mode nth --every %d --packet 0 -j KUBE-SEP-%d\n", len(pods)-i, i)
			fmt.Fprintf(&endpoints, "-A KUBE-SEP-%d -s %s/32 -j KUBE-MARK-MASQ\n", i, pod)
			fmt.Fprintf(&endpoints, "-A KUBE-SEP-%d -p tcp -j DNAT --to-destination %s:80\n", i, pod)
		}
		var chains strings.Builder
		for i := range pods {
			fmt.Fprintf(&chains, ":KUBE-SEP-%d - [0:0]\n", i)
		}
		return `set -e
iptables-legacy-restore <<RULES
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-EXT-WEBPOD - [0:0]
:KUBE-SVC-WEBPOD - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
` + chains.String() + `-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d ` + clusterIP + `/32 -p tcp --dport 80 -j KUBE-SVC-WEBPOD
-A KUBE-SERVICES -d ` + vipText + `/32 -p tcp --dport 80 -j KUBE-EXT-WEBPOD
-A KUBE-EXT-WEBPOD -j KUBE-MARK-MASQ
-A KUBE-EXT-WEBPOD -j KUBE-SVC-WEBPOD
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
` + endpoints.String() + `COMMIT
RULES
`
	},
	dump:       []string{"iptables-legacy-save", "-c"},
	invalid:    regexp.MustCompile(`(?m)^\[(\d+):\d+\] .*--ctstate INVALID -j DROP$`),
	translated: regexp.MustCompile(`(?m)^\[(\d+):\d+\] -A KUBE-SERVICES -d ` + vipText + `/32 `),
}

// firewall is one of nftables that knows of no Services.
var firewall = ruleset{
	tool: "nft",
	script: func([]string) string {
		return `set -e
nft -f - <<RULES
table inet firewall {
	chain input { type filter hook input priority filter; ct state invalid counter drop; }
	chain forward { type filter hook forward priority filter; ct state invalid counter drop; }
	chain output { type filter hook output priority filter; ct state invalid counter drop; }
}
RULES
`
	},
	dump:    []string{"nft", "list", "ruleset"},
	invalid: regexp.MustCompile(`ct state invalid counter packets (\d+) `),
}

// podAddrs are the webpods' addresses, by name.
func (l lab) podAddrs() map[string]string {
	l.t.Helper()
	all, err := l.Status()
	l.must(err)
	addrs := map[string]string{}
	for _, s := range all {
		if slices.Contains([]string{podCtr, podW1, podW0}, s.Name) {
			addrs[s.Name] = strings.TrimPrefix(s.Addresses[0], "eth0 ")
		}
	}
	if len(addrs) != len(podOf) {
		l.t.Fatalf("addresses of pods: %v", addrs)
	}
	return addrs
}

// install puts the rules on every node, and has conntrack take TCP strictly.
func (r ruleset) install(l lab) {
	l.t.Helper()
	if _, err := exec.LookPath(r.tool); err != nil {
		l.t.Skip(r.tool + " is not installed")
	}
	var pods []string
	addrs := l.podAddrs()
	for _, node := range nodes {
		pods = append(pods, addrs[podOf[node]])
	}
	for _, node := range nodes {
		l.must(l.host(node).Do(func() error {
			return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", []byte("0"), 0)
		}))
		l.run(node, "sh", "-c", r.script(pods))
	}
}

// packets sums what the rules that match have counted on a node.
func (r ruleset) packets(l lab, node string, rule *regexp.Regexp) (sum int) {
	l.t.Helper()
	dump := l.run(node, r.dump[0], r.dump[1:]...)
	rules := rule.FindAllStringSubmatch(dump, -1)
	if len(rules) == 0 {
		l.t.Fatalf("on %s: no rule matches %s:\n%s", node, rule, dump)
	}
	for _, m := range rules {
		n, err := strconv.Atoi(m[1])
		l.must(err)
		sum += n
	}
	return sum
}

// unhit wants no packet met by the rules until now.
func (r ruleset) unhit(l lab, what string, rule *regexp.Regexp) {
	l.t.Helper()
	for _, node := range nodes {
		if n := r.packets(l, node, rule); n > 0 {
			l.t.Errorf("on %s: %d packets %s", node, n, what)
		}
	}
}

// catches shows that the drops are in force: to conntrack, a TCP header of
// zeroes is INVALID.
func (r ruleset) catches(l lab) {
	l.t.Helper()
	addrs := l.podAddrs()
	for _, node := range nodes {
		before := r.packets(l, node, r.invalid)
		l.must(l.host(router).Do(func() error {
			conn, err := net.Dial("ip4:tcp", addrs[podOf[node]])
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(make([]byte, 20))
			return err
		}))
		l.eventually(node+" drops what is INVALID", func() error {
			if r.packets(l, node, r.invalid) == before {
				return errors.New("it does not")
			}
			return nil
		})
	}
}

// clientOn is a node's pod that is no backend: one that is does not reach
// itself through a VIP.
func clientOn(node string) string { return "client-" + node }

// upWithClients is upServing with a client's pod on every node.
func upWithClients(t *testing.T) lab {
	t.Helper()
	l := withClients(t)
	l.applyDemo()
	return l
}

// withClients is up with a client's pod on every node.
func withClients(t *testing.T, daemonArgs ...string) lab {
	t.Helper()
	if reason := whyNot(); reason != "" {
		t.Skip(reason)
	}
	topology := testlab.DefaultTopology()
	for _, node := range nodes {
		topology.Pods = append(topology.Pods, testlab.PodSpec{Name: clientOn(node), Node: node, Service: "default/client"})
	}
	inner, err := testlab.Up(interrupted, testlab.Config{Name: newLabName(), BinDir: binDir, Topology: topology, DaemonArgs: daemonArgs})
	if err != nil {
		t.Fatal(err)
	}
	l := lab{inner, t}
	t.Cleanup(func() {
		if t.Failed() {
			l.printLogs()
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// TestNetfilter: what others' rules drop as INVALID, or translate, is none of
// the packets to and from a VIP, and what clients on the nodes do is whole to conntrack.
func TestNetfilter(t *testing.T) {
	for name, rules := range map[string]ruleset{"kube-proxy": kubeProxy, "firewall": firewall} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := upWithClients(t)
			rules.install(l)
			l.throughVIP(t, rules)
			l.onNodes(rules)
			rules.catches(l)
		})
	}
}

// throughVIP is a user's traffic from outside, and all that can befall it.
func (l lab) throughVIP(t *testing.T, rules ruleset) {
	t.Helper()
	all := []string{podCtr, podW1, podW0}
	streams := l.streams(60)
	stop := l.probe()
	l.reaches(all...)
	l.run(router, "ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", vipText)

	for _, node := range nodes {
		l.daemon(node, testlab.Stop)
		l.flowing(streams, all...)
		l.daemon(node, testlab.Start)
		l.leased(node)
	}
	// The way back to the client has no neighbour entry, over and over. (The
	// holder's is its way to other nodes, too.)
	holder := l.holder()
	for range 20 {
		for _, node := range nodes {
			if node != holder {
				l.run(node, "ip", "neigh", "flush", "to", gatewayOf[node], "dev", "eth1")
				l.reaches(podOf[node])
			}
		}
	}
	l.flowing(streams, all...)
	l.unbroken(streams, generously, all...)
	if r := stop(); r.Answered < r.Sent {
		t.Errorf("connections: %v", r)
	}
	streams.Close()

	l.apply(l.udpService("echo"))
	echo := netip.AddrPortFrom(vip.Next(), 80)
	seen := map[string]bool{}
	l.eventually("datagrams reach every pod", func() error {
		pod, err := l.echo(router, echo)
		if err != nil {
			return err
		}
		if seen[pod] = true; len(seen) < len(all) {
			return fmt.Errorf("so far %v", seen)
		}
		return nil
	})
	l.loseBackend()

	rules.unhit(l, "of the VIP's clients were INVALID", rules.invalid)
	if rules.translated != nil {
		rules.unhit(l, "of the VIP's clients came to kube-proxy", rules.translated)
	}
}

// loseBackend has streams flow while a Service loses the backend of some.
// Those break; that their ends are not INVALID is for the caller to see.
func (l lab) loseBackend() {
	l.t.Helper()
	service := strings.ReplaceAll(l.udpService("shrinking"), "UDP", "TCP")
	l.apply(service)
	addr := netip.AddrPortFrom(vip.Next().Next(), 80)
	l.eventually("the service answers", func() error {
		_, _, err := l.page(router, "http://"+addr.String()+"/")
		return err
	})
	streams, err := traffic.OpenStreams(l.t.Context(), l.host(router), addr, 30, 50*time.Millisecond)
	l.must(err)
	defer streams.Close()

	lost := "- addresses: [" + l.podAddrs()[podW0] + "]"
	begin := strings.Index(service, lost)
	if begin < 0 {
		l.t.Fatalf("no %q in\n%s", lost, service)
	}
	end := begin + len(lost)
	if next := strings.Index(service[end:], "- addresses:"); next >= 0 {
		end += next
	} else {
		end = len(service)
	}
	l.apply(service[:begin] + service[end:])
	without := 0
	l.eventually("no new connection leads to "+podW0, func() error {
		pod, _, err := l.page(router, "http://"+addr.String()+"/")
		if err != nil {
			return err
		}
		if without++; pod == podW0 {
			without = 0
		}
		if without < 40 { // of three backends, one is missed by chance once in 10 million
			return fmt.Errorf("%d in a row did not", without)
		}
		return nil
	})
	l.t.Logf("streams of a service that lost %s:\n%s", podW0, streams.Result())
}

// onNodes is the traffic of clients on the nodes: of pods and of the nodes
// themselves. Netfilter sees both halves of it.
func (l lab) onNodes(rules ruleset) {
	l.t.Helper()
	addrs := l.podAddrs()
	l.serveOutside()
	for _, node := range nodes {
		for _, client := range []string{node, clientOn(node)} {
			for _, to := range nodes {
				l.fetches(client, addrs[podOf[to]])
			}
			l.fetches(client, routerAddr+":8080")
			switch {
			case rules.translated != nil:
				for range nodes { // the rules take turns
					l.fetches(client, clusterIP)
					l.fetches(client, vipText)
				}
			case node != l.holder(): // which has no way to its own VIP
				l.fetchesAll(client, podOf[node], podOf[other(node)])
			}
		}
	}
	rules.unhit(l, "of clients on nodes were INVALID", rules.invalid)
}

// fetchesAll wants answers from the VIP until each of the pods has given one.
func (l lab) fetchesAll(from string, pods ...string) {
	l.t.Helper()
	missing := map[string]bool{}
	for _, pod := range pods {
		missing[pod] = true
	}
	for tries := 0; len(missing) > 0 && tries < 200 && !l.t.Failed(); tries++ {
		delete(missing, l.fetches(from, vipText))
	}
	if len(missing) > 0 {
		l.t.Errorf("from %s: the VIP never led to %v", from, missing)
	}
}

// fetches wants an answer, within the second in which no SYN is sent twice, and
// returns the pod that gave it. A machine that is busy may be late, and is asked again;
// what loses a SYN each time is late each time.
func (l lab) fetches(from, address string) (pod string) {
	l.t.Helper()
	const soon = 900 * time.Millisecond
	var took time.Duration
	for try := 0; try == 0 || took > soon && try < 3; try++ {
		begin := time.Now()
		var err error
		if pod, _, err = l.page(from, "http://"+address+"/"); err != nil {
			l.t.Errorf("from %s to %s: %v", from, address, err)
			return pod
		}
		took = time.Since(begin)
	}
	if took > soon {
		l.t.Errorf("from %s to %s: answered after %s, again and again", from, address, ms(took))
	}
	return pod
}

// serveOutside has the router answer as a pod does, on port 8080.
func (l lab) serveOutside() {
	l.t.Helper()
	var listener net.Listener
	l.must(l.host(router).Do(func() (err error) {
		listener, err = net.Listen("tcp", routerAddr+":8080")
		return err
	}))
	l.t.Cleanup(func() { listener.Close() })
	go http.Serve(listener, webpod.Handler("outside"))
}
