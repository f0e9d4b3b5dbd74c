package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"testlab": main})
}

// newLabName gives every test a lab of its own, also beside other test processes.
var newLabName = func() func() string {
	var count atomic.Int64
	return func() string { return fmt.Sprintf("t%s%d", strconv.FormatInt(int64(os.Getpid()), 36), count.Add(1)) }
}()

func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("labs are network namespaces: making them needs root and no -short")
	}
}

func TestScripts(t *testing.T) {
	needRoot(t)
	runScripts(t, "testdata")
}

// TestKubeScripts are those of labs with a real Kubernetes.
func TestKubeScripts(t *testing.T) {
	needRoot(t)
	kubetest.Binary(t)
	runScripts(t, "testdata/kube")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			lab := newLabName()
			env.Setenv("LAB", lab)
			// Scripts run elsewhere, and have no home.
			checkout, err := filepath.Abs("../../..")
			if err != nil {
				return err
			}
			cache, err := os.UserCacheDir()
			if err != nil {
				return err
			}
			env.Setenv("CHECKOUT", checkout)
			env.Setenv("XDG_CACHE_HOME", cache)
			env.Defer(func() {
				for _, name := range []string{lab, lab + besideLab} {
					if err := testlab.Down(name); err != nil {
						t.Error(err)
					}
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fetch":             fetchCommand,
			"fetch-from":        fetchCommand,
			"fetch-until":       fetchUntilCommand,
			"kubectl-until":     kubectlUntilCommand,
			"nothing-left":      nothingLeftCommand,
			"as-nobody":         asNobodyCommand,
			"foreign-namespace": foreignNamespaceCommand,
			"namespace-exists":  namespaceExistsCommand,
			"truncate":          pathCommand(func(path string) error { return os.Truncate(path, 10) }),
			"unmount":           pathCommand(func(path string) error { return unix.Unmount(path, unix.MNT_DETACH) }),
		},
	})
}

// fetchCommand: fetch HOST ADDRESS, or fetch-from LAB HOST ADDRESS: GET / from
// there, once; stdout is the body or the error.
func fetchCommand(ts *testscript.TestScript, _ bool, args []string) {
	lab := ts.Getenv("LAB")
	if len(args) == 3 {
		lab, args = args[0], args[1:]
	}
	body, err := fetch(lab, args[0], args[1])
	if err != nil {
		body = err.Error() + "\n"
	}
	io.WriteString(ts.Stdout(), body)
}

// fetchUntilCommand: fetch-until HOST ADDRESS REGEXP tries until the body matches.
func fetchUntilCommand(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[2])
	var body string
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if body, err = fetch(ts.Getenv("LAB"), args[0], args[1]); err == nil && want.MatchString(body) {
			return
		}
	}
	ts.Fatalf("no answer that matches %q within a minute: %q, %v", want, body, err)
}

// kubectlUntilCommand: kubectl-until ARGS REGEXP runs kubectl (on arguments
// without blanks) until its output matches.
func kubectlUntilCommand(ts *testscript.TestScript, _ bool, args []string) {
	l, err := testlab.Open(ts.Getenv("LAB"))
	ts.Check(err)
	h, err := l.Host("api")
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	want := regexp.MustCompile(args[1])
	for {
		out, err := h.Command(ctx, "kubectl", strings.Fields(args[0])...).CombinedOutput()
		if err == nil && want.Match(out) {
			return
		}
		if ctx.Err() != nil {
			ts.Fatalf("kubectl %s: no output that matches %q within 30 s: %s, %v", args[0], want, out, err)
		}
	}
}

func fetch(labName, host, address string) (string, error) {
	l, err := testlab.Open(labName)
	if err != nil {
		return "", err
	}
	h, err := l.Host(host)
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = h.Do(func() (err error) {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// besideLab ends the name of a script's second lab: its namespaces' names begin
// like the first one's.
const besideLab = "-x"

// nothingLeftCommand: nothing-left [SUFFIX] fails if anything of lab $LAB is there.
func nothingLeftCommand(ts *testscript.TestScript, _ bool, args []string) {
	if left := remains(ts.Getenv("LAB") + strings.Join(args, "")); len(left) > 0 {
		ts.Fatalf("left behind: %s", strings.Join(left, ", "))
	}
}

// remains finds whatever there is of a lab in namespaces, mounts, cgroups,
// files and processes. Foreign namespaces of these tests don't count, nor those
// of the lab beside it.
func remains(lab string) []string {
	var left []string
	foreign := func(s string) bool { return strings.Contains(s, "-foreign") || strings.Contains(s, lab+besideLab+"-") }
	for _, pattern := range []string{
		"/run/netns/" + lab + "-*", "/run/testlab/" + lab,
		"/sys/fs/cgroup/testlab/" + lab, "/sys/fs/cgroup/unified/testlab/" + lab,
	} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			if !foreign(f) {
				left = append(left, f)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/run/testlab/"+lab+"/") ||
			strings.Contains(line, "/run/netns/"+lab+"-") && !foreign(line) {
			left = append(left, "mount "+strings.Fields(line)[4])
		}
	}
	// The socket variable marks every process that a lab started.
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range environs {
		data, _ := os.ReadFile(file)
		if strings.Contains(string(data), "SEAMARK_SOCKET=/run/testlab/"+lab+"/") {
			left = append(left, "process "+filepath.Base(filepath.Dir(file)))
		}
	}
	return left
}

// asNobodyCommand runs a command as a user without rights.
func asNobodyCommand(ts *testscript.TestScript, neg bool, args []string) {
	testlabPath, err := exec.LookPath("testlab")
	ts.Check(err)
	// Where that user can reach it.
	dir, err := os.MkdirTemp("", "testlab-nobody")
	ts.Check(err)
	defer os.RemoveAll(dir)
	ts.Check(os.Chmod(dir, 0o755))
	data, err := os.ReadFile(testlabPath)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "testlab"), data, 0o755))
	cmd := exec.Command(filepath.Join(dir, args[0]), args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	if err := cmd.Run(); (err != nil) != neg {
		ts.Fatalf("as nobody: %v", err)
	}
}

// foreignNamespaceCommand makes a namespace that no lab made, and removes it
// when the script ends.
func foreignNamespaceCommand(ts *testscript.TestScript, _ bool, args []string) {
	path := "/run/netns/" + args[0]
	ts.Check(os.WriteFile(path, nil, 0o444))
	cmd := exec.Command("unshare", "--net="+path, "true")
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("unshare: %v: %s", err, out)
	}
	ts.Defer(func() {
		unix.Unmount(path, unix.MNT_DETACH)
		os.Remove(path)
	})
}

func namespaceExistsCommand(ts *testscript.TestScript, _ bool, args []string) {
	var st unix.Statfs_t
	if err := unix.Statfs("/run/netns/"+args[0], &st); err != nil || st.Type != unix.NSFS_MAGIC {
		ts.Fatalf("namespace %s is gone: %v", args[0], err)
	}
}

func pathCommand(do func(string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(do(args[0])) }
}

// TestDownAfterCrash kills `up` at every stage and takes down what it left.
func TestDownAfterCrash(t *testing.T) {
	needRoot(t)
	program := mustLookPath(t)
	finished := false
	for after := time.Duration(0); !finished && after < time.Second; after = after*5/4 + 2*time.Millisecond {
		lab := newLabName()
		cmd := exec.Command(program, "up", "--name", lab, "--no-daemons")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			finished = err == nil
		case <-time.After(after):
			cmd.Process.Kill()
			<-ended
		}
		if err := testlab.Down(lab); err != nil {
			t.Errorf("killed after %v: %v", after, err)
		}
		if left := remains(lab); len(left) > 0 {
			t.Errorf("killed after %v: left behind: %s", after, strings.Join(left, ", "))
		}
	}
	if !finished {
		t.Error("up was never quick enough to be killed at its last stage: raise the limit")
	}
}

// TestUpInterrupted: up that is told to stop cleans up by itself.
func TestUpInterrupted(t *testing.T) {
	needRoot(t)
	lab := newLabName()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := testlab.Up(ctx, testlab.Config{Name: lab, NoDaemons: true, BinDir: filepath.Dir(mustLookPath(t))})
	if err == nil { // it was quicker
		err = testlab.Down(lab)
		if err != nil {
			t.Fatal(err)
		}
	}
	if left := remains(lab); len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

// TestExecPassesSignals: the command takes the place of testlab exec, so that
// signals reach it and its end is seen.
func TestExecPassesSignals(t *testing.T) {
	needRoot(t)
	l := upForTest(t)
	cmd := exec.Command(mustLookPath(t), "exec", "--name", l.Name, "router", "--", "sh", "-c",
		`trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.01; done`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 || string(rest) != "caught\n" {
		t.Errorf("after SIGTERM: %v, output %q; want exit status 9 and caught", err, rest)
	}
}

func mustLookPath(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("testlab")
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// upForTest is a lab without daemons that goes with the test.
func upForTest(t *testing.T) *testlab.Lab {
	t.Helper()
	l, err := testlab.Up(t.Context(), testlab.Config{
		Name: newLabName(), NoDaemons: true, BinDir: filepath.Dir(mustLookPath(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		if left := remains(l.Name); len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, ", "))
		}
	})
	return l
}
