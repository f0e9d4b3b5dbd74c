package deploy_test

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

type crd = apiextensionsv1.CustomResourceDefinition

// crdsOf are the CRDs in a folder's files, by name.
func crdsOf(t *testing.T, folder fs.FS) map[string]*crd {
	t.Helper()
	paths, err := fs.Glob(folder, "*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	crds := map[string]*crd{}
	for _, path := range paths {
		text, err := fs.ReadFile(folder, path)
		if err != nil {
			t.Fatal(err)
		}
		objs, err := decode(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		c := one[*crd](t, objs)
		crds[c.Name] = c
	}
	return crds
}

// ownCRDs are those of api/v1alpha1.
func ownCRDs(t *testing.T) map[string]*crd {
	t.Helper()
	own, err := fs.Sub(v1alpha1.CRDs, "crds")
	if err != nil {
		t.Fatal(err)
	}
	return crdsOf(t, own)
}

// checkCRDs compares what the chart made with what it was made from: nothing is
// added but the annotation that makes them outlive the release.
func checkCRDs(t *testing.T, got []*crd, want map[string]*crd) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d CRDs, want %d: %q", len(got), len(want), slices.Sorted(maps.Keys(want)))
	}
	for _, c := range got {
		if c.Annotations["helm.sh/resource-policy"] != "keep" {
			t.Errorf("%s would go with the release, and all objects with it: %v", c.Name, c.Annotations)
		}
		delete(c.Annotations, "helm.sh/resource-policy")
		if len(c.Annotations) == 0 {
			c.Annotations = nil
		}
		if from, ok := want[c.Name]; !ok || !reflect.DeepEqual(c, from) {
			t.Errorf("%s is not as it was written: run go generate ./deploy", c.Name)
		}
	}
}

func TestCRDs(t *testing.T) {
	own := ownCRDs(t)
	cilium, metallb := crdsOf(t, os.DirFS("crds-compat/cilium")), crdsOf(t, os.DirFS("crds-compat/metallb"))
	for _, tc := range []struct {
		sets []string
		want []map[string]*crd
	}{
		{nil, []map[string]*crd{own}},
		{[]string{"compat.cilium.crds=true"}, []map[string]*crd{own, cilium}},
		{[]string{"compat.metallb.crds=true"}, []map[string]*crd{own, metallb}},
		{[]string{"crds.install=false", "compat.cilium.crds=true", "compat.metallb.crds=true"}, []map[string]*crd{cilium, metallb}},
	} {
		want := map[string]*crd{}
		for _, crds := range tc.want {
			maps.Copy(want, crds)
		}
		checkCRDs(t, only[*crd](rendered(t, setFlags(tc.sets)...)), want)
	}
}

// foreign is what people know of a kind: its versions, the stored one first.
type foreign struct {
	scope    apiextensionsv1.ResourceScope
	kind     string
	short    []string
	versions []string
	columns  []string
}

// What others' users know: the names are those of Cilium 1.18 and MetalLB 0.15.
var foreignKinds = map[string]map[string]foreign{
	"cilium": {
		"ciliumloadbalancerippools.cilium.io": {"Cluster", "CiliumLoadBalancerIPPool", []string{"ippools", "ippool", "lbippool", "lbippools"},
			[]string{"v2", "v2alpha1"}, []string{"Disabled", "Conflicting", "IPs Available", "Age"}},
		"ciliuml2announcementpolicies.cilium.io": {"Cluster", "CiliumL2AnnouncementPolicy", []string{"l2announcement"},
			[]string{"v2alpha1"}, []string{"Age"}},
		"ciliumbgpclusterconfigs.cilium.io": {"Cluster", "CiliumBGPClusterConfig", []string{"cbgpcluster"},
			[]string{"v2", "v2alpha1"}, []string{"Age"}},
		"ciliumbgppeerconfigs.cilium.io": {"Cluster", "CiliumBGPPeerConfig", []string{"cbgppeer"},
			[]string{"v2", "v2alpha1"}, []string{"Age"}},
		"ciliumbgpadvertisements.cilium.io": {"Cluster", "CiliumBGPAdvertisement", []string{"cbgpadvert"},
			[]string{"v2", "v2alpha1"}, []string{"Age"}},
		"ciliumbgpnodeconfigoverrides.cilium.io": {"Cluster", "CiliumBGPNodeConfigOverride", []string{"cbgpnodeoverride"},
			[]string{"v2", "v2alpha1"}, []string{"Age"}},
	},
	"metallb": {
		"ipaddresspools.metallb.io": {"Namespaced", "IPAddressPool", nil,
			[]string{"v1beta1"}, []string{"Auto Assign", "Avoid Buggy IPs", "Addresses"}},
		"l2advertisements.metallb.io": {"Namespaced", "L2Advertisement", nil,
			[]string{"v1beta1"}, []string{"IPAddressPools", "IPAddressPool Selectors", "Interfaces", "Node Selectors"}},
		"bgpadvertisements.metallb.io": {"Namespaced", "BGPAdvertisement", nil,
			[]string{"v1beta1"}, []string{"IPAddressPools", "IPAddressPool Selectors", "Peers", "Node Selectors"}},
		"bgppeers.metallb.io": {"Namespaced", "BGPPeer", nil,
			[]string{"v1beta2", "v1beta1"}, []string{"Address", "ASN", "BFD Profile", "Multi Hops"}},
		"communities.metallb.io": {"Namespaced", "Community", nil,
			[]string{"v1beta1"}, nil},
		"bfdprofiles.metallb.io": {"Namespaced", "BFDProfile", nil,
			[]string{"v1beta1"}, []string{"Passive Mode", "Transmit Interval", "Receive Interval", "Multiplier"}},
	},
}

func TestCompatCRDs(t *testing.T) {
	for project, kinds := range foreignKinds {
		crds := crdsOf(t, os.DirFS(filepath.Join("crds-compat", project)))
		if got, want := slices.Sorted(maps.Keys(crds)), slices.Sorted(maps.Keys(kinds)); !slices.Equal(got, want) {
			t.Errorf("%s: CRDs %q, want %q", project, got, want)
		}
		for name, c := range crds {
			got := foreign{scope: c.Spec.Scope, kind: c.Spec.Names.Kind, short: c.Spec.Names.ShortNames}
			for i, v := range c.Spec.Versions {
				got.versions = append(got.versions, v.Name)
				if !v.Served || v.Storage != (i == 0) || v.Subresources == nil || v.Subresources.Status == nil {
					t.Errorf("%s %s: %+v", name, v.Name, v)
				}
				var columns []string
				for _, col := range v.AdditionalPrinterColumns {
					columns = append(columns, col.Name)
				}
				if want := kinds[name].columns; !slices.Equal(columns, want) {
					t.Errorf("%s %s: columns %q, want %q", name, v.Name, columns, want)
				}
			}
			got.columns = kinds[name].columns
			if !reflect.DeepEqual(got, kinds[name]) {
				t.Errorf("%s: %+v, want %+v", name, got, kinds[name])
			}
		}
	}
}
