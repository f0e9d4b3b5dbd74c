package kube_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const speaker = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: speaker, namespace: metallb-system, labels: {app: metallb, component: speaker}}
spec:
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec: {containers: [{name: speaker, image: speaker}]}
status: {numberReady: 1, currentNumberScheduled: 1, desiredNumberScheduled: 1, numberMisscheduled: 0}
`

// MetalLB's kinds come and go while the daemon runs, and so does MetalLB.
func TestForeignKinds(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	_, stubborn := c.source(t, kube.Config{IgnoreAgents: true})
	conformance.Wait(t, db, "the tables to be synced without the kinds", func(snap state.Snapshot) bool {
		return db.Pools.Synced(snap) && db.L2Policies.Synced(snap) && db.Agents.Synced(snap)
	})
	crd, err := os.ReadFile("../../deploy/crds-compat/metallb/ipaddresspools.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.createCRD(t, crd)
	c.mustCreate(t, "{apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}")
	c.mustCreate(t, "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: pool, namespace: metallb-system}, spec: {addresses: [192.168.10.211-192.168.10.215]}}")
	check := func(db *state.DB, what string, pools, problems int) {
		t.Helper()
		conformance.Wait(t, db, what, func(snap state.Snapshot) bool {
			return len(db.Pools.Rows(snap)) == pools && len(db.SourceProblems.Rows(snap)) == problems
		})
	}
	check(db, "the pool", 1, 0)
	check(stubborn, "the pool", 1, 0)
	pool := db.Pools.Rows(db.Snapshot())[0]
	if pool.Origin.String() != "ipaddresspool/metallb-system/pool" || pool.Invalid != "" {
		t.Errorf("pool %+v", pool)
	}
	if err := src.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}

	running := c.mustCreate(t, speaker)[0]
	check(db, "the pool is left to MetalLB", 0, 1)
	problem := db.SourceProblems.Rows(db.Snapshot())[0].String()
	for _, want := range []string{"MetalLB runs here (daemonset/metallb-system/speaker)", "left to it", "remove MetalLB, or write an IPPool"} {
		if !strings.Contains(problem, want) {
			t.Errorf("%s\ndoes not say %q", problem, want)
		}
	}
	check(stubborn, "the pool, in spite of MetalLB", 1, 0)
	if agents := stubborn.Agents.Rows(stubborn.Snapshot()); len(agents) > 0 {
		t.Errorf("it looks for agents: %v", agents)
	}
	running.Object["status"] = map[string]any{"numberReady": int64(1), "currentNumberScheduled": int64(1), "desiredNumberScheduled": int64(0), "numberMisscheduled": int64(1)}
	if _, err := c.of(kindOf(running), "metallb-system").UpdateStatus(t.Context(), running, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	check(db, "the pool is there again", 1, 0)

	if err := c.client.Resource(crds).Delete(t.Context(), "ipaddresspools.metallb.io", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	check(db, "no pool without its kind", 0, 0)
	check(stubborn, "no pool without its kind", 0, 0)
	eventually(t, "nothing is wrong", func() bool { return src.Err() == nil })
	eventually(t, "the kind is gone", func() bool {
		_, err := c.client.Resource(crds).Get(t.Context(), "ipaddresspools.metallb.io", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	c.createCRD(t, crd)
	c.mustCreate(t, "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: again, namespace: metallb-system}, spec: {addresses: [192.168.10.0/30]}}")
	check(db, "another pool", 1, 0)
}

// Statuses of other projects' pools are in their own words, in the version
// that the cluster has.
func TestForeignStatuses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	for _, file := range []string{"metallb/ipaddresspools.yaml", "cilium/ciliumloadbalancerippools.yaml"} {
		crd, err := os.ReadFile("../../deploy/crds-compat/" + file)
		if err != nil {
			t.Fatal(err)
		}
		// An older Cilium.
		c.createCRD(t, []byte(strings.Replace(string(crd), "name: v2\n    served: true", "name: v2\n    served: false", 1)))
	}
	c.mustCreate(t, "{apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}")
	c.mustCreate(t, "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: pool, namespace: metallb-system}, spec: {addresses: [192.168.10.211-192.168.10.215]}}")
	c.mustCreate(t, "{apiVersion: cilium.io/v2alpha1, kind: CiliumLoadBalancerIPPool, metadata: {name: pool}, spec: {blocks: [{cidr: 10.0.0.0/30}]}}")
	var pools []state.Pool
	conformance.Wait(t, db, "both pools", func(snap state.Snapshot) bool {
		pools = db.Pools.Rows(snap)
		return len(pools) == 2
	})
	for _, pool := range pools {
		row := state.PoolStatus{Pool: pool.Name, Total: "4", Available: "4", Used: "0"}
		for range 2 {
			if err := src.PoolStatuses().Update(t.Context(), row); err != nil {
				t.Fatal(err)
			}
		}
		kind, _ := source.KindOfRef(pool.Origin)
		if kind.Kind == "CiliumLoadBalancerIPPool" {
			if _, err := c.Get(t.Context(), kind, "", pool.Origin.Name); !apierrors.IsNotFound(err) {
				t.Errorf("%s is served, too (%v): this test shows less than it should", kind.Version, err)
			}
			kind.Version = "v2alpha1"
		}
		obj, err := c.Get(t.Context(), kind, pool.Origin.Namespace, pool.Origin.Name)
		if err != nil {
			t.Fatal(err)
		}
		status := fmt.Sprint(obj.Object["status"])
		for _, want := range map[string][]string{
			"IPAddressPool":            {"availableIPv4:4", "assignedIPv4:0"},
			"CiliumLoadBalancerIPPool": {"cilium.io/IPsAvailable", "cilium.io/PoolConflict", "seamark.dev/Accepted"},
		}[kind.Kind] {
			if !strings.Contains(status, want) {
				t.Errorf("status of %s %s has no %s", pool.Name, status, want)
			}
		}
	}
}
