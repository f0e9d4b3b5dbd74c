package pod_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run the plugin's binary as kubelet's runtime does, against the
// server on the test's node. Their commands: "pod NAME" makes a network
// namespace and sets $NAME to its path; "in NAME WORDS" runs a command there,
// "expand FROM TO" writes a file with its $VARIABLES replaced.
func TestPlugin(t *testing.T) {
	needKernel(t)
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "github.com/seamark-lb/seamark/cmd/seamark-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build seamark-cni: %v\n%s", err, out)
	}
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) { runScript(t, bin, script) })
	}
}

func runScript(t *testing.T, bin, script string) {
	n := newNode(t, "172.20.1.0/24")
	n.serve()
	testscript.RunT(sequential{t}, testscript.Params{
		Files:               []string{script},
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("SOCKET", n.socket)
			env.Setenv("CNI_PATH", bin)
			env.Setenv("CNI_IFNAME", "eth0")
			env.Setenv("CNI_CONTAINERID", "0123456789abcdef0123456789abcdef")
			env.Setenv("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=webpod-0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"pod": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: pod NAME")
				}
				ts.Setenv(args[0], newNetns(t))
			},
			// testscript substitutes variables in commands, not in stdin.
			"expand": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: expand FROM TO")
				}
				text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
				ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
			},
			"in": func(ts *testscript.TestScript, neg bool, args []string) {
				if len(args) < 2 {
					ts.Fatalf("usage: in NAME WORDS")
				}
				cmd := append([]string{"--net=" + ts.Getenv(args[0])}, args[1:]...)
				if err := ts.Exec("nsenter", cmd...); (err != nil) != neg {
					ts.Fatalf("in %v: %v", args, err)
				}
			},
		},
	})
}

// sequential runs a script at once, where testscript would run it beside the others.
type sequential struct{ *testing.T }

func (s sequential) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(sequential{t}) })
}
func (sequential) Parallel()     {}
func (sequential) Verbose() bool { return testing.Verbose() }
