package deploy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// docs/objects.md has a row for each field of each kind, and each annotation.
func TestObjectsReference(t *testing.T) {
	text, err := os.ReadFile("../docs/objects.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for section := range strings.SplitSeq(string(text), "\n## ") {
		title, rows, _ := strings.Cut(section, "\n")
		sections[title] = rows
	}
	for name, c := range ownCRDs(t) {
		section := sections[c.Spec.Names.Kind]
		for _, path := range fieldPaths("", *c.Spec.Versions[0].Schema.OpenAPIV3Schema) {
			if !strings.Contains(section, "| `"+path+"` | ") {
				t.Errorf("%s: no row for %s", name, path)
			}
		}
	}
	source, err := os.ReadFile("../api/v1alpha1/types.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\bAnnotation\w+ += "(.*)"`).FindAllSubmatch(source, -1)
	if len(names) < 10 {
		t.Fatalf("%d annotations found", len(names))
	}
	for _, name := range names {
		if !strings.Contains(string(text), "`"+string(name[1])+"`") {
			t.Errorf("no row for the annotation %s", name[1])
		}
	}
}

// fieldPaths are the fields of an object, less those that Kubernetes has documented.
func fieldPaths(path string, object apiextensionsv1.JSONSchemaProps) []string {
	var paths []string
	for name, schema := range object.Properties {
		if path == "" && (name == "apiVersion" || name == "kind" || name == "metadata") {
			continue
		}
		own := path + name
		paths = append(paths, own)
		if schema.Items != nil {
			own, schema = own+"[]", *schema.Items.Schema
		}
		_, selector := schema.Properties["matchExpressions"]
		_, condition := schema.Properties["lastTransitionTime"]
		if !selector && !condition {
			paths = append(paths, fieldPaths(own+".", schema)...)
		}
	}
	return paths
}
