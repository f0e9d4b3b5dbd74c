package pod_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const isolated = "SEAMARK_POD_TEST_ISOLATED"

// The main thread stays the main goroutine's: newNetns would take it with it,
// and /proc/self is the main thread's.
func init() { runtime.LockOSThread() }

// TestMain runs the tests in a network namespace and a mount namespace of
// their own, which end with the process however it ends: the tests' node is
// the process itself, and the pods' namespaces are bind mounts nobody else sees.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(isolated) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL, // of this thread, see init
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "run tests in namespaces of their own:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func needKernel(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no kernel")
	}
	if os.Getenv(isolated) == "" {
		t.Skip("needs root: makes network namespaces")
	}
}

// newNetns makes a network namespace and returns the path it is bound to.
func newNetns(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { removeNetns(t, path) })
	return path
}

func removeNetns(t *testing.T, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("remove network namespace: %v", err)
	}
}

// run runs a command of words separated by spaces in the node's namespace, or
// in that at netns, and returns what it printed.
func run(t *testing.T, netns, words string) string {
	t.Helper()
	out, err := tryRun(netns, words)
	if err != nil {
		t.Fatalf("%s: %v\n%s", words, err, out)
	}
	return out
}

func tryRun(netns, words string) (string, error) {
	args := strings.Fields(words)
	if netns != "" {
		args = append([]string{"nsenter", "--net=" + netns}, args...)
	}
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		runtime.Gosched()
		time.Sleep(2 * time.Millisecond) // between looks at the condition
	}
}
