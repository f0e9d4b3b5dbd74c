package bench

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// router is a machine that serves by kube-proxy's nftables rules, and routes.
type router struct {
	namespace
	in, out cable
}

// forRouter is a way of serving that the router's rules are of.
var forRouter = way{name: "kube-proxy's nftables rules", vips: netip.MustParseAddr("10.111.0.0"), pods: netip.MustParseAddr("172.31.0.0")}

// newRouter makes a router; nil and why, where there cannot be one.
func newRouter(tb testing.TB, g *traffic) (*router, string) {
	tb.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		return nil, "there is no nft: install nftables"
	}
	r := &router{namespace: newNamespace(tb)}
	podNS := newNamespace(tb)
	r.in = connect(r.namespace, g.net, "in", netip.MustParsePrefix("192.168.20.0/24"))
	r.out = connect(r.namespace, podNS, "out", netip.MustParsePrefix("192.168.21.0/24"))
	r.route(netip.PrefixFrom(firstClient, 12), netip.MustParseAddr("192.168.20.2"))
	r.route(netip.PrefixFrom(forRouter.pods, 16), netip.MustParseAddr("192.168.21.2"))
	g.net.do(func() { g.sinkTC(g.net, "in") })
	podNS.do(func() { g.sinkTC(podNS, "out") })
	var why string
	r.do(func() {
		r.attachXDP("in", g.objects.TrafficPass)
		load := exec.Command(nft, "-f", "-")
		load.Stdin = strings.NewReader(ruleset(forRouter))
		if said, err := load.CombinedOutput(); err != nil {
			why = fmt.Sprintf("nft does not take the rules: %v: %.200s", err, said)
		}
	})
	if why != "" {
		return nil, why
	}
	return r, ""
}

// target is where packets for the router are sent.
func (r *router) target(g *traffic) target {
	return target{generator: g.objects.TrafficSend, device: r.in.far, to: r.in.near, vips: forRouter.vips}
}

// setting is a number of /proc/sys/net/netfilter, which need not be there.
func (r *router) setting(name string) (value uint32) {
	r.do(func() {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net/netfilter", name))
		if err == nil {
			n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
			value = uint32(n)
		}
	})
	return value
}

// connections counts those that the router knows.
func (r *router) connections() int { return int(r.setting("nf_conntrack_count")) }

// ruleset is what kube-proxy 1.33 makes, in its mode nftables, of LoadBalancer
// Services with the policy Cluster: chains and maps as there, with the names
// shortened. Of the maps for what no Service here has, those that every packet
// or connection is looked up in are there, empty.
func ruleset(w way) string {
	var b strings.Builder
	b.WriteString(`table ip kube-proxy {
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	set nodeport-ips { type ipv4_addr; elements = { 192.168.20.1 }; }
	set cluster-ips { type ipv4_addr; }
	chain reject-chain { reject; }
	chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
	chain masquerading {
		meta mark and 0x4000 == 0 return
		meta mark set meta mark xor 0x4000
		masquerade fully-random
	}
	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain cluster-ips-check { ip daddr @cluster-ips reject; }
`)
	for s := range services {
		var slots []string
		for e := range backends {
			pod := w.pod(s, e)
			fmt.Fprintf(&b, "\tchain endpoint-%d-%d { ip saddr %s jump mark-for-masquerade; meta l4proto tcp dnat to %s:8080; }\n", s, e, pod, pod)
			slots = append(slots, fmt.Sprintf("%d : goto endpoint-%d-%d", e, s, e))
		}
		fmt.Fprintf(&b, "\tchain service-%d { numgen random mod %d vmap { %s }; }\n", s, backends, strings.Join(slots, ", "))
		fmt.Fprintf(&b, "\tchain external-%d { jump mark-for-masquerade; goto service-%d; }\n", s, s)
	}
	b.WriteString("\tmap service-ips {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t\telements = {\n")
	for s := range services {
		fmt.Fprintf(&b, "\t\t\t%s . tcp . 80 : goto external-%d,\n", plus(w.vips, uint32(s)), s)
	}
	b.WriteString(`		}
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
	chain filter-input { type filter hook input priority -110; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }
	chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }
	chain filter-output { type filter hook output priority -110; ct state new jump service-endpoints-check; ct state new jump firewall-check; }
	chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
}
`)
	return b.String()
}
