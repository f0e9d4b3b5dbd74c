package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	chart     = "charts/seamark"
	namespace = "seamark-system"
)

// helmPath is Helm's program, built from helm.mod when it is not in Go's cache
// (a minute on two cores).
var helmPath = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-n", "-modfile=../helm.mod", "helm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// helm runs Helm with files of its own. The error has what it wrote to stderr.
func helm(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	if testing.Short() {
		t.Skip("to build Helm is not short")
	}
	path, err := helmPath()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, &stderr)
	}
	return out.String(), nil
}

// template renders the chart, with --set flags or others.
func template(t *testing.T, flags ...string) (string, error) {
	t.Helper()
	// No cluster is asked for its version: the oldest that the chart supports.
	return helm(t, append([]string{"template", "seamark", chart, "--namespace", namespace, "--kube-version", "1.30.0"}, flags...)...)
}

// rendered is what the chart makes of the values, each document decoded strictly.
func rendered(t *testing.T, flags ...string) []runtime.Object {
	t.Helper()
	text, err := template(t, flags...)
	if err != nil {
		t.Fatal(err)
	}
	objs, err := decode(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// decode reads YAML documents. A kind, field or duplicate that is unknown to
// the Go types is an error.
func decode(r io.Reader) ([]runtime.Object, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme,
		apiextensionsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	docs := yaml.NewDocumentDecoder(io.NopCloser(r))
	defer docs.Close()
	var objs []runtime.Object
	buf := make([]byte, 1<<20) // the decoder hands out a document per Read
	for {
		n, err := docs.Read(buf)
		if errors.Is(err, io.EOF) {
			return objs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(objs)+1, err)
		}
		if empty(buf[:n]) {
			continue
		}
		obj, _, err := strict.Decode(buf[:n], nil, nil)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w\n%.300s", len(objs)+1, err, buf[:n])
		}
		objs = append(objs, obj)
	}
}

// empty says whether a document has nothing but comments.
func empty(doc []byte) bool {
	for line := range strings.Lines(string(doc)) {
		if line = strings.TrimSpace(line); line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func decodeFile(t *testing.T, path string) []runtime.Object {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	objs, err := decode(f)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return objs
}

// only returns the objects of type T.
func only[T runtime.Object](objs []runtime.Object) []T {
	var found []T
	for _, obj := range objs {
		if obj, ok := obj.(T); ok {
			found = append(found, obj)
		}
	}
	return found
}

// one returns the only object of type T.
func one[T runtime.Object](t *testing.T, objs []runtime.Object) T {
	t.Helper()
	found := only[T](objs)
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T, want one", len(found), *new(T))
	}
	return found[0]
}

// names are the objects as kind/name, in their order.
func names(t *testing.T, objs []runtime.Object) []string {
	t.Helper()
	var all []string
	for _, obj := range objs {
		all = append(all, kindOf(obj).Kind+"/"+obj.(metav1.Object).GetName())
	}
	return all
}

func kindOf(obj runtime.Object) schema.GroupVersionKind {
	return obj.GetObjectKind().GroupVersionKind()
}
