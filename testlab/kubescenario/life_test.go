package kubescenario

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
)

// pool is the demo's, with another first address.
func pool(start string) string {
	return fmt.Sprintf("{apiVersion: seamark.dev/v1alpha1, kind: IPPool, metadata: {name: lab}, spec: {blocks: [{start: %s, stop: 192.168.10.215}]}}", start)
}

// balanced is a Service that leads to the webpods. With class "" it has none;
// more goes into its metadata.
func balanced(name, class, more string) string {
	manifest := "{apiVersion: v1, kind: Service, metadata: {name: " + name + ", namespace: default, " + more + "}, " +
		"spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}], allocateLoadBalancerNodePorts: false"
	if class != "" {
		manifest += ", loadBalancerClass: " + class
	}
	return manifest + "}}"
}

// TestLife: the demo's scenario by kubectl, and what may become of each of its
// objects.
func TestLife(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{})
	l.applyDemo()
	l.given("webpod", vipText)
	for _, part := range []struct {
		name string
		test func(lab)
	}{
		{"kubectl shows it", lab.shown},
		{"the router reaches it", lab.reached},
		{"the pool is deleted and created again", lab.poolAgain},
		{"the pool shrinks", lab.poolShrinks},
		{"the Service is deleted and created again", lab.serviceAgain},
		{"type", lab.otherTypes},
		{"class", lab.otherClasses},
		{"finalizer", lab.finalizer},
		{"externalIPs", lab.externalIPs},
		{"a pod is deleted and created again", lab.podAgain},
		{"the holder's Node is deleted and registered again", lab.nodeAgain},
		{"the holder loses its power", lab.powerCut},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.test(l.in(t)) }) {
			t.FailNow() // each goes on from where the one before left off
		}
	}
}

func (l lab) shown() {
	out := l.kubectl("get", "services", "webpod", "--no-headers")
	if fields := strings.Fields(out); len(fields) < 4 || fields[1] != "LoadBalancer" || fields[3] != vipText {
		l.t.Errorf("its EXTERNAL-IP is not %s:\n%s", vipText, out)
	}
	if in := mustGet(l, "webpod").Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IPMode != "VIP" {
		l.t.Errorf("ingress %+v", in)
	}
	l.kubectl("wait", "--for=condition=seamark.dev/IPAMRequestSatisfied", "service/webpod", "--timeout=60s")
	l.told("service", "webpod", "Normal", "AddressAssigned", vipText+" of pool lab")
	l.told("service", "webpod", "Normal", "Announced", vipText+" is announced by node "+l.holder()+" on eth1")

	l.available("lab", "4")
	out = l.kubectl("get", "ippools.seamark.dev")
	header, row, _ := strings.Cut(out, "\n")
	if got := strings.Join(strings.Fields(header), " "); got != "NAME DISABLED CONFLICTING IPS AVAILABLE AGE" {
		l.t.Errorf("columns %s", got)
	}
	if fields := strings.Fields(row); len(fields) != 5 || !slices.Equal(fields[:4], []string{"lab", "false", "False", "4"}) {
		l.t.Errorf("row %q", row)
	}
	for _, object := range []string{"ippools.seamark.dev/lab", "l2policies.seamark.dev/lab"} {
		l.kubectl("wait", "--for=condition=seamark.dev/Accepted", object, "--timeout=60s")
	}
}

func (l lab) reached() {
	out := strings.ToLower(l.run(router, "arping", "-I", "eth1", "-c", "3", vipText))
	if n := strings.Count(out, "["+l.mac(l.holder())+"]"); n != 3 || strings.Count(out, "[") != n {
		l.t.Errorf("arping: want 3 answers of %s, %s\n%s", l.holder(), l.mac(l.holder()), out)
	}
	l.run(router, "ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", vipText)
	met := map[string]int{}
	for range 60 {
		pod, client, err := l.page(router, "http://"+vipText+"/")
		l.must(err)
		if client != routerAddr {
			l.t.Fatalf("%s saw %s as its client, want %s", pod, client, routerAddr)
		}
		met[pod]++
	}
	l.t.Logf("60 requests: %v", met)
	for _, pod := range pods {
		if met[pod] == 0 {
			l.t.Errorf("no request went to %s", pod)
		}
	}
	// The whole of it, as a person does it.
	if out := l.run(router, "curl", "-s", "--max-time", "5", vipText); !strings.Contains(out, "Hostname: webpod-") {
		l.t.Errorf("curl: %s", out)
	}
}

func mustGet(l lab, name string) service {
	l.t.Helper()
	s, err := l.service(name)
	l.must(err)
	return s
}

func (l lab) poolAgain() {
	l.kubectl("delete", "ippools.seamark.dev", "lab")
	l.eventually("the Service is told why it has no address", func() error {
		if s := mustGet(l, "webpod"); s.address() != "" || s.reason() != "NoPool" {
			return fmt.Errorf("status %+v", s.Status)
		}
		return nil
	})
	l.withdrawn(vipText)
	l.told("service", "webpod", "Warning", "AddressReleased", vipText+": no pool holds it any longer")
	l.told("service", "webpod", "Warning", "NoPool", "create one")
	if r := l.askedFor(vipText, time.Second); len(r.Holders) > 0 {
		l.t.Errorf("somebody answers for %s: %s", vipText, r)
	}
	l.apply(pool(vipText))
	l.given("webpod", vipText)
	l.answers()
}

// poolShrinks: who has an address that is no longer in the pool gets another,
// and all others keep theirs.
func (l lab) poolShrinks() {
	l.apply(balanced("second", "", ""))
	l.given("second", "192.168.10.212")
	l.apply(pool("192.168.10.212"))
	l.given("webpod", "192.168.10.213")
	l.given("second", "192.168.10.212")
	l.withdrawn(vipText)
	l.told("service", "webpod", "Warning", "AddressReleased", vipText+": no pool holds it any longer")
	l.answersAt("192.168.10.213")
	l.available("lab", "2")

	// What it has now it keeps when its old address is back.
	l.apply(pool(vipText))
	l.available("lab", "3")
	l.given("webpod", "192.168.10.213")
	l.kubectl("delete", "service", "second")
	l.available("lab", "4")
}

// serviceAgain: its address is free at once, and the next one has the lowest.
func (l lab) serviceAgain() {
	l.kubectl("delete", "service", "webpod")
	l.withdrawn("192.168.10.213")
	l.available("lab", "5")
	l.apply(balanced("first", "", ""))
	l.given("first", vipText)
	l.answersAt(vipText)
	l.kubectl("delete", "service", "first")
	l.applyDemo()
	l.given("webpod", vipText)
	l.reaches(pods...)
	// Created anew between two looks, it is another Service.
	l.kubectl("replace", "--force", "-f", absolute(l, demoManifests+"/service.yaml"))
	l.given("webpod", vipText)
	l.reaches(pods...)
}

func (l lab) otherTypes() {
	setType := func(name, kind string) {
		l.t.Helper()
		l.kubectl("patch", "service", name, "--type=merge", "-p", `{"spec":{"type":"`+kind+`"}}`)
	}
	l.apply(balanced("typed", "", ""))
	l.given("typed", "192.168.10.212")
	l.answersAt("192.168.10.212")
	if s := mustGet(l, "typed"); s.Spec.Ports[0].NodePort != 0 {
		l.t.Errorf("it has a NodePort although it wants none: %+v", s.Spec)
	}
	for _, kind := range []string{"ClusterIP", "NodePort"} {
		setType("typed", kind)
		l.bare("typed", "192.168.10.212")
		l.available("lab", "4")
		if r := l.askedFor("192.168.10.212", 500*time.Millisecond); len(r.Holders) > 0 {
			l.t.Errorf("somebody answers for the address of a Service of type %s: %s", kind, r)
		}
		setType("typed", "LoadBalancer")
		l.given("typed", "192.168.10.212")
		l.answersAt("192.168.10.212")
	}
	l.kubectl("delete", "service", "typed")
	l.available("lab", "4")
}

// otherClasses: the class of a Service cannot change while it is of type
// LoadBalancer, so it comes by another type, or with another Service.
func (l lab) otherClasses() {
	_, err := l.tryKubectl("patch", "service", "webpod", "--type=merge", "-p", `{"spec":{"loadBalancerClass":"example.com/other"}}`)
	if err == nil || !strings.Contains(err.Error(), "may not change once set") {
		l.t.Errorf("its class changed: %v", err)
	}
	const address = "192.168.10.212"
	next := func(name, class, want string) {
		l.t.Helper()
		l.apply(balanced(name, class, ""))
		l.given(name, want)
		l.answersAt(want)
	}
	next("classy", "seamark.dev/l2", address)
	l.kubectl("delete", "service", "classy")
	l.available("lab", "4")

	// One of another's comes first and asks for nothing of ours: the next gets its address.
	l.apply(balanced("classy", "example.com/other", ""))
	next("after", "", address)
	if s := mustGet(l, "classy"); s.address() != "" || len(s.Status.Conditions) > 0 {
		l.t.Errorf("Seamark wrote to a Service of another class: %+v", s.Status)
	}
	l.kubectl("delete", "service", "classy")
	next("classy", "", "192.168.10.213")

	// By another type to another class, and back.
	for _, patch := range []string{`{"spec":{"type":"ClusterIP"}}`, `{"spec":{"type":"LoadBalancer","loadBalancerClass":"example.com/other"}}`} {
		l.kubectl("patch", "service", "classy", "--type=merge", "-p", patch)
		l.bare("classy", "192.168.10.213")
	}
	// At once: Seamark may see only the class change.
	l.kubectl("patch", "service", "classy", "--type=merge", "-p", `{"spec":{"type":"ClusterIP"}}`)
	l.kubectl("patch", "service", "classy", "--type=merge", "-p", `{"spec":{"type":"LoadBalancer","loadBalancerClass":null}}`)
	l.given("classy", "192.168.10.213")
	l.kubectl("delete", "service", "classy", "after")
	l.available("lab", "4")
}

// finalizer: one that a cloud controller left does not keep a Service for ever.
func (l lab) finalizer() {
	l.apply(balanced("final", "", "finalizers: [service.kubernetes.io/load-balancer-cleanup]"))
	l.given("final", "192.168.10.212")
	l.kubectl("delete", "service", "final", "--timeout=60s") // returns when it is gone
	l.withdrawn("192.168.10.212")
	l.available("lab", "4")
}

// externalIPs are served, but not what is somebody's (CVE-2020-8554): w1's
// address, that of the nodes' gateway, and one of the pool.
func (l lab) externalIPs() {
	l.apply(`{apiVersion: v1, kind: Service, metadata: {name: claims, namespace: default}, spec: {
		selector: {app: webpod}, ports: [{name: http, port: 80}],
		externalIPs: [192.168.10.101, 192.168.10.200, 192.168.10.214, 192.168.10.230]}}`)
	l.answersAt("192.168.10.230")
	const reason = "NotHonoured"
	l.told("service", "claims", "Warning", reason, "192.168.10.101 is the address of node k8s-w1")
	l.told("service", "claims", "Warning", reason, "192.168.10.200 is a gateway of ")
	l.told("service", "claims", "Warning", reason, "192.168.10.214 is in pool lab")
	l.told("service", "claims", "Normal", "Announced", "192.168.10.230 is announced by ")
	l.withdrawn("192.168.10.101", l.nodePorts()...)
	l.withdrawn("192.168.10.200")
	l.withdrawn("192.168.10.214")
	if r := l.askedFor("192.168.10.214", time.Second); len(r.Holders) > 0 {
		l.t.Errorf("somebody answers for the pool's address: %s", r)
	}
	l.held(l.askedFor("192.168.10.101", time.Second), l.mac(w1)) // its kernel does
	l.kubectl("delete", "service", "claims")
	l.withdrawn("192.168.10.230")
}

// podAgain: the real controller takes a deleted pod out of the EndpointSlice.
func (l lab) podAgain() {
	manifest := l.manifest("pod", podW0)
	l.kubectl("delete", "pod", podW0, "--timeout=60s")
	l.spared(w0)
	for range 20 {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		l.must(err)
		if pod == podW0 {
			l.t.Fatal("a deleted pod answers")
		}
	}
	l.apply(manifest)
	l.must(l.SetReady(l.t.Context(), true, podW0))
	l.reaches(pods...)
}

// manifest is an object as somebody would create it again.
func (l lab) manifest(kind, name string) string {
	l.t.Helper()
	var object map[string]any
	l.must(json.Unmarshal([]byte(l.kubectl("get", kind, name, "-o", "json")), &object))
	metadata := object["metadata"].(map[string]any)
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
		delete(metadata, field)
	}
	data, err := json.Marshal(object)
	l.must(err)
	return string(data)
}

// nodeAgain: what is no node of the cluster announces nothing; what was once
// does not get it back.
func (l lab) nodeAgain() {
	old := l.holder()
	manifest := l.manifest("node", old)
	oldMAC := l.mac(old)
	arp, probe := l.watchARP(), l.probe()
	l.kubectl("delete", "node", old, "--timeout=60s")
	now := l.movedFrom(old)
	l.told("service", "webpod", "Normal", "Announced", vipText+" is announced by node "+now+" on eth1, instead of node "+old+": NotCandidate")
	l.answers()

	l.apply(manifest)
	l.leased(old)
	l.reaches(pods...)
	// A new address shows that placement has had its say since.
	l.apply(balanced("placed", "", ""))
	l.given("placed", "192.168.10.212")
	if still := l.holder(); still != now {
		l.t.Errorf("the VIP went on to %s", still)
	}
	l.kubectl("delete", "service", "placed")
	l.t.Logf("new connections: %s", probe())
	l.movedOnce(arp(), oldMAC, l.mac(now))
}

// powerCut: the holder, which is also the coordinator, loses its power. Its pod
// stays an endpoint until the connections have been judged: a change of backends
// also moves a few Maglev slots between those that stay.
func (l lab) powerCut() {
	old := l.holder()
	l.coordinate(old)
	if now := l.holder(); now != old {
		l.t.Fatalf("restarts moved the VIP from %s to %s", old, now)
	}
	living := []string{podOf[other(old)], podW0}
	oldMAC := l.mac(old)
	streams, arp, probe := l.streams(60), l.watchARP(), l.probe()
	l.must(l.PowerOff(old))
	now := l.movedFrom(old)
	l.flowing(streams, living...)
	l.unbroken(streams, living...)
	streams.Close()
	// The next coordinator may be elected before the lease is over, and finds the segment without the node.
	moved := vipText + " is announced by node " + now + " on eth1, instead of node " + old
	l.told("service", "webpod", "Normal", "Announced", moved+": LeaseExpired", moved+": CutOff")
	l.must(l.SetReady(l.t.Context(), false, podOf[old])) // as the node controller does
	l.spared(old)
	for range 30 {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		l.must(err)
		if pod == podOf[old] {
			l.t.Fatalf("%s answered, which has no power", pod)
		}
	}
	l.t.Logf("new connections, a third of them to the dead pod: %s", probe())

	l.must(l.PowerOn(l.t.Context(), old))
	l.must(l.SetReady(l.t.Context(), true, podOf[old]))
	l.leased(old)
	l.reaches(pods...)
	if still := l.holder(); still != now {
		l.t.Errorf("the VIP went back to %s", still)
	}
	l.movedOnce(arp(), oldMAC, l.mac(now))
}
