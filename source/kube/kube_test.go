package kube_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var one sync.Mutex // cluster for all tests, one after another, emptied in between
	conformance.Run(t, func(t *testing.T) conformance.Engine {
		one.Lock()
		t.Cleanup(one.Unlock)
		t.Cleanup(func() { c.empty(t) })
		src, db := c.source(t, kube.Config{})
		return conformance.Engine{Source: src, DB: db, Writer: c}
	})
}

// testLog shows what is worth a look when a test fails.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil { // not after the test has ended
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// cluster is an API server, and what an administrator does there. It
// implements source.Objects.
type cluster struct {
	api    *kubeapi.API
	client dynamic.Interface
	// kubeconfig of the daemon, who may do what the chart grants and no more.
	kubeconfig string
}

// newCluster has Seamark's kinds and namespace.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := bareCluster(t)
	c.installKinds(t)
	return c
}

// bareCluster lacks Seamark's kinds.
func bareCluster(t *testing.T) *cluster {
	t.Helper()
	api := kubetest.Start(t)
	config, err := clientcmd.BuildConfigFromFlags("", api.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst, config.UserAgent = 1000, 1000, "kubectl"
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{api: api, client: client, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	rules, err := os.ReadFile("../../deploy/manifests/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.mustCreate(t, string(rules))
	c.writeKubeconfig(t, config)
	return c
}

// writeKubeconfig is for the ServiceAccount seamarkd.
func (c *cluster) writeKubeconfig(t *testing.T, admin *rest.Config) {
	t.Helper()
	core, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	day := int64(24 * 60 * 60)
	token, err := core.CoreV1().ServiceAccounts(source.Namespace).CreateToken(t.Context(), "seamarkd",
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(c.api.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.Token = token.Status.Token
	}
	if err := clientcmd.WriteToFile(*config, c.kubeconfig); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) installKinds(t *testing.T) {
	t.Helper()
	files, err := v1alpha1.CRDs.ReadDir("crds")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := v1alpha1.CRDs.ReadFile("crds/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		c.createCRD(t, data)
	}
}

var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// createCRD returns when the kind is served.
func (c *cluster) createCRD(t *testing.T, data []byte) {
	t.Helper()
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, &crd.Object); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.Resource(crds).Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, crd.GetName()+" is established", func() bool {
		crd, err := c.client.Resource(crds).Get(t.Context(), crd.GetName(), metav1.GetOptions{})
		if err != nil {
			return false
		}
		return slices.ContainsFunc(source.ConditionsOf(crd), func(c metav1.Condition) bool { return c.Type == "Established" && c.Status == "True" })
	})
}

// mustCreate creates the objects of a manifest.
func (c *cluster) mustCreate(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objs []*unstructured.Unstructured
	for doc := range strings.SplitSeq(text, "\n---\n") {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &obj.Object); err != nil {
			t.Fatal(err)
		}
		if len(obj.Object) == 0 {
			continue // comments
		}
		obj, err := c.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		objs = append(objs, obj)
	}
	return objs
}

func (c *cluster) of(kind source.Kind, namespace string) dynamic.ResourceInterface {
	r := c.client.Resource(schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: kind.Plural})
	if kind.Namespaced {
		return r.Namespace(namespace)
	}
	return r
}

func kindOf(obj *unstructured.Unstructured) source.Kind {
	gvk := obj.GroupVersionKind()
	kind, err := source.KindOf(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		return source.Kind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Plural: strings.ToLower(gvk.Kind) + "s", Namespaced: obj.GetNamespace() != ""}
	}
	kind.Version = gvk.Version
	return kind
}

func (c *cluster) Create(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	kind := kindOf(obj)
	if kind.Namespaced && obj.GetNamespace() == "" {
		obj.SetNamespace("default")
	}
	created, err := c.of(kind, obj.GetNamespace()).Create(ctx, obj, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	status, ok := obj.Object["status"]
	if !ok {
		return created, nil
	}
	created.Object["status"] = status
	return c.of(kind, obj.GetNamespace()).UpdateStatus(ctx, created, metav1.UpdateOptions{})
}

func (c *cluster) Get(ctx context.Context, kind source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	return c.of(kind, namespace).Get(ctx, name, metav1.GetOptions{})
}

func (c *cluster) List(ctx context.Context, kind source.Kind, namespace string) ([]*unstructured.Unstructured, error) {
	list, err := c.of(kind, namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	objs := make([]*unstructured.Unstructured, len(list.Items))
	for i := range list.Items {
		objs[i] = &list.Items[i]
	}
	return objs, nil
}

func (c *cluster) Update(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return c.of(kindOf(obj), obj.GetNamespace()).Update(ctx, obj, metav1.UpdateOptions{})
}

func (c *cluster) Delete(ctx context.Context, kind source.Kind, namespace, name string) error {
	return c.of(kind, namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// empty deletes what tests leave behind.
func (c *cluster) empty(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, kind := range source.Kinds() {
		objs, err := c.List(ctx, kind, "")
		if err != nil {
			t.Errorf("empty the cluster: %v", err)
			continue
		}
		for _, obj := range objs {
			keep := kind.Kind == "Namespace" && !slices.Contains([]string{"a", "a-b"}, obj.GetName()) ||
				kind.Kind == "Lease" && obj.GetNamespace() != source.Namespace ||
				kind.Kind == "Service" && obj.GetName() == "kubernetes"
			if keep {
				continue
			}
			if err := c.Delete(ctx, kind, obj.GetNamespace(), obj.GetName()); err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("empty the cluster: %v", err)
			}
		}
	}
}

// source runs a source until the test ends.
func (c *cluster) source(t *testing.T, cfg kube.Config) (*kube.Source, *state.DB) {
	t.Helper()
	db, w := state.New()
	cfg.Kubeconfig = c.kubeconfig
	if cfg.QPS == 0 {
		cfg.QPS = 500
	}
	src, err := kube.New(cfg, db, w, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run source: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the source does not stop")
		}
		src.Close()
	})
	return src, db
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
