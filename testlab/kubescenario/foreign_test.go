package kubescenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// foreignManifests are what users of Cilium and of MetalLB have: not one field
// or annotation in them is Seamark's.
const foreignManifests = `
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: blue}
spec:
  blocks: [{start: 192.168.10.211, stop: 192.168.10.215}]
  serviceSelector: {matchLabels: {color: blue}}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: blue}
spec:
  serviceSelector: {matchLabels: {color: blue}}
  nodeSelector: {matchLabels: {kubernetes.io/os: linux}}
  interfaces: [^eth1$]
  loadBalancerIPs: true
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: east, namespace: metallb-system, labels: {zone: east}}
spec:
  addresses: [192.168.10.220-192.168.10.223]
  serviceAllocation:
    priority: 50
    serviceSelectors: [{matchLabels: {team: metal}}]
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: silent, namespace: metallb-system}
spec:
  addresses: [192.168.10.232/30]
  autoAssign: false
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: east, namespace: metallb-system}
spec:
  ipAddressPoolSelectors: [{matchLabels: {zone: east}}]
  interfaces: [eth1]
` + foreignServices

const foreignServices = `
---
apiVersion: v1
kind: Service
metadata: {name: webpod, namespace: default, labels: {color: blue}}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: blue-asked, namespace: default, labels: {color: blue}, annotations: {lbipam.cilium.io/ips: 192.168.10.214}}
spec: {type: LoadBalancer, loadBalancerClass: io.cilium/l2-announcer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata:
  name: blue-shared
  namespace: default
  labels: {color: blue}
  annotations: {lbipam.cilium.io/ips: 192.168.10.213, lbipam.cilium.io/sharing-key: k}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: blue-sharing, namespace: default, labels: {color: blue}, annotations: {io.cilium/lb-ipam-sharing-key: k}}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 81, targetPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: metal, namespace: default, labels: {team: metal}}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: metal-asked, namespace: default, labels: {team: metal}, annotations: {metallb.io/loadBalancerIPs: 192.168.10.222}}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata:
  name: metal-shared
  namespace: default
  labels: {team: metal}
  annotations: {metallb.universe.tf/loadBalancerIPs: 192.168.10.223, metallb.universe.tf/allow-shared-ip: k}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: metal-sharing, namespace: default, labels: {team: metal}, annotations: {metallb.io/allow-shared-ip: k}}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 81, targetPort: 80}]}
---
apiVersion: v1
kind: Service
metadata:
  name: silent
  namespace: default
  annotations: {metallb.universe.tf/address-pool: silent, service.cilium.io/type: LoadBalancer}
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
`

// foreignPlaces are where the Services of foreignManifests are to be: the
// address, and whether a node announces it.
func foreignPlaces() map[string]string {
	return map[string]string{
		"webpod":        "192.168.10.211 announced",
		"blue-asked":    "192.168.10.214 announced",
		"blue-shared":   "192.168.10.213 announced",
		"blue-sharing":  "192.168.10.213 announced",
		"metal":         "192.168.10.220 announced",
		"metal-asked":   "192.168.10.222 announced",
		"metal-shared":  "192.168.10.223 announced",
		"metal-sharing": "192.168.10.223 announced",
		"silent":        "192.168.10.232", // no L2Advertisement is for its pool
	}
}

// places are where the Services of type LoadBalancer in namespace default are,
// as seamark says.
func (l lab) places() (map[string]string, error) {
	var list struct {
		Items []struct {
			service
			Metadata struct{ Name string }
			Spec     struct{ Type string }
		}
	}
	if err := l.tryJSON(&list, ctr, "get", "service", "-n", "default"); err != nil {
		return nil, err
	}
	var announcements []announcement
	if err := l.tryJSON(&announcements, ctr, "get", "announcement"); err != nil {
		return nil, err
	}
	announced := map[string]bool{}
	for _, a := range announcements {
		announced[a.Address.String()] = a.Node != ""
	}
	places := map[string]string{}
	for _, s := range list.Items {
		if s.Spec.Type != "LoadBalancer" {
			continue
		}
		places[s.Metadata.Name] = s.address()
		if announced[s.address()] {
			places[s.Metadata.Name] += " announced"
		}
	}
	return places, nil
}

// placed waits until the Services are where they are to be.
func (l lab) placed(want map[string]string) {
	l.t.Helper()
	l.eventually("all Services have their addresses", func() error {
		got, err := l.places()
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("they are\n%v, want\n%v", got, want)
		}
		return err
	})
}

// foreignKinds installs the CRDs of other projects that Seamark brings.
func (l lab) foreignKinds() {
	l.t.Helper()
	l.kubectl("apply", "-R", "-f", absolute(l, "../../deploy/crds-compat"))
	l.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
}

// TestForeign: other projects' manifests, by kubectl, as they are; their kinds
// come while the daemons run.
func TestForeign(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{})
	l.foreignKinds()
	l.kubectl("create", "namespace", "metallb-system")
	l.apply(foreignManifests)
	l.placed(foreignPlaces())
	for _, part := range []struct {
		name string
		test func(lab)
	}{
		{"they are reached", lab.foreignReached},
		{"statuses", lab.foreignStatuses},
		{"what is not honoured", lab.unhonoured},
		{"BGP", lab.foreignBGP},
		{"kinds go and come back", lab.kindsAgain},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(l.in(t)) })
	}
}

// TestForeignStandalone: the same manifests lead to the same in the standalone
// store.
func TestForeignStandalone(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{ControlPlane: "etcd"})
	h := l.host(api)
	cmd := h.Command(t.Context(), "seamark", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(foreignManifests)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if want := "Service default/silent: metadata.annotations[service.cilium.io/type]: "; !strings.Contains(string(out), "warning: ") ||
		!strings.Contains(string(out), want) {
		t.Errorf("no warning %q in\n%s", want, out)
	}
	l.placed(foreignPlaces())
	l.answers()
	for args, want := range map[string]string{
		"get ciliumloadbalancerippool":        "NAME DISABLED CONFLICTING IPS AVAILABLE AGE blue false False 2",
		"get ipaddresspool -n metallb-system": `NAME AUTO ASSIGN AVOID BUGGY IPS ADDRESSES`,
	} {
		if got := strings.Join(strings.Fields(l.seamark(ctr, strings.Fields(args)...)), " "); !strings.HasPrefix(got, want) {
			t.Errorf("seamark %s: %s, want %s", args, got, want)
		}
	}
}

func (l lab) foreignReached() {
	for name, place := range foreignPlaces() {
		address, announced := strings.CutSuffix(place, " announced")
		if strings.HasSuffix(name, "-sharing") {
			address += ":81"
		}
		if announced {
			l.answersAt(address)
		}
	}
}

// foreignStatuses: what the users of those projects look at is there.
func (l lab) foreignStatuses() {
	l.kubectlSays("NAME DISABLED CONFLICTING IPS AVAILABLE AGE blue false False 2 ", "get", "ciliumloadbalancerippools")
	l.kubectlSays("cilium.io/PoolConflict=False: cilium.io/IPsTotal=Unknown:5 cilium.io/IPsAvailable=Unknown:2 cilium.io/IPsUsed=Unknown:3 seamark.dev/Accepted=True:",
		"get", "ciliumloadbalancerippool", "blue", "-o", `go-template={{range .status.conditions}}{{.type}}={{.status}}:{{.message}}{{" "}}{{end}}`)
	for _, name := range []string{"webpod", "blue-asked"} {
		l.kubectl("wait", "--for=condition=cilium.io/IPAMRequestSatisfied", "--timeout=60s", "service/"+name)
		l.kubectl("wait", "--for=condition=seamark.dev/IPAMRequestSatisfied", "--timeout=60s", "service/"+name)
	}
	l.kubectl("wait", "--for=condition=seamark.dev/Announced", "--timeout=60s", "service/metal")
	if conditions := l.kubectl("get", "service", "metal", "-o", "jsonpath={.status.conditions[*].type}"); conditions != "seamark.dev/IPAMRequestSatisfied seamark.dev/Announced" {
		l.t.Errorf("conditions of a Service that has nothing of Cilium's: %s", conditions)
	}
	const counters = "jsonpath={.status.assignedIPv4} {.status.availableIPv4} {.status.assignedIPv6} {.status.availableIPv6} "
	l.kubectlSays("3 1 0 0", "get", "ipaddresspool", "-n", "metallb-system", "east", "-o", counters)
	l.kubectlSays("1 3 0 0", "get", "ipaddresspool", "-n", "metallb-system", "silent", "-o", counters)
	l.told("service", "webpod", "Normal", "AddressAssigned", vipText+" of pool CiliumLoadBalancerIPPool/blue")
	l.told("service", "metal", "Normal", "AddressAssigned", "192.168.10.220 of pool IPAddressPool/metallb-system/east")
	l.told("service", "silent", "Warning", "NotHonoured", "metadata.annotations[service.cilium.io/type]")
}

// foreignBGP: both projects' objects for BGP give each node its sessions, and say so
// in the shape that Cilium's users know.
func (l lab) foreignBGP() {
	const cluster = `apiVersion: cilium.io/v2
kind: CiliumBGPClusterConfig
metadata: {name: rack}
spec: {bgpInstances: [{name: a, localASN: 65001, peers: [{name: tor, peerASN: 65000, peerAddress: 192.168.10.201, peerConfigRef: {name: tor}}]}]}
`
	const config = `apiVersion: cilium.io/v2
kind: CiliumBGPPeerConfig
metadata: {name: tor}
spec: {timers: {holdTimeSeconds: 9}}
`
	const metallb = `apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router, namespace: metallb-system}
spec: {myASN: 65002, peerASN: 65000, peerAddress: 192.168.10.202}
`
	l.apply(cluster + "---\n" + metallb)
	l.kubectl("wait", "--for=condition=cilium.io/MissingPeerConfigs", "--timeout=60s", "ciliumbgpclusterconfig/rack")
	l.kubectl("wait", "--for=condition=seamark.dev/Accepted=False", "--timeout=60s", "ciliumbgpclusterconfig/rack")
	l.apply(config)
	for _, condition := range []string{"cilium.io/MissingPeerConfigs=False", "cilium.io/NoMatchingNode=False", "seamark.dev/Accepted"} {
		l.kubectl("wait", "--for=condition="+condition, "--timeout=60s", "ciliumbgpclusterconfig/rack")
	}
	l.kubectl("wait", "--for=condition=seamark.dev/Accepted", "--timeout=60s", "ciliumbgppeerconfig/tor")
	l.eventually("a node has the sessions", func() error {
		out := l.seamark(ctr, "bgp", "peers")
		for _, session := range [][]string{{"CiliumBGPClusterConfig/rack/a", "CiliumBGPClusterConfig/rack/a-tor", "192.168.10.201"},
			{"MetalLB/as65002", "BGPPeer/metallb-system/router", "192.168.10.202"}} {
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
				fields := strings.Fields(line)
				return len(fields) > 2 && slices.Equal(fields[:3], session)
			}) {
				return fmt.Errorf("no session %q in\n%s", session, out)
			}
		}
		return nil
	})
	_, err := l.tryWith(api, cluster+"---\n"+config+"---\n"+metallb, "kubectl", "delete", "-f", "-")
	l.must(err)
}

// goldenManifests are whole manifests of both projects' shapes, with what is
// to be found in them.
const goldenManifests = "../../source/foreign/testdata/"

// unhonoured: of each object of the golden manifests, what cannot be honoured
// is told by Events, and said in a condition where the kind has any.
func (l lab) unhonoured() {
	for _, name := range []string{"metallb", "cilium", "cilium_v2alpha1", "unhonoured"} {
		l.t.Run(name, func(t *testing.T) {
			l := l.in(t)
			archive, err := txtar.ParseFile(goldenManifests + name + ".txtar")
			l.must(err)
			files := map[string]string{}
			for _, f := range archive.Files {
				files[f.Name] = string(f.Data)
			}
			objects, manifests := l.complete(files["in.yaml"])
			defer func() {
				_, err := l.tryWith(api, manifests, "kubectl", "delete", "-f", "-", "--ignore-not-found")
				l.must(err)
			}()
			_, err = l.tryWith(api, manifests, "kubectl", "apply", "-f", "-", "--validate=false")
			l.must(err)
			wanted := slices.Collect(strings.Lines(files["findings.txt"]))
			for _, obj := range objects {
				l.findings(obj, wanted)
			}
			t.Logf("%d objects, %d findings", len(objects), len(wanted))
		})
	}
}

// complete makes the manifests what an API server takes: without what it sets
// itself, and Services with ports. The namespaces that they name are made.
func (l lab) complete(manifests string) (objects []*unstructured.Unstructured, text string) {
	l.t.Helper()
	for doc := range strings.SplitSeq(manifests, "\n---\n") {
		obj := &unstructured.Unstructured{}
		l.must(yaml.Unmarshal([]byte(doc), &obj.Object))
		for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
			unstructured.RemoveNestedField(obj.Object, "metadata", field)
		}
		if obj.GetKind() == "Service" {
			if _, ok, _ := unstructured.NestedSlice(obj.Object, "spec", "ports"); !ok {
				l.must(unstructured.SetNestedSlice(obj.Object, []any{map[string]any{"port": int64(80)}}, "spec", "ports"))
			}
			if obj.GetNamespace() == "" {
				obj.SetNamespace("default")
			}
		}
		if ns := obj.GetNamespace(); ns != "" {
			l.apply("{apiVersion: v1, kind: Namespace, metadata: {name: " + ns + "}}")
		}
		data, err := json.Marshal(obj.Object)
		l.must(err)
		objects = append(objects, obj)
		text += "---\n" + string(data) + "\n"
	}
	return objects, text
}

// findings waits until of the object is said what of the wanted findings is
// about it, a line "Kind [namespace/]name[ FATAL| UNRESOLVED]: field: message".
func (l lab) findings(obj *unstructured.Unstructured, wanted []string) {
	l.t.Helper()
	group := obj.GroupVersionKind().Group
	var fields []string
	name := strings.TrimPrefix(obj.GetNamespace()+"/"+obj.GetName(), "/")
	name = strings.TrimPrefix(name, "default/")
	for _, line := range wanted {
		if rest, ok := strings.CutPrefix(line, obj.GetKind()+" "+name+": "); ok {
			field, _, _ := strings.Cut(rest, ": ")
			if field == "extra" {
				continue // beside spec: the API server does not keep it
			}
			fields = append(fields, field+": ")
		}
	}
	l.eventually(fmt.Sprintf("of %s %s is said what is not honoured", obj.GetKind(), obj.GetName()), func() error {
		notes, err := l.notes(obj)
		if err != nil {
			return err
		}
		for _, field := range fields {
			if !slices.ContainsFunc(notes, func(note string) bool { return strings.HasPrefix(note, field) }) {
				return fmt.Errorf("no Event names %s in %q", field, notes)
			}
		}
		if group != "cilium.io" {
			return nil
		}
		return l.accepts(obj, fields)
	})
}

// notes are the notes of the Events that say of the object what is not honoured.
func (l lab) notes(obj *unstructured.Unstructured) ([]string, error) {
	namespace := obj.GetNamespace()
	if namespace == "" {
		namespace = "default"
	}
	out, err := l.tryKubectl("get", "events.events.k8s.io", "-n", namespace, "-o", "json",
		"--field-selector=reason=NotHonoured,regarding.kind="+obj.GetKind()+",regarding.name="+obj.GetName())
	if err != nil {
		return nil, err
	}
	var events struct {
		Items []struct{ Note string }
	}
	if err := json.Unmarshal([]byte(out), &events); err != nil {
		return nil, err
	}
	var notes []string
	for _, e := range events.Items {
		notes = append(notes, e.Note)
	}
	return notes, nil
}

// accepts is an error unless the object's condition names the fields that are
// not honoured, if there are any.
func (l lab) accepts(obj *unstructured.Unstructured, fields []string) error {
	kind := strings.ToLower(obj.GetKind()) + "." + obj.GroupVersionKind().Version + ".cilium.io"
	out, err := l.tryKubectl("get", kind, obj.GetName(), "-o",
		`jsonpath={range .status.conditions[?(@.type=="seamark.dev/Accepted")]}{.status} {.reason} {.message}{end}`)
	if err != nil {
		return err
	}
	want := "False NotHonoured "
	switch {
	case len(fields) > 0:
	case obj.GetKind() == "CiliumBGPAdvertisement" || obj.GetKind() == "CiliumBGPClusterConfig":
		want = "" // Seamark's own kind may have more to say
	default:
		want = "True Valid "
	}
	if out == "" || !strings.HasPrefix(out, want) {
		return fmt.Errorf("condition %q, want %s", out, want)
	}
	for _, field := range fields {
		if !strings.Contains(out, field) {
			return fmt.Errorf("condition %q does not name %s", out, field)
		}
	}
	return nil
}

// kindsAgain: to delete a CRD is to delete all objects of the kind, and Seamark
// does as it does then, each in its order: without policies addresses stay, and
// nobody announces them; without pools they are taken back. With the objects
// again, everything is where it was.
func (l lab) kindsAgain() {
	l.kubectl("delete", "crd", "ciliuml2announcementpolicies.cilium.io", "l2advertisements.metallb.io")
	quiet := foreignPlaces()
	for name, place := range quiet {
		quiet[name] = strings.TrimSuffix(place, " announced")
	}
	l.placed(quiet)
	l.told("service", "webpod", "Warning", "NotAnnounced", "no L2Policy announces it any longer")
	l.foreignKinds()
	l.apply(foreignManifests)
	l.placed(foreignPlaces())

	l.kubectl("delete", "crd", "ciliumloadbalancerippools.cilium.io", "ipaddresspools.metallb.io")
	none := foreignPlaces()
	for name := range none {
		none[name] = ""
	}
	l.placed(none)
	l.told("service", "webpod", "Warning", "AddressReleased", vipText+": no pool holds it any longer")
	for _, node := range nodes {
		s := l.status(node)
		if s.Store.Err != "" || !s.Ready {
			l.t.Errorf("without the kinds %s says %q, ready %v", node, s.Store.Err, s.Ready)
		}
	}
	if out, err := l.tryKubectl("wait", "--for=condition=cilium.io/IPAMRequestSatisfied=False", "--timeout=60s", "service/blue-asked"); err != nil {
		l.t.Error(errors.Join(err, errors.New(out)))
	}
	l.foreignKinds()
	l.apply(foreignManifests)
	l.placed(foreignPlaces())
	l.answers()
}
