// Command objects writes docs/objects.md, the reference of Seamark's kinds and
// annotations, from what is written beside them in package v1alpha1: the CRDs, and the
// comments of the annotations' names. Run by go generate in that package's directory.
package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"log"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// kinds in the order that people need them in.
var kinds = []string{"IPPool", "L2Policy", "BGPInstance", "BGPPeer", "BGPAdvertisement", "BFDProfile", "AnnouncementSlice"}

// head and notes are what no comment of the code says.
const head = `# Objects and annotations

Every field of Seamark's own kinds, and the annotations of Services. All kinds are of ` + "`seamark.dev/v1alpha1`" + ` and cluster-scoped.
` + "`kubectl explain ippools.seamark.dev.spec`" + ` says the same; ` + "`seamark apply`" + ` and the API server refuse what breaks a rule.
What the kinds are for: [operations.md](operations.md), [bgp.md](bgp.md). Written by ` + "`go generate ./api/v1alpha1`" + ` from the comments there.

A *selector* is Kubernetes' label selector: ` + "`matchLabels`, `matchExpressions`" + `. A *condition* is Kubernetes', too:
` + "`seamark.dev/Accepted`" + ` False names the field that is wrong, and the cure.
`

var notes = map[string]string{
	"IPPool": "```yaml\napiVersion: seamark.dev/v1alpha1\nkind: IPPool\nmetadata: {name: default}\nspec: {blocks: [{cidr: 192.168.10.208/29}, {start: fd00:10::1, stop: fd00:10::ff}]}\n```\n",
	"L2Policy": "```yaml\napiVersion: seamark.dev/v1alpha1\nkind: L2Policy\nmetadata: {name: default}\nspec: {loadBalancerIPs: true}      # without it, or externalIPs, nothing is announced\n```\n\n" +
		"The *outside* interfaces of a node are those that have its address (the Node's InternalIP, `--node-ip`), and those that the `interfaces` of an L2Policy name.\n",
}

func main() {
	log.SetFlags(0)
	text, err := reference(".")
	if err != nil {
		log.Fatal("objects: ", err)
	}
	if err := os.WriteFile("../../docs/objects.md", text, 0o644); err != nil {
		log.Fatal("objects: ", err)
	}
}

// reference is the whole page; dir holds the source of package v1alpha1.
func reference(dir string) ([]byte, error) {
	schemas, err := schemas()
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	page.WriteString(head)
	for _, kind := range kinds {
		schema, ok := schemas[kind]
		if !ok {
			return nil, fmt.Errorf("find the CRD of %s: there is none", kind)
		}
		delete(schemas, kind)
		fmt.Fprintf(&page, "\n## %s\n\n%s\n\n", kind, prose(schema.Description))
		if note := notes[kind]; note != "" {
			page.WriteString(note + "\n")
		}
		writeFields(&page, schema)
	}
	if len(schemas) > 0 {
		return nil, fmt.Errorf("write %q: name them in the order of kinds", slices.Sorted(maps.Keys(schemas)))
	}
	if err := writeAnnotations(&page, dir); err != nil {
		return nil, err
	}
	return page.Bytes(), nil
}

// schemas are those of the CRDs, by kind.
func schemas() (map[string]*apiextensionsv1.JSONSchemaProps, error) {
	paths, err := fs.Glob(v1alpha1.CRDs, "crds/*.yaml")
	if err != nil {
		return nil, err
	}
	found := map[string]*apiextensionsv1.JSONSchemaProps{}
	for _, path := range paths {
		text, err := fs.ReadFile(v1alpha1.CRDs, path)
		if err != nil {
			return nil, err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		found[crd.Spec.Names.Kind] = crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return found, nil
}

// field is one row of a kind's table.
type field struct {
	path     string
	schema   *apiextensionsv1.JSONSchemaProps
	required bool
	rules    []string
}

// writeFields writes the table of a kind's fields, and the rules that several of
// them are to keep together.
func writeFields(page *bytes.Buffer, schema *apiextensionsv1.JSONSchemaProps) {
	var fields []*field
	var together []string
	walk("", schema, &fields, &together)
	page.WriteString("| field | type | default | |\n|---|---|---|---|\n")
	for _, f := range fields {
		preset := ""
		switch {
		case f.schema.Default != nil:
			preset = "`" + strings.Trim(string(f.schema.Default.Raw), `"`) + "`"
		case f.required:
			preset = "required"
		case f.schema.Type == "boolean":
			preset = "`false`"
		}
		meaning := append([]string{prose(f.schema.Description)}, f.rules...)
		fmt.Fprintf(page, "| `%s` | %s | %s | %s |\n", f.path, typeOf(f.schema), preset, cell(strings.Join(meaning, " ")))
	}
	if len(together) > 0 {
		page.WriteString("\n")
		for _, rule := range together {
			fmt.Fprintf(page, "* %s\n", rule)
		}
	}
}

// walk collects the fields of an object and of those in it. What Kubernetes has
// documented (metadata, selectors, conditions) is not gone into.
func walk(path string, object *apiextensionsv1.JSONSchemaProps, fields *[]*field, together *[]string) {
	first := len(*fields)
	for _, name := range slices.Sorted(maps.Keys(object.Properties)) {
		if path == "" && slices.Contains([]string{"apiVersion", "kind", "metadata"}, name) {
			continue
		}
		schema := object.Properties[name]
		f := &field{path: strings.TrimPrefix(path+"."+name, "."), schema: &schema, required: slices.Contains(object.Required, name)}
		inner, innerPath := &schema, f.path
		if schema.Items != nil {
			inner, innerPath = schema.Items.Schema, f.path+"[]"
		}
		*fields = append(*fields, f)
		if len(inner.Properties) == 0 {
			for _, rule := range inner.XValidations {
				f.rules = append(f.rules, sentence(rule.Message))
			}
		} else if typeOf(inner) == "object" {
			walk(innerPath, inner, fields, together)
		}
	}
	for _, rule := range object.XValidations {
		// A rule about one field stands beside it.
		i := slices.IndexFunc((*fields)[first:], func(f *field) bool {
			return rule.FieldPath != "" && f.path == strings.TrimPrefix(path+rule.FieldPath, ".")
		})
		if i < 0 {
			*together = append(*together, fmt.Sprintf("`%s`: %s.", path, rule.Message))
			continue
		}
		f := (*fields)[first+i]
		f.rules = append(f.rules, sentence(rule.Message))
	}
}

// typeOf is what a person writes there.
func typeOf(s *apiextensionsv1.JSONSchemaProps) string {
	switch {
	case s.Items != nil:
		return "list of " + typeOf(s.Items.Schema)
	case len(s.Enum) > 0:
		var values []string
		for _, v := range s.Enum {
			values = append(values, "`"+strings.Trim(string(v.Raw), `"`)+"`")
		}
		return strings.Join(values, ", ")
	case s.Properties["matchExpressions"].Type != "":
		return "selector"
	case s.Properties["lastTransitionTime"].Type != "":
		return "condition"
	case s.Minimum != nil && s.Maximum != nil:
		return fmt.Sprintf("%s, %v to %v", s.Type, int64(*s.Minimum), int64(*s.Maximum))
	case s.Minimum != nil:
		return fmt.Sprintf("%s, from %v", s.Type, int64(*s.Minimum))
	}
	return s.Type
}

// sentence is what a rule says of the field that it stands beside.
func sentence(message string) string {
	verb, _, _ := strings.Cut(message, " ")
	if slices.Contains([]string{"must", "cannot", "goes", "is"}, verb) {
		return "It " + message + "."
	}
	return strings.ToUpper(message[:1]) + message[1:] + "."
}

// prose is a comment as one line.
func prose(description string) string { return strings.Join(strings.Fields(description), " ") }

// cell is prose as it may stand in a table.
func cell(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "|", `\|`) }
