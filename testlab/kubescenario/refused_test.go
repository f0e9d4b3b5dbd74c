package kubescenario

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
)

// manifests of Seamark's kinds; the README there says what each folder is for.
const customManifests = "../../api/v1alpha1/testdata/"

// TestRefused: the API server says of each bad object what is wrong with it, as
// kubectl prints it, and takes the good ones.
func TestRefused(t *testing.T) {
	t.Parallel()
	api := kubetest.Start(t)
	kubectl := func(args ...string) (string, error) { return kubectlOn(t, api, args...) }
	must := func(args ...string) string {
		t.Helper()
		out, err := kubectl(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	must("apply", "-f", "../../api/v1alpha1/crds")
	must("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

	t.Run("bad", func(t *testing.T) {
		files := manifestsIn(t, "bad")
		out, err := kubectl("create", "-f", customManifests+"bad", "-o", "name")
		if err == nil || out != "" {
			t.Errorf("created %s, error %v", out, err)
		}
		said := map[string]string{}
		for part := range strings.SplitSeq(fmt.Sprint(err), "Error from server") {
			if _, rest, ok := strings.Cut(part, `error when creating "`+customManifests+"bad/"); ok {
				file, message, _ := strings.Cut(rest, `": `)
				said[file] = strings.TrimSpace(message)
			}
		}
		for file, want := range files {
			if want == "" || !strings.Contains(said[file], want) {
				t.Errorf("%s: %q does not say %q", file, said[file], want)
			}
		}
		t.Logf("%d bad objects refused", len(files))
	})
	t.Run("good", func(t *testing.T) {
		files := manifestsIn(t, "good")
		out := must("create", "-f", customManifests+"good", "-o", "name")
		if n := strings.Count(out, "\n"); n != len(files) {
			t.Errorf("of %d files came\n%s", len(files), out)
		}
		must("replace", "-f", customManifests+"good") // immutable fields that stay are no change
		must("delete", "-f", customManifests+"good")
	})
	t.Run("changes", func(t *testing.T) {
		for file, want := range manifestsIn(t, "changes") {
			t.Run(file, func(t *testing.T) {
				data, err := os.ReadFile(customManifests + "changes/" + file)
				if err != nil {
					t.Fatal(err)
				}
				was, is, _ := bytes.Cut(data, []byte("\n---\n"))
				apply := func(manifest []byte) error {
					path := filepath.Join(t.TempDir(), file)
					if err := os.WriteFile(path, manifest, 0o600); err != nil {
						t.Fatal(err)
					}
					_, err := kubectl("apply", "-f", path)
					return err
				}
				if err := apply(was); err != nil {
					t.Fatal(err)
				}
				switch err := apply(is); {
				case want == "none" && err != nil:
					t.Errorf("refused: %v", err)
				case want != "none" && (want == "" || err == nil || !strings.Contains(err.Error(), want)):
					t.Errorf("want it refused with %q, got %v", want, err)
				}
			})
		}
	})
}

// manifestsIn are the files of a folder of customManifests, each with what its
// first line says.
func manifestsIn(t *testing.T, folder string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(customManifests + folder + "/*.yaml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("%d files in %s: %v", len(paths), folder, err)
	}
	files := map[string]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(data), "\n")
		want, ok := strings.CutPrefix(first, "# want: ")
		if !ok {
			want = ""
		}
		files[filepath.Base(path)] = want
	}
	return files
}

// kubectlOn runs kubectl as administrator of a control plane on loopback.
func kubectlOn(t *testing.T, api *kubeapi.API, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), kubetest.Binary(t), append([]string{"kubectl", "--kubeconfig", api.Kubeconfig,
		"--cache-dir", filepath.Join(filepath.Dir(api.Kubeconfig), "cache")}, args...)...)
	return output(cmd)
}
