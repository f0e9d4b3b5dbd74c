package coexist

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// Problems returns what on the named node keeps Seamark from its work, and
// what a person should do. outside are the names of the devices that the load
// balancer's programs run on, forwarding is what Services get that ask for none.
func Problems(f Findings, node string, outside []string, forwarding state.Forwarding) []state.Problem {
	var problems []state.Problem
	report := func(message, cure string) {
		problems = append(problems, state.Problem{Object: state.NodeRef(node), Message: message, Cure: cure})
	}
	if forwarding != state.ForwardKubeProxy { // which has no matter with who wires pods
		wiring(f, report)
	}
	if f.NoForwarding {
		report("net.ipv4.ip_forward is 0: packets to backends on other machines, and all that pods here send, are dropped",
			"sysctl -w net.ipv4.ip_forward=1, and find out who sets it to 0")
	}
	if f.AllStrict {
		report("net.ipv4.conf.all.rp_filter is 1, strict on every device: what a pod answers from a Service's address to a client on this same node is dropped",
			"sysctl -w net.ipv4.conf.all.rp_filter=0 (devices keep their own)")
	} else if strict := both(outside, f.Strict); len(strict) > 0 && len(outside) > 1 {
		report(fmt.Sprintf("the reverse-path filter of %s is strict, and there is more than one way out: what a backend on another segment answers directly to a client on this node is dropped, if it comes by another device than requests went by",
			strings.Join(strict, ", ")),
			fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2 (loose)", strict[0]))
	}
	if bridges := both(outside, f.Bridges); f.BridgeNetfilter && len(bridges) > 0 {
		report(fmt.Sprintf("%s is a bridge, and net.bridge.bridge-nf-call-iptables is 1: iptables, kube-proxy's rules too, translate and drop packets before Seamark has them",
			strings.Join(bridges, ", ")),
			"sysctl -w net.bridge.bridge-nf-call-iptables=0, or give the node's address to a device that is no bridge")
	}
	if answers := both(outside, f.AnyARP); slices.Contains(f.KubeProxy, ModeIPVS) && len(answers) > 0 {
		report(fmt.Sprintf("kube-proxy in mode ipvs keeps the Services' addresses on %s, and this node's kernel answers ARP for them on %s, also while another node announces them",
			ipvsDevice, strings.Join(answers, ", ")),
			"set ipvs.strictARP: true in kube-proxy's configuration, or use its mode nftables")
	}
	return problems
}

// unreached is what becomes of packets for a pod that seamark-cni has not
// wired: on its own node it gets them, translated, but its answers come from
// its own address; sent from another node, they are never unpacked.
const unreached = "Services' addresses do not lead to pods so wired: connections to them time out"

// wiring reports what else than seamark-cni wires this node's pods. Without
// any configuration there is nobody to say it of.
func wiring(f Findings, report func(message, cure string)) {
	own := slices.IndexFunc(f.CNI, func(c CNIConfig) bool { return slices.Contains(c.Plugins, OwnPlugin) })
	for i, c := range f.CNI {
		switch {
		case i == own:
			return
		case c.Err != "":
			report(fmt.Sprintf("network configuration %s is none (%s): some container runtimes then start no pod", c.File, c.Err),
				"correct or remove it")
		case own >= 0:
			report(fmt.Sprintf("pods are wired by %s: its configuration %s comes before %s; %s", c.Plugins[0], c.File, f.CNI[own].File, unreached),
				fmt.Sprintf("remove %s, or name it so that it comes later, and restart the pods", c.File))
			return
		default:
			report(fmt.Sprintf("pods are wired by %s (%s), not by %s; %s", c.Plugins[0], c.File, OwnPlugin, unreached),
				"leave their packets to kube-proxy (--forwarding-mode=kube-proxy; in the chart, forwardingMode=kube-proxy); or remove that CNI, install Seamark's (seamarkd install-cni; in the chart, cni.enabled=true), and restart the pods")
			return
		}
	}
}

// Notes returns what else there is to know of a node beside others, a line each.
func Notes(f Findings) []string {
	var notes []string
	if len(f.KubeProxy) > 0 {
		var modes []string
		for _, m := range f.KubeProxy {
			modes = append(modes, string(m))
		}
		notes = append(notes, fmt.Sprintf("kube-proxy (%s) serves ClusterIPs and NodePorts, and to clients on this node the Services' addresses; "+
			"what comes for these from outside Seamark takes before netfilter sees it", strings.Join(modes, ", ")))
	}
	byProduct := map[string][]string{}
	var products []string
	for _, d := range f.Devices {
		if d.Name == ipvsDevice {
			continue
		}
		if byProduct[d.Product] == nil {
			products = append(products, d.Product)
		}
		byProduct[d.Product] = append(byProduct[d.Product], d.Name)
	}
	if len(f.CNI) > 0 && slices.Contains(f.CNI[0].Plugins, OwnPlugin) {
		for _, p := range products {
			notes = append(notes, fmt.Sprintf("devices of %s are here (%s): pods that it wired are not reached by Services' addresses until they are restarted",
				p, some(byProduct[p])))
		}
	}
	return notes
}

// some joins a few names: a node may have hundreds.
func some(names []string) string {
	const few = 3
	if more := len(names) - few; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), more)
	}
	return strings.Join(names, ", ")
}

// both returns what of a is in b, too.
func both(a, b []string) []string {
	var in []string
	for _, s := range a {
		if slices.Contains(b, s) {
			in = append(in, s)
		}
	}
	return in
}
