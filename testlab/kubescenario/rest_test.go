package kubescenario

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
)

// fiveNodes is the default topology with two more nodes on the segment that
// addresses are announced on.
func fiveNodes(t *testing.T) (topology testlab.Topology, nodes []string) {
	t.Helper()
	topology = testlab.DefaultTopology()
	for i, name := range []string{"k8s-w2", "k8s-w3"} {
		model := topology.Hosts[slices.IndexFunc(topology.Hosts, func(h testlab.HostSpec) bool { return h.Name == w1 })]
		model.Name = name
		model.PodCIDRs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("172.20.%d.0/24", 3+i))}
		model.Interfaces = slices.Clone(model.Interfaces)
		for j, subnet := range []string{"10.0.2", "192.168.10"} {
			model.Interfaces[j].Addresses = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("%s.%d/24", subnet, 103+i))}
		}
		topology.Hosts = append(topology.Hosts, model)
	}
	for _, h := range topology.Hosts {
		if h.Role == testlab.RoleNode {
			nodes = append(nodes, h.Name)
		}
	}
	return topology, nodes
}

// atRest is what the daemons ask of an API server while nothing happens.
type atRest struct{ renewals, election, otherWrites, reads int }

// TestAtRest: what announcing costs the API server when nothing happens is a
// write per second and node, and one for the election, however many addresses
// are announced.
func TestAtRest(t *testing.T) {
	t.Parallel()
	topology, nodes := fiveNodes(t)
	l := up(t, testlab.Config{Topology: topology})
	l.apply(`apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: front}
spec: {interfaces: [^eth1$], externalIPs: true}
`)
	const services, each = 10, 500
	var found []atRest
	for _, addresses := range []int{1, each} { // of each Service
		var manifests strings.Builder
		for i := range services {
			var ips []string
			for j := range addresses {
				ips = append(ips, netip.AddrFrom4([4]byte{10, 50, byte(2*i + j/250), byte(1 + j%250)}).String())
			}
			fmt.Fprintf(&manifests, "---\napiVersion: v1\nkind: Service\nmetadata: {name: rest-%d, namespace: default}\nspec: {ports: [{port: 80}], externalIPs: [%s]}\n",
				i, strings.Join(ips, ", "))
		}
		l.apply(manifests.String())
		l.announcedBy(nodes, services*addresses)
		found = append(found, l.atRest(nodes))
	}
	perSecond := func(n int) float64 { return float64(n) / idleFor.Seconds() }
	t.Logf("requests per second of %d daemons at rest\n%12s %10s %10s %10s %10s", len(nodes), "addresses", "renewals", "election", "writes", "reads")
	for i, f := range found {
		t.Logf("%12d %10.2f %10.2f %10.2f %10.2f", services*[]int{1, each}[i], perSecond(f.renewals), perSecond(f.election), perSecond(f.otherWrites), perSecond(f.reads))
		if seconds := int(idleFor.Seconds()); f.renewals > len(nodes)*(seconds+1) || f.election > seconds+2 || f.renewals == 0 {
			t.Errorf("%d renewals of %d nodes and %d of the coordinator's election in %v: want one a second each", f.renewals, len(nodes), f.election, idleFor)
		}
		if f.otherWrites > 0 {
			t.Errorf("%d writes other than of leases", f.otherWrites)
		}
	}
	if few, many := found[0].reads, found[1].reads; many > few+20 {
		t.Errorf("%d reads with %d addresses, %d with %d", many, services*each, few, services)
	}
}

// announcedBy waits until n addresses are announced, by these nodes.
func (l lab) announcedBy(nodes []string, n int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%d addresses are announced", n), func() error {
		held := 0
		for _, node := range nodes {
			dump, err := l.try(node, "seamark", "bpf", "lb", "list")
			if err != nil {
				return err
			}
			held += strings.Count("\n"+dump, "\nannounced ")
		}
		if held != n {
			return fmt.Errorf("kernels answer for %d", held)
		}
		return nil
	})
}

// atRest waits until the daemons write nothing but leases, and counts for a while.
func (l lab) atRest(nodes []string) (found atRest) {
	l.t.Helper()
	count := func(d time.Duration) (found atRest) {
		l.t.Helper()
		before := len(l.requests())
		select {
		case <-time.After(d): // it is this time that is measured
		case <-l.t.Context().Done():
		}
		for _, r := range l.requests()[before:] {
			switch {
			case !slices.Contains([]string{"create", "update", "patch", "delete"}, r.Verb):
				found.reads++
			case r.ObjectRef.Resource != "leases":
				found.otherWrites++
			case r.Response.Code >= 300:
				// Not made: it is tried again.
			case slices.Contains(nodes, r.ObjectRef.Name):
				found.renewals++
			default:
				found.election++
			}
		}
		return found
	}
	l.eventually("nothing happens", func() error {
		if n := count(3 * time.Second).otherWrites; n > 0 {
			return errors.New(fmt.Sprint(n, " writes"))
		}
		return nil
	})
	return count(idleFor)
}
