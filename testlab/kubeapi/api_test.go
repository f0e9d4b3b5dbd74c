package kubeapi_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
)

// kubectl runs kubectl with the administrator's rights.
func kubectl(t *testing.T, api *kubeapi.API, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), kubetest.Binary(t), append([]string{"kubectl", "--kubeconfig", api.Kubeconfig,
		"--cache-dir", filepath.Join(filepath.Dir(api.Kubeconfig), "cache")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func mustKubectl(t *testing.T, api *kubeapi.API, stdin string, args ...string) string {
	t.Helper()
	out, err := kubectl(t, api, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAPIServerComesBack: what it was told outlives it, on the same port.
func TestAPIServerComesBack(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	api := kubetest.Start(t)
	t.Logf("ready after %d ms", time.Since(begin).Milliseconds())
	mustKubectl(t, api, "", "create", "configmap", "note", "--from-literal=text=here")
	begin = time.Now()
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %d ms", time.Since(begin).Milliseconds())
	if out, err := kubectl(t, api, "", "get", "configmap", "note"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a stopped API server answered: %s, %v", out, err)
	}
	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := mustKubectl(t, api, "", "get", "configmap", "note", "-o", "jsonpath={.data.text}"); out != "here" {
		t.Errorf("after it came back it says %q", out)
	}
}

// TestStopIsClean, also under clients that watch.
func TestStopIsClean(t *testing.T) {
	t.Parallel()
	api := kubetest.Start(t)
	mustKubectl(t, api, "", "create", "configmap", "note")
	watch := exec.CommandContext(t.Context(), kubetest.Binary(t), "kubectl", "--kubeconfig", api.Kubeconfig, "get", "configmap", "note", "--watch")
	watch.Env = append(os.Environ(), "KUBECACHEDIR="+t.TempDir())
	out, err := watch.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it prints what there is, and then watches
		t.Fatal(err)
	}
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Errorf("the watch's end: %v", err)
	}
	watch.Wait() // with an error or not: its server has gone
}

// TestVersionsAgree, or kubectl would warn of them with every command.
func TestVersionsAgree(t *testing.T) {
	t.Parallel()
	api := kubetest.Start(t)
	var versions struct {
		ClientVersion, ServerVersion struct{ GitVersion string }
	}
	if err := json.Unmarshal([]byte(mustKubectl(t, api, "", "version", "-o", "json")), &versions); err != nil {
		t.Fatal(err)
	}
	if v := versions.ServerVersion.GitVersion; v != versions.ClientVersion.GitVersion || !strings.HasPrefix(v, "v1.") {
		t.Errorf("versions are %+v", versions)
	}
}

const serviceAndPod = `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: shop-0, labels: {app: shop}}
spec:
  nodeName: nowhere
  containers: [{name: shop, image: shop}]
`

// TestControllersMakeEndpointSlices of pods whose status says that they are ready.
func TestControllersMakeEndpointSlices(t *testing.T) {
	t.Parallel()
	api := kubetest.Start(t, kubeapi.ControllerManager, kubeapi.Scheduler)
	mustKubectl(t, api, "", "create", "-f", filepath.Join("testdata", "node.yaml"))
	mustKubectl(t, api, serviceAndPod, "create", "-f", "-")
	mustKubectl(t, api, "", "patch", "pod", "shop-0", "--subresource=status", "-p",
		`{"status": {"podIP": "172.20.0.9", "podIPs": [{"ip": "172.20.0.9"}], "conditions": [{"type": "Ready", "status": "True"}]}}`)
	var got string
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(got, "172.20.0.9 true"); {
		if time.Now().After(deadline) {
			t.Fatalf("no EndpointSlice with the pod's address: %q", got)
		}
		got = mustKubectl(t, api, "", "get", "endpointslices", "-l", "kubernetes.io/service-name=shop",
			"-o", "jsonpath={.items[*].endpoints[*].addresses[0]} {.items[*].endpoints[*].conditions.ready}")
	}
}

// TestCloseEndsEveryProcess, also those that were stopped or have died.
func TestCloseEndsEveryProcess(t *testing.T) {
	t.Parallel()
	kubetest.Binary(t)
	dir := t.TempDir()
	api, err := kubeapi.Start(t.Context(), dir, kubeapi.ControllerManager, kubeapi.Scheduler)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(processesOf(t, dir)); n != 4 {
		t.Errorf("%d processes, want 4: this test shows nothing", n)
	}
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := api.Close(); err != nil {
		t.Fatal(err)
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := api.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

// processesOf finds those that have the directory on their command line.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		data, _ := os.ReadFile(file)
		if strings.Contains(string(data), dir+"/") {
			found = append(found, strings.ReplaceAll(string(data), "\x00", " "))
		}
	}
	return found
}

// TestStartSaysWhyItFailed, and leaves nothing running.
func TestStartSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	kubetest.Binary(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "etcd"), nil, 0o600); err != nil { // in place of etcd's folder
		t.Fatal(err)
	}
	api, err := kubeapi.Start(t.Context(), dir)
	if err == nil {
		api.Close()
		t.Fatal("it started without its data")
	}
	for _, want := range []string{"start etcd: it has ended", "not a directory"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
