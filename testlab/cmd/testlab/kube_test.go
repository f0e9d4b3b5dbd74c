package main

import (
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
)

// TestKubeLabWithDaemons: the daemons run beside a real Kubernetes with the
// rights that ship, and wire its Pods up.
func TestKubeLabWithDaemons(t *testing.T) {
	needRoot(t)
	kubetest.Binary(t)
	bin := builtDir(t)
	begin := time.Now()
	l, err := testlab.Up(t.Context(), testlab.Config{Name: newLabName(), BinDir: bin, ControlPlane: "kube"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("up after %d ms", time.Since(begin).Milliseconds())
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		if left := remains(l.Name); len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, ", "))
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	endpoints := func(want string) {
		t.Helper()
		cmd := []string{"get", "endpointslices", "-l", "kubernetes.io/service-name=webpod",
			"-o", "jsonpath={range .items[*].endpoints[*]}{.nodeName} {.addresses[0]} {.conditions.ready}\n{end}"}
		var out []byte
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(string(out), want); {
			if time.Now().After(deadline) {
				t.Fatalf("no endpoint %q in:\n%s", want, out)
			}
			out, err = mustHost(t, l, "api").Command(t.Context(), "kubectl", cmd...).CombinedOutput()
			must(err)
		}
	}
	addressOf := func(pod string) string {
		t.Helper()
		all, err := l.Status()
		must(err)
		for _, s := range all {
			if s.Name == pod {
				return strings.TrimPrefix(s.Addresses[0], "eth0 ")
			}
		}
		t.Fatalf("no pod %s", pod)
		return ""
	}

	must(l.Apply(t.Context(), `
apiVersion: v1
kind: Service
metadata: {name: webpod, namespace: default}
spec:
  selector: {app: webpod}
  ports: [{name: http, port: 80}]
`))
	endpoints("k8s-w1 " + addressOf(podW1) + " true")
	must(l.SetReady(t.Context(), false, podW1))
	endpoints("k8s-w1 " + addressOf(podW1) + " false")

	must(l.StopAPI(t.Context()))
	for _, node := range []string{"k8s-ctr", "k8s-w1", "k8s-w0"} {
		if p := processOf(t, l, node); p != "running" {
			t.Errorf("without the API server the daemon of %s is %s", node, p)
		}
	}
	must(l.StartAPI(t.Context()))
	must(l.PowerOff("k8s-w1"))
	must(l.PowerOn(t.Context(), "k8s-w1"))
	must(l.SetReady(t.Context(), true, podW1))
	endpoints("k8s-w1 " + addressOf(podW1) + " true")
}
