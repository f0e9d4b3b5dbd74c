package deploy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"sigs.k8s.io/yaml"
)

// metricsOf reads the program's source for its metrics: their labels by their names.
func metricsOf(t *testing.T, dir string) map[string][]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string][]string{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			// described(name, help, labels...)
			if f, ok := call.Fun.(*ast.Ident); !ok || f.Name != "described" {
				return true
			}
			var labels []string
			for _, arg := range call.Args[2:] {
				labels = append(labels, literal(t, arg))
			}
			metrics["seamark_"+literal(t, call.Args[0])] = labels
			return true
		})
	}
	if len(metrics) < 40 {
		t.Fatalf("%d metrics found in %s", len(metrics), dir)
	}
	return metrics
}

func literal(t *testing.T, e ast.Expr) string {
	t.Helper()
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("%#v is no string", e)
	}
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var (
	metricName = regexp.MustCompile(`\bseamark_[a-z0-9_]+(\{[^}]*\})?`)
	labelName  = regexp.MustCompile(`([a-z_]+)=`)
	labelShown = regexp.MustCompile(`\$labels\.(\w+)`)
)

// The alerts ask for metrics that there are, by labels that these have.
func TestAlerts(t *testing.T) {
	text, err := os.ReadFile("prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		t.Fatal(err)
	}
	metrics := metricsOf(t, "../cmd/seamarkd")
	asked := 0
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			has := []string{"instance", "job"}
			for _, match := range metricName.FindAllStringSubmatch(rule.Expr, -1) {
				name := match[0][:len(match[0])-len(match[1])]
				labels, ok := metrics[name]
				if !ok {
					t.Errorf("%s: there is no metric %s", rule.Alert, name)
				}
				for _, label := range labelName.FindAllStringSubmatch(match[1], -1) {
					if !slices.Contains(labels, label[1]) {
						t.Errorf("%s: %s has no label %s, but %q", rule.Alert, name, label[1], labels)
					}
				}
				has = append(has, labels...)
				asked++
			}
			for _, shown := range labelShown.FindAllStringSubmatch(rule.Annotations["summary"], -1) {
				if !slices.Contains(has, shown[1]) {
					t.Errorf("%s: the summary shows the label %s, and there are %q", rule.Alert, shown[1], has)
				}
			}
		}
	}
	if asked < 10 {
		t.Errorf("%d metrics asked for", asked)
	}
}

// What the documentation calls by its whole name is there, too.
func TestDocumentedMetrics(t *testing.T) {
	text, err := os.ReadFile("../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics := metricsOf(t, "../cmd/seamarkd")
	names := metricName.FindAllStringSubmatch(string(text), -1)
	if len(names) < 20 {
		t.Fatalf("%d metrics found", len(names))
	}
	for _, match := range names {
		name := match[0][:len(match[0])-len(match[1])]
		if _, ok := metrics[name]; !ok {
			t.Errorf("there is no metric %s", name)
		}
	}
}
