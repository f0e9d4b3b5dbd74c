package kube_test

import (
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
)

// A Secret of another namespace is read by a Role for it alone. Without, its
// BGPPeer says so, and all else goes on.
func TestSecretElsewhere(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	c.mustCreate(t, "{apiVersion: v1, kind: Namespace, metadata: {name: network}}")
	c.mustCreate(t, "{apiVersion: v1, kind: Secret, metadata: {name: tor, namespace: network}, stringData: {password: hidden}}")
	c.mustCreate(t, "{apiVersion: seamark.dev/v1alpha1, kind: BGPPeer, metadata: {name: router}, spec: {peerAddress: 192.168.10.200, peerASN: 65000, passwordSecretRef: {name: tor, namespace: network}}}")
	conformance.Wait(t, db, "the BGPPeer says that it may not be read", func(snap state.Snapshot) bool {
		for p := range db.SourceProblems.All(snap) {
			return strings.Contains(p.String(), "Secret network/tor cannot be read: the daemon may not") &&
				strings.Contains(p.Cure, "list and watch it (a Role and a RoleBinding in namespace network)")
		}
		return false
	})
	if err := src.Err(); err != nil {
		t.Errorf("the source is said to be out of order: %v", err)
	}
	c.mustCreate(t, `apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tor, namespace: network}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [tor], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tor, namespace: network}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tor}
subjects: [{kind: ServiceAccount, name: seamarkd, namespace: seamark-system}]
`)
	conformance.Wait(t, db, "the password", func(snap state.Snapshot) bool {
		row, _ := db.Secrets.Get(snap, "network/tor")
		return row.Password == "hidden" && row.Invalid == "" && len(db.SourceProblems.Rows(snap)) == 0
	})
}
