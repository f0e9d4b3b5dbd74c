package kube_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/seamark-lb/seamark/source/kube"
	"k8s.io/client-go/tools/clientcmd"
)

// podEnv is set where the test binary runs as a Pod's process does.
const podEnv = "SEAMARK_TEST_IN_POD"

// TestInCluster: a Pod, as the DaemonSet's are, finds the API server by its
// environment and its service account's files, which have one place on a machine:
// this binary is run again with a /run of its own.
func TestInCluster(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("files at a Pod's place are mounted: that needs root")
	}
	c := newCluster(t)
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	account := filepath.Join(t.TempDir(), "serviceaccount")
	if err := os.Mkdir(account, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"token": []byte(config.BearerToken), "ca.crt": config.CAData} {
		if err := os.WriteFile(filepath.Join(account, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pod := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-ec", `mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io
cp -r "$0" /run/secrets/kubernetes.io/
exec "$@"`, account, os.Args[0], "-test.run=^TestAsPod$", "-test.v")
	pod.Env = append(os.Environ(), podEnv+"=1", "KUBERNETES_SERVICE_HOST="+server.Hostname(), "KUBERNETES_SERVICE_PORT="+server.Port())
	if out, err := pod.CombinedOutput(); err != nil {
		t.Errorf("as a Pod: %v\n%s", err, out)
	}
}

// TestAsPod is what TestInCluster runs.
func TestAsPod(t *testing.T) {
	if os.Getenv(podEnv) == "" {
		t.Skip("run by TestInCluster")
	}
	src, db := new(cluster).source(t, kube.Config{}) // no kubeconfig
	eventually(t, "all has been read", func() bool {
		snap := db.Snapshot()
		return src.Err() == nil && db.Services.Synced(snap) && db.Pools.Synced(snap) && db.NodeLeases.Synced(snap)
	})
}
