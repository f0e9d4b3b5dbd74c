package kubescenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// metallb is MetalLB as its own manifests label it. Its Pods are made and
// scheduled by the real controllers, and stay Pending.
const metallb = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system, labels: {app: metallb, component: speaker}}
spec:
  selector: {matchLabels: {app: metallb, component: speaker}}
  template:
    metadata: {labels: {app: metallb, component: speaker}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: speaker, image: speaker}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system, labels: {app: metallb, component: controller}}
spec:
  selector: {matchLabels: {app: metallb, component: controller}}
  template:
    metadata: {labels: {app: metallb, component: controller}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: controller, image: controller}]}
`

const metallbObjects = `
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first, namespace: metallb-system}
spec: {addresses: [192.168.10.220-192.168.10.223]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: first, namespace: metallb-system}
`

// loadBalanced is a Service that leads to the webpods; more goes into its spec.
func loadBalanced(name, annotations, more string) string {
	return fmt.Sprintf("\n---\n{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: default, annotations: {%s}}, "+
		"spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]%s}}\n", name, annotations, more)
}

// TestMetalLB: beside MetalLB Seamark serves what is its own, says what it
// leaves, and takes it over, addresses and all, when MetalLB goes.
func TestMetalLB(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{})
	l.foreignKinds()
	l.kubectl("create", "namespace", "metallb-system")
	l.apply(metallb)
	l.apply(metallbObjects)
	l.metallbSeen()

	// What MetalLB would do here.
	l.apply(loadBalanced("webpod", "", ""))
	l.kubectl("patch", "service", "webpod", "--subresource=status", "--field-manager=controller",
		"-p", `{"status":{"loadBalancer":{"ingress":[{"ip":"192.168.10.222"}]}}}`)

	l.apply(`
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: own}
spec: {blocks: [{start: 192.168.10.211, stop: 192.168.10.219}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: own}
spec: {interfaces: [^eth1$], loadBalancerIPs: true}
` + loadBalanced("own", "", ", loadBalancerClass: seamark.dev/l2") + loadBalanced("classless", "", ""))
	left := map[string]string{"own": "192.168.10.211 announced", "webpod": "192.168.10.222", "classless": ""}
	l.placed(left)
	l.answersAt("192.168.10.211")
	// Its only controller is replaced: nothing becomes Seamark's for that time.
	l.kubectl("delete", "pods", "-n", "metallb-system", "--all")
	l.kubectl("rollout", "restart", "-n", "metallb-system", "deployment/controller")
	l.apply(loadBalanced("own-too", "", ", loadBalancerClass: seamark.dev/l2")) // decided after that
	left["own-too"] = "192.168.10.212 announced"
	l.placed(left)
	for _, name := range []string{"webpod", "classless"} {
		if reason := mustGet(l, name).reason(); reason != "" {
			t.Errorf("Seamark says %s on Service %s, which is MetalLB's", reason, name)
		}
	}

	l.kubectl("delete", "-n", "metallb-system", "daemonset/speaker", "deployment/controller")
	taken := map[string]string{"own": "192.168.10.211 announced", "own-too": "192.168.10.212 announced",
		"webpod": "192.168.10.222 announced", "classless": "192.168.10.220 announced"}
	l.placed(taken)
	for _, place := range taken {
		l.answersAt(strings.TrimSuffix(place, " announced"))
	}
	for node, problems := range l.problems() {
		if slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, "MetalLB") }) {
			t.Errorf("MetalLB is gone, and %s says %q", node, problems)
		}
	}

	// It comes again: what is of its pools is handed over as it is, and what
	// Seamark gave from a pool of its own stays given.
	l.apply(loadBalanced("classless-own", "seamark.dev/pool: own", ""))
	l.given("classless-own", "192.168.10.213")
	l.apply(metallb)
	l.metallbSeen()
	l.apply(loadBalanced("own-three", "", ", loadBalancerClass: seamark.dev/l2")) // decided after that
	l.placed(map[string]string{"own": "192.168.10.211 announced", "own-too": "192.168.10.212 announced",
		"classless-own": "192.168.10.213 announced", "own-three": "192.168.10.214 announced",
		"webpod": "192.168.10.222", "classless": "192.168.10.220"})
	for _, address := range []string{"192.168.10.211", "192.168.10.213", "192.168.10.214"} {
		l.answersAt(address)
	}
	l.withdrawn("192.168.10.222")
}

// problems are what the daemon of each node says that a person should mend.
func (l lab) problems() map[string][]string {
	l.t.Helper()
	problems := map[string][]string{}
	for _, node := range nodes {
		problems[node] = l.status(node).Problems
	}
	return problems
}

// metallbSeen waits until MetalLB's presence is said: by Events on its programs
// and objects, and by seamark status on the coordinator.
func (l lab) metallbSeen() {
	l.t.Helper()
	for object, note := range map[string]string{
		"DaemonSet speaker":     "MetalLB announces Services' addresses, too: ",
		"Deployment controller": "MetalLB gives Services addresses, too: Services without spec.loadBalancerClass are left to it",
		"IPAddressPool first":   "MetalLB runs here (d",
		"L2Advertisement first": "MetalLB runs here (d",
	} {
		kind, name, _ := strings.Cut(object, " ")
		l.kubectlSays(note, "get", "events.events.k8s.io", "-n", "metallb-system", "-o", "jsonpath={.items[*].note}",
			"--field-selector=reason=NotHonoured,regarding.kind="+kind+",regarding.name="+name)
	}
	l.eventually("seamark status names MetalLB's programs and objects", func() error {
		said := strings.Join(l.problems()[l.status(ctr).Coordinator.Identity], "\n")
		for _, object := range []string{"daemonset/metallb-system/speaker: ", "deployment/metallb-system/controller: ",
			"ipaddresspool/metallb-system/first: ", "l2advertisement/metallb-system/first: "} {
			if !strings.Contains(said, object) {
				return fmt.Errorf("no %s in\n%s", object, said)
			}
		}
		return nil
	})
}

// TestRival: another controller writes a Service's addresses again and again.
// Seamark gives in, says to whom, and serves all others.
func TestRival(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{})
	l.applyDemo()
	client, err := kubernetes.NewForConfig(l.rest())
	l.must(err)
	services := client.CoreV1().Services("default")
	var overwritten atomic.Int64
	overwrite := func(ctx context.Context) (int64, error) {
		for {
			svc, err := services.Get(ctx, "webpod", metav1.GetOptions{})
			if err == nil {
				if in := svc.Status.LoadBalancer.Ingress; len(in) != 1 || in[0].IP != "192.168.10.240" {
					_, err = services.Patch(ctx, "webpod", types.MergePatchType, []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"192.168.10.240"}]}}}`),
						metav1.PatchOptions{FieldManager: "rival"}, "status")
					if err == nil {
						overwritten.Add(1)
					}
				}
			}
			switch {
			case ctx.Err() != nil:
				return overwritten.Load(), nil
			case err != nil:
				return 0, err
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	stop := background(l, overwrite)
	coordinator := l.status(ctr).Coordinator.Identity
	l.eventually("the coordinator names the rival", func() error {
		out, err := l.try(coordinator, "seamark", "status")
		if err == nil && !strings.Contains(out, "write status of Service default/webpod: rival writes status.loadBalancer, too: "+
			"stop that controller (Seamark tries again within 10 minutes), or create the Service anew with a spec.loadBalancerClass") {
			err = errors.New(out)
		}
		return err
	})
	before := overwritten.Load()
	l.apply(loadBalanced("second", "", "")) // meanwhile
	l.given("second", "192.168.10.212")
	l.kubectl("annotate", "service", "webpod", "note=touched") // a reason to look at it again
	l.apply(loadBalanced("third", "", ""))
	l.given("third", "192.168.10.213")
	n := stop()
	t.Logf("the rival wrote its address %d times", n)
	if before > 3 || n > before {
		t.Errorf("Seamark had it write %d times, and %d more after it gave in", before, n-before)
	}
	if address := mustGet(l, "webpod").address(); address != "192.168.10.240" {
		t.Errorf("after it gave in, the address is %q", address)
	}
	// The next coordinator does not know of it. The rival is gone by now.
	l.daemon(coordinator, testlab.Stop)
	l.daemon(coordinator, testlab.Start)
	l.given("webpod", vipText)
	l.answers()
}
