package foreign_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/foreign"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// TestGolden converts the whole manifests of testdata: in.yaml becomes
// out.yaml, with what findings.txt says. UPDATE_SCRIPTS=1 writes both.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]*txtar.File{}
			for i := range archive.Files {
				parts[archive.Files[i].Name] = &archive.Files[i]
			}
			out, findings := golden(t, foreign.Convert(objects(t, string(parts["in.yaml"].Data))))
			if os.Getenv("UPDATE_SCRIPTS") != "" {
				parts["out.yaml"].Data, parts["findings.txt"].Data = []byte(out), []byte(findings)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(parts["out.yaml"].Data); out != want {
				t.Errorf("out.yaml:\n%s\nwant:\n%s", out, want)
			}
			if want := string(parts["findings.txt"].Data); findings != want {
				t.Errorf("findings.txt:\n%s\nwant:\n%s", findings, want)
			}
		})
	}
}

func golden(t *testing.T, all []foreign.Conversion) (out, findings string) {
	t.Helper()
	var documents, lines []string
	for _, c := range all {
		name := c.From.GetKind() + " " + source.ObjectKey(c.From.GetNamespace(), c.From.GetName())
		for _, f := range c.Findings {
			mark := ""
			if f.Fatal {
				mark = " FATAL"
			}
			if f.Unresolved {
				mark = " UNRESOLVED"
			}
			lines = append(lines, fmt.Sprintf("%s%s: %s: %s: %s\n", name, mark, f.Field, f.Message, f.Cure))
		}
		for _, o := range c.Objects {
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
			if err != nil {
				t.Fatal(err)
			}
			if c.Changed {
				delete(content, "status")
				refused(t, content)
			}
			data, err := yaml.Marshal(content)
			if err != nil {
				t.Fatal(err)
			}
			documents = append(documents, string(data))
		}
	}
	return strings.Join(documents, "---\n"), strings.Join(lines, "")
}

// refused fails the test when the standalone store would not take the object.
func refused(t *testing.T, content map[string]any) {
	t.Helper()
	obj := (&unstructured.Unstructured{Object: content}).DeepCopy()
	if kind := obj.GetKind(); kind == "Service" || kind == "EndpointSlice" {
		return // as right as it was
	}
	for _, p := range source.Admit(obj) {
		t.Errorf("what it becomes is refused: %v", p)
	}
}

func objects(t testing.TB, text string) []*unstructured.Unstructured {
	t.Helper()
	manifests, err := source.ReadObjects("in.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	objs := make([]*unstructured.Unstructured, len(manifests))
	for i, m := range manifests {
		objs[i] = m.Object
	}
	return objs
}

// What is translated is translated the same in every pass, and a Fatal finding
// leaves nothing.
func TestTranslateIsStable(t *testing.T) {
	for _, text := range seeds(t) {
		objs := objects(t, text)
		for _, obj := range objs {
			before := obj.DeepCopy()
			first, said := foreign.Translate(obj, objs)
			for range 5 {
				again, saidAgain := foreign.Translate(obj, objs)
				if !reflect.DeepEqual(first, again) || !reflect.DeepEqual(said, saidAgain) {
					t.Fatalf("%s: two translations differ:\n%v %v\n%v %v", obj.GetName(), first, said, again, saidAgain)
				}
			}
			if !reflect.DeepEqual(before, obj) {
				t.Errorf("%s was changed", obj.GetName())
			}
			for _, f := range said {
				if f.Message == "" || f.Cure == "" {
					t.Errorf("%s: a finding without message or cure: %+v", obj.GetName(), f)
				}
				if f.Fatal && len(first) > 0 {
					t.Errorf("%s: objects in spite of %+v", obj.GetName(), f)
				}
			}
		}
	}
}

// seeds are the in.yaml of all golden files.
func seeds(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(archive.Files[0].Data))
	}
	return texts
}

// FuzzTranslate looks for objects that make the translation panic.
func FuzzTranslate(f *testing.F) {
	for _, text := range seeds(f) {
		for _, obj := range objects(f, text) {
			data, err := obj.MarshalJSON()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(data); err != nil {
			return
		}
		foreign.Convert([]*unstructured.Unstructured{obj, obj})
	})
}
