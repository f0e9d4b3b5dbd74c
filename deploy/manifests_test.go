package deploy_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The chart's rules are those of rbac.yaml, which the tests of the daemon use.
func TestRBAC(t *testing.T) {
	file, objs := decodeFile(t, "manifests/rbac.yaml"), rendered(t)
	compare[*corev1.ServiceAccount](t, file, objs)
	compare[*rbacv1.ClusterRole](t, file, objs)
	compare[*rbacv1.ClusterRoleBinding](t, file, objs)
	compare[*rbacv1.Role](t, file, objs)
	compare[*rbacv1.RoleBinding](t, file, objs)
}

func compare[T runtime.Object](t *testing.T, a, b []runtime.Object) {
	t.Helper()
	if x, y := one[T](t, a), one[T](t, b); !reflect.DeepEqual(x, y) {
		t.Errorf("the two differ: run go generate ./deploy\n%+v\n%+v", x, y)
	}
}

// Least privilege: what the daemon may change, all of it.
func TestRights(t *testing.T) {
	objs := decodeFile(t, "manifests/rbac.yaml")
	writes := map[string][]string{}
	cluster, own := one[*rbacv1.ClusterRole](t, objs).Rules, one[*rbacv1.Role](t, objs).Rules
	// Secrets hold the passwords of BGP sessions: those of its own namespace, to be read.
	secrets := func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "secrets") }
	if slices.ContainsFunc(cluster, secrets) {
		t.Error("may read the Secrets of every namespace")
	}
	for _, rule := range slices.Concat(cluster, own) {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if strings.Contains(group+resource+strings.Join(rule.Verbs, ""), "*") || secrets(rule) && !slices.Equal(rule.Verbs, []string{"list", "watch"}) {
					t.Errorf("too much: %+v", rule)
				}
				for _, verb := range rule.Verbs {
					name := resource + "." + group
					if !slices.Contains([]string{"get", "list", "watch"}, verb) && !strings.Contains(resource, "/status") {
						writes[name] = append(writes[name], verb)
					}
				}
				if strings.Contains(resource, "/status") && !slices.Equal(rule.Verbs, []string{"patch"}) {
					t.Errorf("too much for a status: %+v", rule)
				}
			}
		}
	}
	want := map[string][]string{
		"services.":                      {"patch"},
		"events.events.k8s.io":           {"create", "patch"},
		"announcementslices.seamark.dev": {"create", "update", "delete"},
		"leases.coordination.k8s.io":     {"create", "update", "delete"},
	}
	if !maps.EqualFunc(writes, want, slices.Equal) {
		t.Errorf("may write %v\nwant %v", writes, want)
	}
}

// Every kind that there is a CRD for may be read, and its status written if
// Seamark has something to say there: of MetalLB's kinds, in the pools'.
func TestRightsForCRDs(t *testing.T) {
	rules := one[*rbacv1.ClusterRole](t, decodeFile(t, "manifests/rbac.yaml")).Rules
	may := func(verb, group, resource string) bool {
		return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, verb)
		})
	}
	for _, crds := range []map[string]*crd{ownCRDs(t), crdsOf(t, os.DirFS("crds-compat/cilium")), crdsOf(t, os.DirFS("crds-compat/metallb"))} {
		for name, c := range crds {
			for _, verb := range []string{"get", "list", "watch"} {
				if !may(verb, c.Spec.Group, c.Spec.Names.Plural) {
					t.Errorf("seamarkd may not %s %s", verb, name)
				}
			}
			sub := c.Spec.Versions[0].Subresources
			says := sub != nil && sub.Status != nil && (c.Spec.Group != "metallb.io" || name == "ipaddresspools.metallb.io")
			if may("patch", c.Spec.Group, c.Spec.Names.Plural+"/status") != says {
				t.Errorf("seamarkd has something to say in the status of %s: %v, and may: %v", name, says, !says)
			}
		}
	}
}

// seamark.yaml is the chart with its defaults, less what rbac.yaml has.
func TestManifests(t *testing.T) {
	objs := decodeFile(t, "manifests/seamark.yaml")
	chart := rendered(t)
	if !reflect.DeepEqual(one[*appsv1.DaemonSet](t, objs), one[*appsv1.DaemonSet](t, chart)) {
		t.Error("the DaemonSet is not the chart's: run go generate ./deploy")
	}
	crds, own := only[*crd](objs), ownCRDs(t)
	for _, c := range crds {
		if !reflect.DeepEqual(c, own[c.Name]) {
			t.Errorf("%s is not that of api/v1alpha1/crds: run go generate ./deploy", c.Name)
		}
	}
	if len(crds) != len(own) || len(objs) != len(own)+1 {
		t.Errorf("objects %q", names(t, objs))
	}
}

// cleanup.yaml is the chart with cleanup.enabled, in a folder that kubectl apply
// -f of the manifests leaves alone.
func TestCleanupManifest(t *testing.T) {
	objs := decodeFile(t, "manifests/cleanup/cleanup.yaml")
	want := one[*appsv1.DaemonSet](t, rendered(t, "--set", "cleanup.enabled=true"))
	if len(objs) != 1 || !reflect.DeepEqual(one[*appsv1.DaemonSet](t, objs), want) {
		t.Error("it is not the chart's: run go generate ./deploy")
	}
}

// kubectl apply -f takes a directory's files by name and a file's objects in
// their order, and not the directories in it: what others refer to comes first.
func TestManifestsOrder(t *testing.T) {
	files, err := filepath.Glob("manifests/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"manifests/rbac.yaml", "manifests/seamark.yaml"}; !slices.Equal(files, want) {
		t.Fatalf("files %q, want %q", files, want)
	}
	var order []string
	for _, file := range files {
		order = append(order, names(t, decodeFile(t, file))...)
	}
	if order[0] != "Namespace/"+namespace || order[1] != "ServiceAccount/seamarkd" || order[len(order)-1] != "DaemonSet/seamarkd" {
		t.Errorf("order %q", order)
	}
}

// The examples are what the store takes.
func TestExamples(t *testing.T) {
	var kinds []string
	err := filepath.WalkDir("manifests/examples", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		manifests, err := source.ReadManifests(path, f)
		if err != nil {
			return err
		}
		for _, m := range manifests {
			kinds = append(kinds, m.Kind.Kind)
			if problems := source.Admit(m.Object); len(problems) > 0 {
				t.Errorf("%s: %v", path, problems)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(kinds)
	if want := []string{"IPPool", "L2Policy", "Service"}; !slices.Equal(kinds, want) {
		t.Errorf("examples of %q, want %q", kinds, want)
	}
}
