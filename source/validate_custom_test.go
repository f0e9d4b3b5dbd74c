package source

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	sigsyaml "sigs.k8s.io/yaml"
)

const crdManifests = "../api/v1alpha1/testdata/"

// customManifests reads a folder of manifests of our kinds: the objects of each
// file, and what is to be said of them, "" when its first line does not tell.
func customManifests(t *testing.T, folder string) map[string]customManifest {
	t.Helper()
	files, err := filepath.Glob(crdManifests + folder + "/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]customManifest{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var m customManifest
		if first, _, _ := strings.Cut(string(data), "\n"); strings.HasPrefix(first, "# want: ") {
			m.want = strings.TrimPrefix(first, "# want: ")
		}
		for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
			m.objects = append(m.objects, customObject(t, doc))
		}
		all[filepath.Base(file)] = m
	}
	return all
}

func customObject(t *testing.T, manifest []byte) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	data, err := sigsyaml.YAMLToJSON(manifest)
	if err != nil {
		t.Fatalf("%s: %v", manifest, err)
	}
	if err := obj.UnmarshalJSON(data); err != nil {
		t.Fatalf("%s: %v", manifest, err)
	}
	return obj
}

type customManifest struct {
	want    string
	objects []*unstructured.Unstructured
}

// kindsIn are the kinds that a folder has manifests of.
func kindsIn(manifests map[string]customManifest) []string {
	kinds := map[string]bool{}
	for _, m := range manifests {
		kinds[m.objects[0].GetKind()] = true
	}
	return slices.Sorted(maps.Keys(kinds))
}

func TestGoodCustom(t *testing.T) {
	manifests := customManifests(t, "good")
	want := []string{"BFDProfile", "BGPAdvertisement", "BGPInstance", "BGPPeer", "IPPool", "L2Policy"}
	if got := kindsIn(manifests); !slices.Equal(got, want) {
		t.Errorf("manifests of %v, want of %v", got, want)
	}
	for name, m := range manifests {
		t.Run(name, func(t *testing.T) {
			for _, obj := range m.objects {
				if problems := Admit(obj); len(problems) > 0 {
					t.Error(problems)
				}
			}
		})
	}
}

// Each file has one fault. What is to be said of it is what the CRD says; where
// the daemon says it in other words, it still finds no more than the one.
func TestBadCustom(t *testing.T) {
	manifests := customManifests(t, "bad")
	want := []string{"BFDProfile", "BGPAdvertisement", "BGPInstance", "BGPPeer", "IPPool", "L2Policy"}
	if got := kindsIn(manifests); !slices.Equal(got, want) {
		t.Errorf("manifests of %v, want of %v", got, want)
	}
	for name, m := range manifests {
		t.Run(name, func(t *testing.T) {
			problems := Admit(m.objects[0])
			if len(problems) != 1 {
				t.Errorf("%d problems, want one:\n%v", len(problems), problems)
			}
			said := append(problems, ruleProblems(t, m.objects[0])...)
			if m.want == "" || !strings.Contains(said.Error(), m.want) {
				t.Errorf("got  %v\nwant %s", said, m.want)
			}
		})
	}
}

// ruleProblems is what the CEL rules of its CRD say of an admitted object.
func ruleProblems(t *testing.T, obj *unstructured.Unstructured) Problems {
	t.Helper()
	schemas, err := customSchemas()
	if err != nil {
		t.Fatal(err)
	}
	custom, ok := schemas[schema.FromAPIVersionAndKind(obj.GetAPIVersion(), obj.GetKind())]
	if !ok {
		t.Fatalf("no CRD of %s %s", obj.GetAPIVersion(), obj.GetKind())
	}
	errs, _ := custom.rules.Validate(context.Background(), nil, custom.structural, obj.Object, nil, celconfig.RuntimeCELCostBudget)
	return fieldProblems(errs)
}

// Each file of changes holds an object as it was and as it is to be.
func TestCustomChanges(t *testing.T) {
	manifests := customManifests(t, "changes")
	if len(manifests) < 2 {
		t.Fatalf("%d files", len(manifests))
	}
	for name, m := range manifests {
		t.Run(name, func(t *testing.T) {
			old, changed := m.objects[0], m.objects[1]
			for _, obj := range m.objects {
				if problems := Admit(obj); len(problems) > 0 {
					t.Fatal(problems)
				}
			}
			if got := AdmitChange(old, changed).Error(); m.want == "none" && got != "" || m.want != "none" && !strings.Contains(got, m.want) {
				t.Errorf("got %q, want %q", got, m.want)
			}
		})
	}
}

// What the CRDs leave to the daemon: label selectors, wherever they are.
func TestCustomSelectors(t *testing.T) {
	const selector = `{matchExpressions: [{key: app, operator: Is}]}`
	for _, test := range []struct{ kind, spec, field string }{
		{"IPPool", `{blocks: [{cidr: 10.0.0.0/24}], serviceSelector: ` + selector + `}`, "spec.serviceSelector"},
		{"IPPool", `{blocks: [{cidr: 10.0.0.0/24}], namespaceSelector: ` + selector + `}`, "spec.namespaceSelector"},
		{"L2Policy", `{serviceSelector: ` + selector + `}`, "spec.serviceSelector"},
		{"L2Policy", `{nodeSelector: ` + selector + `}`, "spec.nodeSelector"},
		{"L2Policy", `{poolSelector: ` + selector + `}`, "spec.poolSelector"},
		{"BGPInstance", `{localASN: 65001, nodeSelector: ` + selector + `}`, "spec.nodeSelector"},
		{"BGPPeer", `{interface: eth1, peerASN: 65000, nodeSelectors: [{}, ` + selector + `]}`, "spec.nodeSelectors[1]"},
		{"BGPPeer", `{interface: eth1, peerASN: 65000, families: [{afi: ipv4, advertisements: ` + selector + `}]}`, "spec.families[0].advertisements"},
		{"BGPAdvertisement", `{advertisements: [{type: PodCIDR}], peerSelector: ` + selector + `}`, "spec.peerSelector"},
		{"BGPAdvertisement", `{advertisements: [{type: PodCIDR}], nodeSelectors: [` + selector + `]}`, "spec.nodeSelectors[0]"},
		{"BGPAdvertisement", `{advertisements: [{type: PodCIDR}, {type: LoadBalancer, serviceSelector: ` + selector + `}]}`, "spec.advertisements[1].serviceSelector"},
		{"BGPAdvertisement", `{advertisements: [{type: LoadBalancer, poolSelector: ` + selector + `}]}`, "spec.advertisements[0].poolSelector"},
	} {
		t.Run(test.kind+" "+test.field, func(t *testing.T) {
			text := `{apiVersion: seamark.dev/v1alpha1, kind: ` + test.kind + `, metadata: {name: x}, spec: ` + test.spec + `}`
			problems := Admit(customObject(t, []byte(text)))
			if len(problems) != 1 || problems[0].Field != test.field+".matchExpressions[0].operator" {
				t.Errorf("got %v, want one of %s", problems, test.field)
			}
		})
	}
}

// The manifests leave nothing out: each field of a spec is in a good one, and
// each rule is broken by a bad one or by a change.
func TestCustomManifestsAreWhole(t *testing.T) {
	set, said := map[string]bool{}, ""
	for _, m := range customManifests(t, "good") {
		markFields(set, m.objects[0].GetKind()+".spec", m.objects[0].Object["spec"])
	}
	for _, m := range customManifests(t, "bad") {
		said += Admit(m.objects[0]).Error() + ruleProblems(t, m.objects[0]).Error()
	}
	for _, m := range customManifests(t, "changes") {
		said += AdmitChange(m.objects[0], m.objects[1]).Error()
	}
	schemas, err := customSchemas()
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, s *structuralschema.Structural)
	walk = func(path string, s *structuralschema.Structural) {
		for _, rule := range s.XValidations {
			if !strings.Contains(said, rule.Message) {
				t.Errorf("%s: no bad manifest breaks %q", path, rule.Message)
			}
		}
		if s.XMapType != nil { // a selector, which is one value
			return
		}
		for name, field := range s.Properties {
			if !set[path+"."+name] {
				t.Errorf("no good manifest has %s.%s", path, name)
			}
			walk(path+"."+name, &field)
		}
		if s.Items != nil {
			walk(path, s.Items)
		}
	}
	for kind, custom := range schemas {
		if spec, ok := custom.structural.Properties["spec"]; ok {
			walk(kind.Kind+".spec", &spec)
		}
	}
}

// markFields marks the paths of the fields that value has, without indices.
func markFields(set map[string]bool, path string, value any) {
	set[path] = true
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			markFields(set, path+"."+name, field)
		}
	case []any:
		for _, item := range v {
			markFields(set, path, item)
		}
	}
}
