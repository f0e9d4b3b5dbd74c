package kube

import (
	"fmt"
	"testing"

	"github.com/seamark-lb/seamark/state"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAgentsOf(t *testing.T) {
	for _, tc := range []struct {
		labels map[string]string
		want   string
	}{
		{map[string]string{"app": "metallb", "component": "speaker"}, "MetalLB announces"},
		{map[string]string{"app": "metallb", "component": "controller"}, "MetalLB allocates"},
		{map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}, "MetalLB announces"},
		{map[string]string{"app": "metallb", "component": "speaker", "app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "speaker"}, "MetalLB announces"},
		{map[string]string{"app": "metallb", "component": "frr-k8s"}, ""},
		{map[string]string{"k8s-app": "cilium", "app.kubernetes.io/name": "cilium-agent", "app.kubernetes.io/part-of": "cilium"}, "Cilium announces, Cilium cni"},
		{map[string]string{"name": "cilium-operator", "io.cilium/app": "operator", "app.kubernetes.io/name": "cilium-operator"}, "Cilium allocates"},
		{map[string]string{"k8s-app": "kube-proxy"}, "kube-proxy proxy"},
		{map[string]string{"app.kubernetes.io/name": "kube-vip-ds", "app.kubernetes.io/version": "v0.8.7"}, "kube-vip announces"},
		{map[string]string{"app": "purelb", "component": "allocator"}, "PureLB allocates"},
		{map[string]string{"tier": "node", "app": "flannel", "k8s-app": "flannel"}, "flannel cni"},
		{map[string]string{"app": "antrea", "component": "antrea-controller"}, ""},
		{map[string]string{"app": "shop"}, ""},
	} {
		got := ""
		for i, a := range agentsOf(state.ObjectRef{Kind: "DaemonSet", Namespace: "n", Name: "x"}, tc.labels, 2) {
			if i > 0 {
				got += ", "
			}
			got += fmt.Sprint(a.Product, " ", a.Role)
			if a.Object.Name != "x" {
				t.Errorf("agent %+v", a)
			}
		}
		if got != tc.want {
			t.Errorf("%v: %q, want %q", tc.labels, got, tc.want)
		}
		if rows := agentsOf(state.ObjectRef{}, tc.labels, 0); len(rows) != 0 {
			t.Errorf("%v where there are to be no pods: %v", tc.labels, rows)
		}
	}
}

// A program whose only pod is being replaced has not gone.
func TestAgentsInRollingUpdate(t *testing.T) {
	labels := map[string]string{"app": "metallb", "component": "controller"}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "controller", Labels: labels}}
	daemonSet := &appsv1.DaemonSet{ObjectMeta: deployment.ObjectMeta, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 1}}
	for _, obj := range []any{deployment, daemonSet} {
		if rows := agentsIn(obj); len(rows) != 1 {
			t.Errorf("%T without a ready pod: %v", obj, rows)
		}
	}
	deployment.Spec.Replicas, daemonSet.Status.DesiredNumberScheduled = new(int32), 0
	for _, obj := range []any{deployment, daemonSet} {
		if rows := agentsIn(obj); len(rows) != 0 {
			t.Errorf("%T scaled to nothing: %v", obj, rows)
		}
	}
}
