package datapath

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// The scripts run on fake maps that fail every operation once, and, as root,
// on the kernel's; the dumps are the same.
func TestScripts(t *testing.T) {
	t.Run("fake", func(t *testing.T) {
		runScripts(t, func(testing.TB) Maps {
			fake := NewFakeMaps()
			fake.FailEachOnce()
			return fake.Maps
		})
	})
	t.Run("kernel", func(t *testing.T) {
		if testing.Short() || os.Geteuid() != 0 {
			t.Skip("needs root and no -short: creates BPF maps")
		}
		runScripts(t, realMaps)
	})
}

func runScripts(t *testing.T, newMaps func(testing.TB) Maps) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Values["node"] = newScriptNode(newMaps(env.T().(testing.TB)))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// apply FILE: the Services and EndpointSlices of the file exist.
			"apply": scriptCmd(1, func(ts *testscript.TestScript, n *scriptNode, args []string) error {
				return n.apply(ts.ReadFile(args[0]))
			}),
			// delete service|endpointslice NAMESPACE/NAME
			"delete": scriptCmd(2, func(_ *testscript.TestScript, n *scriptNode, args []string) error {
				return n.delete(args[0], args[1])
			}),
			// announce ADDR, withdraw ADDR: this node answers ARP for the address, or no longer.
			"announce": scriptCmd(1, func(_ *testscript.TestScript, n *scriptNode, args []string) error {
				row := state.Announcement{Addr: netip.MustParseAddr(args[0]), Interface: "eth1"}
				n.writer.Update(func(tx *state.Tx) { n.db.Announcements.Put(tx, row) })
				return nil
			}),
			"withdraw": scriptCmd(1, func(_ *testscript.TestScript, n *scriptNode, args []string) error {
				n.writer.Update(func(tx *state.Tx) { n.db.Announcements.Delete(tx, args[0]+"@eth1") })
				return nil
			}),
			// reconcile: decide, and bring the rows into the maps, until nothing is left to do.
			"reconcile": scriptCmd(0, func(_ *testscript.TestScript, n *scriptNode, _ []string) error { return n.reconcile() }),
			// run DURATION: the daemon runs on for so long.
			"run": scriptCmd(1, func(_ *testscript.TestScript, n *scriptNode, args []string) error {
				d, err := time.ParseDuration(args[0])
				for end := n.now.Add(d); err == nil && n.now.Before(end); n.now = n.now.Add(max(d/12, 10*time.Second)) {
					n.reconciler.Step(context.Background(), n.db.Snapshot())
					err = n.refresh()
				}
				return err
			}),
			// restart: the daemon is another process, which knows nothing.
			"restart": scriptCmd(0, func(_ *testscript.TestScript, n *scriptNode, _ []string) error { n.start(); return nil }),
			// frontends, dump: the table, and the maps, on stdout.
			"frontends": scriptCmd(0, func(ts *testscript.TestScript, n *scriptNode, _ []string) error { return n.frontends(ts.Stdout()) }),
			"dump":      scriptCmd(0, func(ts *testscript.TestScript, n *scriptNode, _ []string) error { return n.dump(ts.Stdout()) }),
		},
	})
}

func scriptCmd(args int, do func(*testscript.TestScript, *scriptNode, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, given []string) {
		if neg || len(given) != args {
			ts.Fatalf("want %d arguments, and no !", args)
		}
		ts.Check(do(ts, ts.Value("node").(*scriptNode), given))
	}
}

// scriptNode is the node w1: its tables, its maps and what is between them.
type scriptNode struct {
	maps       Maps
	now        time.Time
	db         *state.DB
	writer     *state.Writer
	target     *FrontendTarget
	hops       *NextHops
	reconciler *state.Reconciler[state.Frontend]
}

func newScriptNode(maps Maps) *scriptNode {
	n := &scriptNode{maps: maps, now: time.Unix(1e9, 0)}
	n.start()
	return n
}

func (n *scriptNode) start() {
	n.db, n.writer = state.New()
	resolver := newFakeResolver()
	for node := range 3 { // wN's pods are 172.20.N.0/24
		gw := fmt.Sprintf("192.168.10.10%d", node)
		gw6 := fmt.Sprintf("fe80::%d", node)
		resolver.neighbour(gw, 2, byte(node))
		resolver.neighbour(gw6, 2, byte(node))
		for pod := range 10 {
			resolver.routes[fmt.Sprintf("172.20.%d.%d", node, pod)] = gw + " 2"
			resolver.routes[fmt.Sprintf("fd00:20:%d::%d", node, pod)] = gw6 + " 2"
		}
	}
	clock := func() time.Time { return n.now }
	n.hops = NewNextHops(n.maps, resolver, discard)
	n.target = NewFrontendTarget(n.maps, n.hops, "w1", discard)
	n.target.Now, n.target.Hash = clock, testHash
	n.target.NodeAddrs = func(node string) NodeAddrs {
		index, _ := strings.CutPrefix(node, "w")
		return NodeAddrs{netip.MustParseAddr("192.168.10.10" + index), netip.MustParseAddr("fd00::10" + index)}
	}
	n.reconciler = &state.Reconciler[state.Frontend]{
		DB: n.db, Writer: n.writer, Table: n.db.Frontends, Target: n.target, Log: discard, Now: clock,
		Gate: func(s state.Snapshot) bool { return n.db.Services.Synced(s) && n.db.EndpointSlices.Synced(s) },
		Hold: HoldWhileAnnounced(n.db), Resync: time.Second, MaxBackoff: 200 * time.Millisecond,
	}
}

func (n *scriptNode) reconcile() error {
	n.writer.Update(func(tx *state.Tx) {
		n.db.Services.MarkSynced(tx)
		n.db.EndpointSlices.MarkSynced(tx)
	})
	rows, _ := FrontendsOf(n.db, n.db.Snapshot(), "w1", Defaults{})
	n.writer.Update(func(tx *state.Tx) { state.Want(tx, n.db.Frontends, rows, n.now) })
	if err := n.refresh(); err != nil {
		return err
	}
	for range 500 {
		next := n.reconciler.Step(context.Background(), n.db.Snapshot())
		if n.settled() {
			return n.refresh()
		}
		// No further than the next retry: the drain's grace counts on this clock too.
		n.now = n.now.Add(min(max(next.Sub(n.now), 0), 100*time.Millisecond))
	}
	return errors.New("rows are still not done after 500 steps")
}

// refresh is what NextHops.Run does at once and after every failure.
func (n *scriptNode) refresh() (err error) {
	for range 20 {
		if err = n.hops.Refresh(true, true, n.target.RewriteNextHops); err == nil {
			return nil
		}
	}
	return err
}

func (n *scriptNode) settled() bool {
	snap := n.db.Snapshot()
	for row := range n.db.Frontends.All(snap) {
		if row.Status.Phase != state.Done && row.Status.Reason == "" {
			return false
		}
	}
	return state.Marked(snap, state.PrunedMark(n.db.Frontends.Name()))
}

func (n *scriptNode) dump(w io.Writer) error {
	var err error
	for range 100 { // its reads are injected failures too
		var out bytes.Buffer
		if err = n.maps.Dump(&out, nil); err == nil {
			_, err = out.WriteTo(w)
			return err
		}
	}
	return err
}

func (n *scriptNode) frontends(w io.Writer) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for row := range n.db.Frontends.All(n.db.Snapshot()) {
		var backends []string
		for _, b := range row.Backends {
			backends = append(backends, netip.AddrPortFrom(b.Addr, b.Port).String())
		}
		status := row.Status.Phase.String()
		if row.Status.Reason != "" {
			status += "(" + string(row.Status.Reason) + ")"
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s\n", row.RowKey(), row.Kind, row.Service, status, strings.Join(backends, " "))
	}
	return tab.Flush()
}

func (n *scriptNode) apply(manifest string) error {
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		var doc struct {
			Kind string `json:"kind"`
			corev1.Service
			Endpoints []discoveryv1.Endpoint     `json:"endpoints"`
			Ports     []discoveryv1.EndpointPort `json:"ports"`
		}
		if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		name := state.ObjectName{Namespace: doc.Namespace, Name: doc.Name}
		n.writer.Update(func(tx *state.Tx) {
			switch doc.Kind {
			case "Service":
				n.db.Services.Put(tx, serviceRow(name, doc.Service))
			case "EndpointSlice":
				n.db.EndpointSlices.Put(tx, sliceRow(name, doc.Labels[discoveryv1.LabelServiceName], doc.Endpoints, doc.Ports))
			}
		})
	}
}

func (n *scriptNode) delete(kind, name string) error {
	switch kind {
	case "service":
		n.writer.Update(func(tx *state.Tx) { n.db.Services.Delete(tx, name) })
	case "endpointslice":
		n.writer.Update(func(tx *state.Tx) { n.db.EndpointSlices.Delete(tx, name) })
	default:
		return fmt.Errorf("delete %s: unknown kind", kind)
	}
	return nil
}

var protocols = map[corev1.Protocol]state.Protocol{
	"": state.TCP, corev1.ProtocolTCP: state.TCP, corev1.ProtocolUDP: state.UDP, corev1.ProtocolSCTP: state.SCTP,
}

func serviceRow(name state.ObjectName, svc corev1.Service) state.Service {
	row := state.Service{Name: name, Created: svc.CreationTimestamp.Time, Type: string(svc.Spec.Type),
		ExternalTrafficPolicyLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		row.Ingress = append(row.Ingress, netip.MustParseAddr(in.IP))
	}
	for _, ip := range svc.Spec.ExternalIPs {
		row.ExternalIPs = append(row.ExternalIPs, netip.MustParseAddr(ip))
	}
	for _, ip := range svc.Spec.ClusterIPs {
		row.ClusterIPs = append(row.ClusterIPs, netip.MustParseAddr(ip))
	}
	for _, prefix := range svc.Spec.LoadBalancerSourceRanges {
		row.SourceRanges = append(row.SourceRanges, netip.MustParsePrefix(prefix))
	}
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		row.Affinity = 3 * time.Hour
	}
	for _, p := range svc.Spec.Ports {
		row.Ports = append(row.Ports, state.ServicePort{Name: p.Name, Protocol: protocols[p.Protocol], Port: uint16(p.Port)})
	}
	return row
}

func sliceRow(name state.ObjectName, service string, endpoints []discoveryv1.Endpoint, ports []discoveryv1.EndpointPort) state.EndpointSlice {
	row := state.EndpointSlice{Name: name, Service: state.ObjectName{Namespace: name.Namespace, Name: service}}
	for _, p := range ports {
		row.Ports = append(row.Ports, state.EndpointPort{Name: deref(p.Name), Protocol: protocols[deref(p.Protocol)], Port: uint16(deref(p.Port))})
	}
	for _, e := range endpoints {
		ready := e.Conditions.Ready == nil || *e.Conditions.Ready
		for _, addr := range e.Addresses {
			row.Endpoints = append(row.Endpoints, state.Backend{Addr: netip.MustParseAddr(addr), Node: deref(e.NodeName), Ready: ready,
				Serving: e.Conditions.Serving == nil && ready || deref(e.Conditions.Serving), Terminating: deref(e.Conditions.Terminating)})
		}
	}
	slices.SortFunc(row.Endpoints, state.Backend.Compare)
	return row
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
