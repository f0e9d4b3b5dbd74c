// Package kubetest gives tests a real Kubernetes control plane.
package kubetest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/kubeapi"
)

// Binary is the control plane's binary. Where it has not been built the test is
// skipped, unless FULL or SEAMARK_KUBE is set: then it is built.
func Binary(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("a real control plane is not short")
	}
	// Read in any case, for go test's cache to know what the outcome hangs on.
	must := os.Getenv("FULL") != "" || os.Getenv("SEAMARK_KUBE") != ""
	path, ok := kubeapi.Binary()
	if ok {
		return path
	}
	if !must {
		t.Skip("the control plane has not been built: run make test-kube")
	}
	path, err := kubeapi.Build(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Start is a control plane of the test's own: etcd, the API server, and what
// else of it the test names. It ends with the test.
func Start(t testing.TB, more ...kubeapi.Component) *kubeapi.API {
	t.Helper()
	Binary(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	api, err := kubeapi.Start(ctx, t.TempDir(), more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	return api
}
