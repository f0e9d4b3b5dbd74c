package bgp

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
)

const isolated = "SEAMARK_BGP_TEST_ISOLATED"

func init() { runtime.LockOSThread() } // Pdeathsig is of the main thread

// TestMain runs the tests in a network namespace and a mount namespace of their
// own, which end with the process however it ends: the process is the node, and
// the routers beside it have namespaces that nobody else sees.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(isolated) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "run tests in namespaces of their own:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// needRouters skips where the routers of the tests cannot run.
func needRouters(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no routers")
	}
	if os.Getenv(isolated) == "" {
		t.Skip("needs root: makes network namespaces")
	}
	for _, program := range []string{"/usr/lib/frr/bgpd", "/usr/lib/frr/zebra", "/usr/sbin/bird"} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("needs %s: apt-get install frr bird2", program)
		}
	}
}

func run(t testing.TB, words string) string {
	t.Helper()
	args := strings.Fields(words)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", words, err, out)
	}
	return string(out)
}

// eventually waits until try succeeds.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond) // between looks at the condition
	}
}

// wire connects the test's node with a router: 10.9.0.2, fd09::2 and
// fe80::ff:fe00:902 here, 10.9.0.1, fd09::1 and fe80::ff:fe00:901 there, and 10.9.1.2
// and 10.9.1.1 a hop further. It returns what begins a command in the router's namespace.
func wire(t testing.TB) (inRouter string) {
	t.Helper()
	holder := exec.Command("unshare", "--net", "--kill-child", "sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	netns := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	eventually(t, "there is a namespace", func() error {
		if its, err := os.Readlink(netns); err != nil || its == own {
			return fmt.Errorf("it is %s, %v", its, err)
		}
		return nil
	})
	inRouter = "nsenter --net=" + netns + " "
	// Link-local addresses are there at once: FRR gives a session up that has none.
	for _, in := range []string{"", inRouter} {
		run(t, in+"sysctl -qw net.ipv6.conf.default.accept_dad=0")
	}
	run(t, "ip link set lo up")
	// Always of one index: package net remembers for a minute which the zone of an address is.
	run(t, "ip link add tor index 9002 address 02:00:00:00:09:02 type veth peer name node address 02:00:00:00:09:01 netns "+fmt.Sprint(holder.Process.Pid))
	t.Cleanup(func() { exec.Command("ip", "link", "del", "tor").Run() })
	for _, words := range []string{
		"ip addr add 10.9.0.2/24 dev tor", "ip -6 addr add fd09::2/64 dev tor nodad", "ip addr add 10.9.1.2/32 dev tor", "ip link set tor up",
		inRouter + "ip link set lo up", inRouter + "ip addr add 10.9.0.1/24 dev node", inRouter + "ip -6 addr add fd09::1/64 dev node nodad",
		inRouter + "ip addr add 10.9.1.1/32 dev node", inRouter + "ip link set node up",
		"ip route add 10.9.1.1/32 via 10.9.0.1", inRouter + "ip route add 10.9.1.2/32 via 10.9.0.2",
	} {
		run(t, words)
	}
	eventually(t, "the router's interface has its link-local address", func() error {
		if out := run(t, inRouter+"ip -6 address show dev node scope link"); !strings.Contains(out, "fe80::") || strings.Contains(out, "tentative") {
			return errors.New(out)
		}
		return nil
	})
	return inRouter
}

// start runs a program in the router's namespace until the test ends.
func start(t testing.TB, words string) {
	t.Helper()
	args := strings.Fields(words)
	cmd := exec.Command(args[0], args[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(args[2]), out.String())
		}
	})
}
