package deploy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
)

// cluster is a real API server, and Helm and kubectl for it.
type cluster struct {
	*testing.T
	api *kubeapi.API
}

func newCluster(t *testing.T) cluster { return cluster{t, kubetest.Start(t)} }

func (c cluster) kubectl(args ...string) (string, error) {
	c.Helper()
	cmd := exec.CommandContext(c.Context(), kubetest.Binary(c.T), append([]string{"kubectl", "--kubeconfig", c.api.Kubeconfig,
		"--cache-dir", filepath.Join(filepath.Dir(c.api.Kubeconfig), "cache")}, args...)...)
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	return out.String(), err
}

func (c cluster) mustKubectl(args ...string) string {
	c.Helper()
	out, err := c.kubectl(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

func (c cluster) helm(args ...string) (string, error) {
	c.Helper()
	return helm(c.T, append(args, "--kubeconfig", c.api.Kubeconfig, "--namespace", namespace)...)
}

func (c cluster) mustHelm(args ...string) string {
	c.Helper()
	out, err := c.helm(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

func (c cluster) waitForKinds() {
	c.Helper()
	c.mustKubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
}

// kubectl apply -f of the directory, in one go, on an empty cluster, and again.
func TestKubeApply(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.mustKubectl("apply", "-f", "manifests", "--warnings-as-errors")
	if out := c.mustKubectl("apply", "-f", "manifests"); strings.Contains(out, "configured") || strings.Contains(out, "created") {
		t.Errorf("applying the same again changed something:\n%s", out)
	}
	c.waitForKinds()
	c.mustKubectl("apply", "-f", "manifests/examples")
	header := strings.Fields(c.mustKubectl("get", "ippools.seamark.dev"))
	if want := "NAME DISABLED CONFLICTING IPS AVAILABLE AGE"; !strings.HasPrefix(strings.Join(header, " "), want) {
		t.Errorf("columns %q", header)
	}
	// The rights are those of the tests above, as the API server judges.
	may := func(args ...string) string {
		// It fails with "no".
		out, _ := c.kubectl(append([]string{"auth", "can-i", "--as=system:serviceaccount:" + namespace + ":seamarkd"}, args...)...)
		return strings.TrimSpace(out)
	}
	for _, yes := range []string{"list services -A", "patch services -A --subresource=status", "patch ippools.seamark.dev --subresource=status",
		"create announcementslices.seamark.dev", "update leases.coordination.k8s.io -n seamark-system", "create events.events.k8s.io -n default"} {
		if got := may(strings.Fields(yes)...); got != "yes" {
			t.Errorf("may it %s? %s", yes, got)
		}
	}
	for _, no := range []string{"get secrets -n seamark-system", "update services -A", "delete services -A", "patch ippools.seamark.dev",
		"update leases.coordination.k8s.io -n default", "patch nodes", "patch nodes --subresource=status", "create pods -n seamark-system"} {
		if got := may(strings.Fields(no)...); got != "no" {
			t.Errorf("may it %s? %s", no, got)
		}
	}
}

// A release is installed, upgraded and uninstalled: the CRDs are upgraded with
// it, and stay with all objects.
func TestKubeHelmRelease(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	out := c.mustHelm("install", "seamark", chart, "--create-namespace")
	for _, want := range []string{"kind: IPPool", "kind: L2Policy", "rollout status daemonset/seamarkd", "seamark status"} {
		if !strings.Contains(out, want) {
			t.Errorf("the notes do not say %q:\n%s", want, out)
		}
	}
	for _, not := range []string{"get their network from Seamark", "kinds of Cilium"} {
		if strings.Contains(out, not) {
			t.Errorf("the notes say %q, which is not switched on:\n%s", not, out)
		}
	}
	c.waitForKinds()
	c.mustKubectl("apply", "-f", "manifests/examples")

	// An older CRD is in the cluster.
	c.mustKubectl("patch", "crd", "ippools.seamark.dev", "--type=json", `-p=[{"op":"remove","path":"/spec/versions/0/additionalPrinterColumns"}]`)
	newer := t.TempDir()
	if err := os.CopyFS(newer, os.DirFS(chart)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(newer, "files/crds/seamark.dev_ippools.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.ReplaceAll(string(text), "name: IPs Available", "name: IPs Left"))
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	out = c.mustHelm("upgrade", "seamark", newer, "--set", "cni.enabled=true,compat.cilium.crds=true,compat.metallb.crds=true")
	for _, want := range []string{"get their network from Seamark", "kinds of Cilium", "kinds of MetalLB"} {
		if !strings.Contains(out, want) {
			t.Errorf("the notes do not say %q:\n%s", want, out)
		}
	}
	c.waitForKinds()
	if out := c.mustKubectl("get", "ippools.seamark.dev"); !strings.Contains(out, "IPS LEFT") {
		t.Errorf("the CRD was not upgraded:\n%s", out)
	}

	// A wrong value changes nothing.
	if _, err := c.helm("upgrade", "seamark", chart, "--set", "logLevel=loud"); err == nil || !strings.Contains(err.Error(), "/logLevel") {
		t.Errorf("upgrade with a wrong value: %v", err)
	}

	if out := c.mustHelm("upgrade", "seamark", chart, "--set", "cleanup.enabled=true"); !strings.Contains(out, "helm uninstall seamark") {
		t.Errorf("the notes do not say how it ends:\n%s", out)
	}
	if out := c.mustKubectl("-n", namespace, "get", "daemonsets", "-o", "name"); out != "daemonset.apps/seamark-cleanup\n" {
		t.Errorf("DaemonSets while cleaning up: %s", out)
	}
	c.mustHelm("uninstall", "seamark")
	if out, err := c.kubectl("get", "clusterrole", "seamarkd"); err == nil {
		t.Errorf("left after uninstall:\n%s", out)
	}
	for _, kept := range []string{"ippool.seamark.dev/default", "l2policy.seamark.dev/default", "crd/ciliumloadbalancerippools.cilium.io", "service/web"} {
		if _, err := c.kubectl("get", kept); err != nil {
			t.Errorf("gone with the release: %v", err)
		}
	}
	// And is taken over by the next release of the name.
	c.mustHelm("install", "seamark", chart)
}

// Manifests as the users of Cilium and MetalLB have them, by the CRDs of theirs
// that Seamark brings. The API server keeps every field.
func TestKubeCompatManifests(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.mustKubectl("apply", "-f", "crds-compat", "--recursive")
	c.waitForKinds()
	c.mustKubectl("create", "namespace", "metallb-system")
	file := filepath.Join(t.TempDir(), "foreign.yaml")
	if err := os.WriteFile(file, []byte(foreignManifests), 0o644); err != nil {
		t.Fatal(err)
	}
	c.mustKubectl("apply", "-f", file)
	for _, tc := range []struct{ what, path, want string }{
		{"ciliumloadbalancerippool/new", "{.spec.blocks[0].cidr}", "10.0.10.0/24"},
		{"ciliumloadbalancerippools.v2alpha1.cilium.io/new", "{.apiVersion} {.spec.disabled}", "cilium.io/v2alpha1 false"},
		{"ciliumloadbalancerippools.v2.cilium.io/old", "{.spec.cidrs[0].cidr}", "20.0.20.0/24"},
		{"l2announcement/policy", "{.spec.interfaces[0]}", "^eth[0-9]+"},
		{"cbgpcluster/bgp", "{.spec.bgpInstances[0].peers[0].peerASN}", "65000"},
		{"ipaddresspool/first -n metallb-system", "{.spec.autoAssign} {.spec.addresses[1]}", "true 192.168.9.1-192.168.9.5"},
		{"bgppeers.v1beta2.metallb.io/peer -n metallb-system", "{.spec.peerASN}", "64501"},
		{"l2advertisement/bare -n metallb-system", "{.metadata.name}", "bare"},
	} {
		args := append([]string{"get"}, strings.Fields(tc.what)...)
		if got := c.mustKubectl(append(args, "-o", "jsonpath="+tc.path)...); got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.what, tc.path, got, tc.want)
		}
	}
	// Statuses are written apart, and shown as their users know them.
	c.mustKubectl("patch", "ciliumloadbalancerippool", "new", "--subresource=status", "--type=merge", "-p",
		`{"status":{"conditions":[{"type":"cilium.io/PoolConflict","status":"False"},{"type":"cilium.io/IPsAvailable","status":"Unknown","message":"254"}]}}`)
	if out := strings.Join(strings.Fields(c.mustKubectl("get", "ippools", "new")), " "); !strings.HasPrefix(out, "NAME DISABLED CONFLICTING IPS AVAILABLE AGE new false False 254 ") {
		t.Errorf("get ippools: %s", out)
	}
	if out := strings.Join(strings.Fields(c.mustKubectl("-n", "metallb-system", "get", "ipaddresspool", "first")), " "); out !=
		`NAME AUTO ASSIGN AVOID BUGGY IPS ADDRESSES first true false ["192.168.10.0/24","192.168.9.1-192.168.9.5"]` {
		t.Errorf("get ipaddresspool: %s", out)
	}
}

const foreignManifests = `
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: new}
spec: {blocks: [{cidr: 10.0.10.0/24}, {start: 20.0.20.100, stop: 20.0.20.200}], allowFirstLastIPs: "No"}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumLoadBalancerIPPool
metadata: {name: old}
spec: {cidrs: [{cidr: 20.0.20.0/24}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: policy}
spec: {interfaces: ["^eth[0-9]+"], externalIPs: true, loadBalancerIPs: true, serviceSelector: {matchLabels: {color: blue}}}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumBGPClusterConfig
metadata: {name: bgp}
spec: {bgpInstances: [{name: "65001", localASN: 65001, peers: [{name: r, peerASN: 65000, peerAddress: 192.168.10.200, peerConfigRef: {name: p}}]}]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: first, namespace: metallb-system}
spec: {addresses: [192.168.10.0/24, 192.168.9.1-192.168.9.5]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: bare, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: BGPPeer
metadata: {name: peer, namespace: metallb-system}
spec: {myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1}
`
