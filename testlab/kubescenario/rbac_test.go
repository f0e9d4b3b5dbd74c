package kubescenario

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/testlab"
	"golang.org/x/tools/txtar"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// daemonUser is who the daemons are to the API server.
const daemonUser = "system:serviceaccount:seamark-system:seamarkd"

// request is a line of the audit log, as far as it says what was asked and
// what came of it.
type request struct {
	Verb       string
	RequestURI string
	User       struct{ Username string }
	ObjectRef  struct{ APIGroup, Resource, Subresource, Namespace, Name string }
	Response   struct {
		Code    int
		Message string
	} `json:"responseStatus"`
}

// right is one thing that a rule lets the daemons do.
type right struct{ role, group, resource, verb string }

func (r right) String() string {
	return fmt.Sprintf("%s: %s %s.%s", r.role, r.verb, r.resource, r.group)
}

// TestRights: in a life with everything in it the daemons are refused nothing,
// and there is no right that they do not use.
func TestRights(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{})
	l.live()
	requests := l.requests()
	verbs := map[string]int{}
	for _, r := range requests {
		verbs[r.Verb]++
		if r.Response.Code == 401 || r.Response.Code == 403 {
			t.Errorf("refused: %s %s: %s", r.Verb, r.RequestURI, r.Response.Message)
		}
	}
	t.Logf("%d requests of the daemons: %v", len(requests), verbs)
	if len(requests) < 100 {
		t.Errorf("no more than %d requests: this shows nothing", len(requests))
	}
	rights := granted(t)
	for _, r := range requests {
		resource := strings.TrimSuffix(r.ObjectRef.Resource+"/"+r.ObjectRef.Subresource, "/")
		for _, role := range []string{"ClusterRole", "Role"} {
			if role == "ClusterRole" || r.ObjectRef.Namespace == "seamark-system" {
				delete(rights, right{role, r.ObjectRef.APIGroup, resource, r.Verb})
			}
		}
	}
	for r := range rights {
		// A watch brings the list with it; API servers that cannot do that are asked for it.
		if r.verb != "list" {
			t.Errorf("granted, and never used: %s", r)
		}
	}

	for ask, want := range map[string]string{
		"delete services":               "no",
		"create services":               "no",
		"update services":               "no",
		"update services/status":        "no",
		"get secrets":                   "no",
		"get secrets -n seamark-system": "no", // it watches those that BGPPeers name
		"list secrets":                  "no",
		"list secrets -n kube-system":   "no",
		"list configmaps":               "no",
		"create pods":                   "no",
		"create pods/exec":              "no",
		"patch nodes":                   "no",
		"patch ippools.seamark.dev":     "no",
		"delete leases.coordination.k8s.io -n kube-system": "no",
		"update leases.coordination.k8s.io -n kube-system": "no",
		// For the finalizer: metadata has no subresource, so that this would
		// let it write the spec, too.
		"patch services": "yes",
	} {
		out, _ := l.tryKubectl(append([]string{"auth", "can-i", "--as=" + daemonUser}, strings.Fields(ask)...)...) // it fails with "no"
		if got := strings.TrimSpace(out); got != want {
			t.Errorf("may it %s? %s", ask, got)
		}
	}
}

// live has the daemons do all that they ever do with an API server.
func (l lab) live() {
	l.apply(`{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: gone, namespace: seamark-system, labels: {seamark.dev/node: gone}},
		spec: {holderIdentity: gone, leaseDurationSeconds: 3, renewTime: "2026-01-01T00:00:00.000000Z"}}`)
	l.foreignKinds()
	l.applyDemo()
	l.kubectl("create", "namespace", "metallb-system")
	l.apply(metallbObjects + loadBalanced("silent", "service.cilium.io/type: LoadBalancer", "") + `---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: blue}
spec: {blocks: [{cidr: 10.9.0.0/24}], disabled: true}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: blue}
spec: {loadBalancerIPs: true}
`)
	l.apply(metallb)
	l.metallbSeen()
	l.kubectl("delete", "-n", "metallb-system", "daemonset/speaker", "deployment/controller")
	l.kubectl("wait", "--for=jsonpath={.status.availableIPv4}", "--timeout=60s", "-n", "metallb-system", "ipaddresspool/first")
	l.repeated()

	// Kinds for BGP: their statuses say whether they are in force. One names a
	// Secret of another namespace, where a Role is for it alone.
	l.kubectl("create", "namespace", "network")
	l.kubectl("create", "role", "tor1", "-n", "network", "--verb=list,watch", "--resource=secrets", "--resource-name=tor1")
	l.kubectl("create", "rolebinding", "tor1", "-n", "network", "--role=tor1", "--serviceaccount=seamark-system:seamarkd")
	l.kubectl("apply", "-f", absolute(l, customManifests+"good"))
	l.password()
	for _, name := range []string{"metallb", "cilium"} {
		archive, err := txtar.ParseFile(goldenManifests + name + ".txtar")
		l.must(err)
		for doc := range strings.SplitSeq(string(archive.Files[0].Data), "\n---\n") {
			if !strings.Contains(doc, "BGP") && !strings.Contains(doc, "kind: BFDProfile") && !strings.Contains(doc, "kind: Community") {
				continue
			}
			l.apply(doc)
			if strings.Contains(doc, "\nkind: Cilium") {
				_, err := l.tryWith(api, doc, "kubectl", "wait", "--timeout=60s", "-f", "-",
					`--for=jsonpath={.status.conditions[?(@.type=="seamark.dev/Accepted")].type}=seamark.dev/Accepted`)
				l.must(err)
			}
		}
	}
	for _, kind := range []string{"ippools", "l2policies", "bgpinstances", "bgppeers", "bgpadvertisements", "bfdprofiles"} {
		l.kubectl("wait", "--for=jsonpath={.status.conditions[0].type}=seamark.dev/Accepted", "--timeout=60s", kind+".seamark.dev", "--all")
	}
	l.looked()

	l.apply(balanced("final", "", "finalizers: [service.kubernetes.io/load-balancer-cleanup]"))
	l.eventually("it is given an address", func() error {
		s, err := l.service("final")
		if err == nil && s.address() == "" {
			err = fmt.Errorf("status %+v", s.Status)
		}
		return err
	})
	l.kubectl("delete", "service", "final", "--timeout=60s")

	holder := l.holder()
	l.must(l.PowerOff(holder))
	l.movedFrom(holder)
	l.must(l.PowerOn(l.t.Context(), holder))
	l.leased(holder)
	l.coordinate(holder)
	l.kubectl("delete", "service", "webpod", "silent")
	l.kubectl("wait", "--for=delete", "--timeout=120s", "-n", "seamark-system", "lease/gone")
	l.eventually("no AnnouncementSlice is left", func() error {
		out, err := l.tryKubectl("get", "announcementslices", "-o", "name")
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

// password has the daemons read one.
func (l lab) password() {
	l.apply(`apiVersion: seamark.dev/v1alpha1
kind: BGPPeer
metadata: {name: secret}
spec: {peerAddress: 192.168.10.200, peerASN: 65000, passwordSecretRef: {name: tor}}
`)
	accepted := `--for=jsonpath={.status.conditions[?(@.type=="seamark.dev/Accepted")].status}=`
	l.kubectl("wait", "--timeout=60s", "bgppeers.seamark.dev/secret", accepted+"False")
	l.apply("{apiVersion: v1, kind: Secret, metadata: {name: tor, namespace: seamark-system}, stringData: {password: hidden}}")
	l.kubectl("wait", "--timeout=60s", "bgppeers.seamark.dev/secret", accepted+"True")
}

// repeated has something told twice in the same words.
func (l lab) repeated() {
	there := true
	l.eventually("an Event is repeated", func() error {
		annotation := "service.cilium.io/type-"
		if there = !there; there {
			annotation = "service.cilium.io/type=LoadBalancer"
		}
		l.kubectl("annotate", "service", "silent", annotation)
		out, err := l.tryKubectl("get", "events.events.k8s.io", "-o", "jsonpath={.items[*].series.count}",
			"--field-selector=reason=NotHonoured,regarding.name=silent")
		if err == nil && out == "" {
			err = errors.New("told once")
		}
		return err
	})
}

// looked has a daemon read one object of each kind, for seamark get.
func (l lab) looked() {
	slice := strings.TrimSpace(l.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=webpod", "-o", "jsonpath={.items[0].metadata.name}"))
	for _, object := range []string{"service/webpod", "node/" + ctr, "namespace/default", "lease/" + ctr, "endpointslice/" + slice} {
		l.seamark(ctr, "get", object)
	}
	for _, kind := range slices.Concat(source.Kinds(), source.ForeignKinds()) {
		if kind.Group != "seamark.dev" && !kind.Foreign() {
			continue
		}
		name := kind.Plural + "." + kind.Group
		one := strings.Fields(l.kubectl("get", name, "-A", "-o", `jsonpath={.items[0].metadata.name} {.items[0].metadata.namespace}`))
		if len(one) == 0 {
			l.t.Fatalf("no object of %s", name)
		}
		args := []string{"get", name, one[0]}
		if len(one) > 1 {
			args = append(args, "-n", one[1])
		}
		l.seamark(ctr, args...)
	}
}

// requests are those of the daemons, from the audit log.
func (l lab) requests() []request {
	l.t.Helper()
	path, _ := l.AuditLog()
	file, err := os.Open(path)
	l.must(err)
	defer file.Close()
	var requests []request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		l.must(json.Unmarshal(lines.Bytes(), &r))
		if r.User.Username == daemonUser {
			requests = append(requests, r)
		}
	}
	l.must(lines.Err())
	return requests
}

// granted are the rights of deploy/manifests/rbac.yaml.
func granted(t *testing.T) map[right]bool {
	t.Helper()
	data, err := os.ReadFile("../../deploy/manifests/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rights := map[right]bool{}
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		var role rbacv1.ClusterRole // a Role has the same fields
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains([]string{"ClusterRole", "Role"}, role.Kind) {
			continue
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						rights[right{role.Kind, group, resource, verb}] = true
					}
				}
			}
		}
	}
	return rights
}
