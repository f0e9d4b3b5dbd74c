package v1alpha1_test

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"sigs.k8s.io/yaml"
)

func crds(t *testing.T) map[string]*apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	files, err := fs.Glob(v1alpha1.CRDs, "crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*apiextensionsv1.CustomResourceDefinition{}
	for _, file := range files {
		data, err := v1alpha1.CRDs.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(data, &crd); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[crd.Spec.Names.Kind] = &crd
	}
	return all
}

// What an API server asks of a schema: it is structural, and the CEL rules
// compile and cost no more than its limits at their worst.
func TestSchemas(t *testing.T) {
	const perRule, perCRD = 10_000_000, 100_000_000 // KEP-2876
	env := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	for kind, crd := range crds(t) {
		t.Run(kind, func(t *testing.T) {
			var props apiextensions.JSONSchemaProps
			if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, &props, nil); err != nil {
				t.Fatal(err)
			}
			structural, err := schema.NewStructural(&props)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range schema.ValidateStructural(nil, structural) {
				t.Error(err)
			}
			var total uint64
			// times is how often the schema can be there in one object, 0 without a limit.
			var walk func(path string, s *schema.Structural, times uint64)
			walk = func(path string, s *schema.Structural, times uint64) {
				rules, err := cel.Compile(s, model.SchemaDeclType(s, s.XEmbeddedResource), celconfig.PerCallLimit, env, cel.NewExpressionsEnvLoader())
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				for i, rule := range rules {
					if rule.Error != nil {
						t.Errorf("%s: rule %s: %v", path, s.XValidations[i].Rule, rule.Error)
					}
					cost := rule.MaxCost * cmp.Or(times, rule.MaxCardinality)
					if cost > perRule {
						t.Errorf("%s: rule %s costs up to %d", path, s.XValidations[i].Rule, cost)
					}
					total += cost
				}
				for name, field := range s.Properties {
					walk(path+"."+name, &field, times)
				}
				if s.Items != nil {
					var most uint64
					if s.ValueValidation != nil && s.ValueValidation.MaxItems != nil {
						most = uint64(*s.ValueValidation.MaxItems)
					}
					walk(path+"[]", s.Items, times*most)
				}
			}
			walk("", structural, 1)
			if total > perCRD {
				t.Errorf("all rules cost up to %d", total)
			}
		})
	}
}

// Every kind of the scheme has a CRD, every CRD is cluster-scoped, of this
// group, and takes no short name that another project's may have.
func TestCRDNames(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	all := crds(t)
	for kind := range scheme.KnownTypes(v1alpha1.GroupVersion) {
		_, isList := scheme.KnownTypes(v1alpha1.GroupVersion)[kind+"List"]
		if isList && all[kind] == nil {
			t.Errorf("%s has no CRD", kind)
		}
	}
	for kind, crd := range all {
		names := crd.Spec.Names
		if !scheme.Recognizes(v1alpha1.GroupVersion.WithKind(kind)) || !scheme.Recognizes(v1alpha1.GroupVersion.WithKind(names.ListKind)) {
			t.Errorf("%s is not registered", kind)
		}
		if crd.Spec.Group != v1alpha1.GroupVersion.Group || crd.Spec.Scope != apiextensionsv1.ClusterScoped || len(names.ShortNames) > 0 {
			t.Errorf("%s: group %s, scope %s, short names %v", kind, crd.Spec.Group, crd.Spec.Scope, names.ShortNames)
		}
	}
}

// Every field says what it is, in words of its own.
func TestCRDDescriptions(t *testing.T) {
	var walk func(t *testing.T, path string, props apiextensionsv1.JSONSchemaProps)
	walk = func(t *testing.T, path string, props apiextensionsv1.JSONSchemaProps) {
		for name, field := range props.Properties {
			at := path + "." + name
			if field.Description == "" && !strings.HasPrefix(at, ".status") && at != ".metadata" && at != ".spec" {
				t.Errorf("%s has no description", at)
			}
			walk(t, at, field)
		}
		if props.Items != nil && props.Items.Schema != nil {
			walk(t, path+"[]", *props.Items.Schema)
		}
	}
	for kind, crd := range crds(t) {
		t.Run(kind, func(t *testing.T) { walk(t, "", *crd.Spec.Versions[0].Schema.OpenAPIV3Schema) })
	}
}

// What kubectl get prints, as the API server makes it.
func TestColumns(t *testing.T) {
	accepted := `conditions: [{type: seamark.dev/Conflicting, status: "False"}, {type: seamark.dev/Accepted, status: "True"}]`
	const age = "<nil>" // without a creationTimestamp
	for _, test := range []struct {
		kind, object, header, row string
	}{
		{"IPPool", `{spec: {disabled: false}, status: {available: "5", ` + accepted + `}}`,
			"Name|Disabled|Conflicting|IPs Available|Age", "x|false|False|5|" + age},
		{"L2Policy", `{spec: {}, status: {` + accepted + `}}`, "Name|Accepted|Age", "x|True|" + age},
		{"BGPInstance", `{spec: {localASN: 65001}, status: {` + accepted + `}}`, "Name|Local ASN|Accepted|Age", "x|65001|True|" + age},
		{"BGPPeer", `{spec: {peerAddress: 192.168.10.200, peerASN: 65000}, status: {sessions: 3, established: 2, ` + accepted + `}}`,
			"Name|Peer|ASN|Sessions|Established|Accepted|Age", "x|192.168.10.200|65000|3|2|True|" + age},
		{"BGPPeer", `{spec: {interface: eth1, peerASNMode: External}, status: {sessions: 0, established: 0}}`,
			"Name|Peer|ASN|Sessions|Established|Accepted|Age", "x|eth1|External|0|0|<nil>|" + age},
		{"BGPPeer", `{spec: {autoDiscovery: {mode: DefaultGateway, addressFamily: ipv4}, peerASNMode: Any}}`,
			"Name|Peer|ASN|Sessions|Established|Accepted|Age", `x|{"addressFamily":"ipv4","mode":"DefaultGateway"}|Any|<nil>|<nil>|<nil>|` + age},
		{"BGPAdvertisement", `{spec: {peers: [tor1, tor2]}, status: {` + accepted + `}}`, "Name|Peers|Accepted|Age", `x|["tor1","tor2"]|True|` + age},
		{"BFDProfile", `{spec: {transmitInterval: 100, receiveInterval: 300, detectMultiplier: 3}, status: {` + accepted + `}}`,
			"Name|Transmit Interval|Receive Interval|Multiplier|Accepted|Age", "x|100|300|3|True|" + age},
	} {
		t.Run(test.kind+" "+test.object, func(t *testing.T) {
			columns, err := tableconvertor.New(crds(t)[test.kind].Spec.Versions[0].AdditionalPrinterColumns)
			if err != nil {
				t.Fatal(err)
			}
			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(test.object), &obj.Object); err != nil {
				t.Fatal(err)
			}
			obj.SetName("x")
			table, err := columns.ConvertToTable(context.Background(), obj, nil)
			if err != nil || len(table.Rows) != 1 {
				t.Fatalf("%d rows: %v", len(table.Rows), err)
			}
			var header, row []string
			for i, column := range table.ColumnDefinitions {
				if column.Priority == 0 { // the others are for -o wide
					header = append(header, column.Name)
					row = append(row, fmt.Sprint(table.Rows[0].Cells[i]))
				}
			}
			if !slices.Equal(header, strings.Split(test.header, "|")) || !slices.Equal(row, strings.Split(test.row, "|")) {
				t.Errorf("got  %q %q\nwant %s %s", header, row, test.header, test.row)
			}
		})
	}
}
