package source_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
)

// Defaults are set as an API server sets them; what kubectl reads, we read.
func TestGoodManifests(t *testing.T) {
	for name, test := range map[string]struct{ manifest, want string }{
		"service": {`
apiVersion: v1
kind: Service
metadata: {name: web, managedFields: [{manager: kubectl}]}
spec: {type: LoadBalancer, ports: [{port: 80}]}`,
			`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"default"},"spec":{` +
				`"allocateLoadBalancerNodePorts":true,"externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster",` +
				`"ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{"port":80,"protocol":"TCP","targetPort":80}],` +
				`"sessionAffinity":"None","type":"LoadBalancer"}}`},
		"pool, with YAML's own booleans, anchors and a null": {`
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: blue}
spec:
  disabled: off
  serviceSelector: &s {matchLabels: {a: b}}
  namespaceSelector: *s
  blocks: [{cidr: 10.0.0.0/24, stop: null}]`,
			`{"apiVersion":"seamark.dev/v1alpha1","kind":"IPPool","metadata":{"name":"blue"},"spec":{"allowFirstLastIPs":"Yes","autoAssign":true,` +
				`"blocks":[{"cidr":"10.0.0.0/24"}],"disabled":false,"namespaceSelector":{"matchLabels":{"a":"b"}},"serviceSelector":{"matchLabels":{"a":"b"}}}}`},
		"endpointslice": {`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"w","namespace":"x"},
	"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[{"port":80}]}`,
			`{"addressType":"IPv4","apiVersion":"discovery.k8s.io/v1","endpoints":[{"addresses":["10.0.0.1"],"conditions":{}}],"kind":"EndpointSlice",` +
				`"metadata":{"name":"w","namespace":"x"},"ports":[{"name":"","port":80,"protocol":"TCP"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			manifests, err := source.ReadManifests("f.yaml", strings.NewReader(test.manifest))
			if err != nil || len(manifests) != 1 {
				t.Fatalf("%d objects: %v", len(manifests), err)
			}
			got, err := json.Marshal(manifests[0].Object)
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(got)) != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			// What was admitted is admitted again, and not changed.
			if problems := source.Admit(manifests[0].Object); len(problems) > 0 {
				t.Errorf("admitted once, not twice: %v", problems)
			}
			if again, err := json.Marshal(manifests[0].Object); err != nil || string(again) != string(got) {
				t.Errorf("admitted again %s (%v)", again, err)
			}
		})
	}
}

// The right objects of a file are returned beside what is wrong in others,
// with the lines they begin at.
func TestManifestLines(t *testing.T) {
	const file = `# a comment
---
kind: Namespace
apiVersion: v1
metadata: {name: a}
--- # another
---
{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}
{"apiVersion": "v1", "kind": "Namespace",
	"metadata": {"name": "c"}}
---
apiVersion: v1
kind: NamespaceList
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: d}}
- apiVersion: v1
  kind: Namespace
  metadata: {nam: e}
...
`
	manifests, err := source.ReadManifests("f.yaml", strings.NewReader(file))
	if want := "f.yaml:18: Namespace: metadata.nam: unknown field: did you mean \"name\"?"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	lines := map[string]int{}
	for _, m := range manifests {
		lines[m.Object.GetName()] = m.Line
	}
	if len(lines) != 4 || lines["a"] != 3 || lines["b"] != 8 || lines["c"] != 9 || lines["d"] != 15 {
		t.Errorf("lines %v", lines)
	}
}

func FuzzReadManifests(f *testing.F) {
	for _, seed := range []string{"", "---\n", "{}", "{\"a\":1}\n{", "kind: List\nitems: [1, {}, []]", "a: &a [*a]",
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 1, targetPort: {}}]}",
		"apiVersion: seamark.dev/v1alpha1\nkind: IPPool\nmetadata: {name: x}\nspec: {blocks: [{start: 1.2.3.4, stop: 1.2.3.9}]}",
		"apiVersion: seamark.dev/v1alpha1\nkind: L2Policy\nmetadata: []\nspec: {interfaces: ['(']}", "metadata: 7\nkind: []\napiVersion: {}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		manifests, err := source.ReadManifests("f", strings.NewReader(text))
		for _, m := range manifests {
			if m.Object == nil || m.Line < 1 || m.Kind.Kind == "" {
				t.Errorf("manifest %+v", m)
			}
		}
		if err != nil && err.Error() == "" {
			t.Error("an error that says nothing")
		}
	})
}
