package kubescenario

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestUpgrade: the daemons are replaced by another version one after another,
// as a DaemonSet's rolling update does it, after the CRDs have been changed
// under them; nobody who is connected, or connects, notices.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	if reason := whyNot(); reason != "" {
		t.Skip(reason)
	}
	// This lab's programs are its own: they are about to be replaced.
	programs := t.TempDir()
	if err := os.CopyFS(programs, os.DirFS(binDir)); err != nil {
		t.Fatal(err)
	}
	l := up(t, testlab.Config{BinDir: programs})
	l.applyDemo()
	l.reaches(pods...)
	holder, before := l.holder(), l.announcements(ctr)
	streams := l.streams(60)
	probed, asked := l.probe(), l.watchARP()

	t.Run("CRDs", func(t *testing.T) { l.in(t).changeCRDs() })

	newVersion(t, programs)
	begin := time.Now()
	for _, node := range nodes {
		was := l.status(node).Version
		l.daemon(node, testlab.Stop) // SIGTERM, as the kubelet does
		l.flowing(streams, pods...)
		l.daemon(node, testlab.Start) // returns when it is ready
		l.leased(node)
		s := l.status(node)
		if s.Version != "upgraded" || was == s.Version {
			t.Errorf("%s runs %s, after %s", node, s.Version, was)
		}
		if now := l.announcements(node); now != before {
			t.Errorf("after the upgrade of %s:\n%swas\n%s", node, now, before)
		}
	}
	t.Logf("%d daemons are replaced after %s", len(nodes), ms(time.Since(begin)))
	l.flowing(streams, pods...)
	// The new ones do what the old did.
	l.apply(loadBalanced("after", "", ""))
	l.given("after", "192.168.10.212")
	l.answersAt("192.168.10.212")

	l.held(asked(), l.mac(holder))
	l.unbroken(streams, pods...)
	p := probed()
	t.Logf("new connections: %s", p)
	if p.Refused > 0 || p.Outage > generously {
		t.Errorf("%d new connections were refused; none was answered for %s", p.Refused, ms(p.Outage))
	}
	if gap := streams.Result().LongestGap(); gap > generously {
		t.Errorf("a connection stood still for %s", ms(gap))
	}
}

// newVersion puts another version of the programs into dir, as an update of
// the image does: new files, which do not touch what runs.
func newVersion(t *testing.T, dir string) {
	t.Helper()
	built := filepath.Join(t.TempDir(), "seamarkd")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags",
		"-s -w -X github.com/seamark-lb/seamark/cmd/internal/version.Version=upgraded", "-o", built, "./cmd/seamarkd")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build another version: %v\n%s", err, out)
	}
	if err := os.Rename(built, filepath.Join(dir, "seamarkd")); err != nil {
		t.Fatal(err)
	}
}

// changeCRDs applies CRDs with a field more, as a newer release has them. Every watch of the kinds is ended by it.
func (l lab) changeCRDs() {
	for name, in := range map[string][]string{
		"ippools": {"spec", "properties"}, "l2policies": {"spec", "properties"}, "announcementslices": {},
	} {
		data, err := os.ReadFile("../../api/v1alpha1/crds/seamark.dev_" + name + ".yaml")
		l.must(err)
		crd := map[string]any{}
		l.must(yaml.Unmarshal(data, &crd))
		versions, _, err := unstructured.NestedSlice(crd, "spec", "versions")
		l.must(err)
		path := append(append([]string{"schema", "openAPIV3Schema", "properties"}, in...), "newField")
		l.must(unstructured.SetNestedField(versions[0].(map[string]any), map[string]any{"type": "string"}, path...))
		l.must(unstructured.SetNestedSlice(crd, versions, "spec", "versions"))
		data, err = json.Marshal(crd)
		l.must(err)
		l.apply(string(data))
	}
	l.eventually("the new field is served", func() error {
		_, err := l.tryKubectl("patch", "ippools.seamark.dev", "lab", "--type=merge", "-p", `{"spec":{"newField":"x"}}`)
		if err != nil {
			return err
		}
		out, err := l.tryKubectl("get", "ippools.seamark.dev", "lab", "-o", "jsonpath={.spec.newField}")
		if err == nil && out != "x" {
			err = fmt.Errorf("newField is %q", out)
		}
		return err
	})
	// They are followed as before: a change of the pool is seen.
	l.kubectl("patch", "ippools.seamark.dev", "lab", "--type=merge", "-p",
		`{"spec":{"blocks":[{"start":"192.168.10.211","stop":"192.168.10.216"}]}}`)
	l.available("lab", "5")
	for _, node := range nodes {
		if s := l.status(node); s.Store.Err != "" || !s.Ready {
			l.t.Errorf("%s: store %q, ready %v", node, s.Store.Err, s.Ready)
		}
	}
}
