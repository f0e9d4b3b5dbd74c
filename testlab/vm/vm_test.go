package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// Modules of what the tests in the machines use, and our machines' kernels may lack.
var modules = []string{
	"virtio_pci", "virtio_net", "veth", "bridge", "dummy", "tun", "wireguard", "8021q", "bonding", "ipip",
	"sch_ingress", "cls_bpf", "crc32c_generic", "sctp", "af_packet",
}

// The kernels, the floor first.
var kernels = []struct {
	name, suite string
	limit       time.Duration
}{
	{"6.1", "bookworm", 50 * time.Minute}, // on a busy machine
	{"6.12", "bookworm-backports", 50 * time.Minute},
}

// TestKernels runs the datapath's tests on other kernels. A test that fails
// there fails here; what a kernel cannot do, it skips by name.
func TestKernels(t *testing.T) {
	if os.Getenv("SEAMARK_VM") == "" {
		t.Skip("takes minutes: it boots other kernels in QEMU's emulation, for make test-vm")
	}
	dir := t.TempDir()
	initBinary, tests := filepath.Join(dir, "init"), filepath.Join(dir, "kernel.test")
	build(t, "build", "-o", initBinary, "./init")
	build(t, "test", "-c", "-o", tests, "../../datapath/kernel")
	for _, k := range kernels {
		t.Run(k.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), k.limit)
			defer cancel()
			kernel, err := Fetch(ctx, k.suite)
			if errors.Is(err, ErrUnreachable) && k.name != kernels[0].name {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			args := []string{"-test.v", "-test.timeout=" + k.limit.String()}
			if run := os.Getenv("SEAMARK_VM_RUN"); run != "" {
				args = append(args, "-test.run="+run)
			}
			m := Machine{Kernel: kernel, Modules: modules, Init: initBinary, Programs: []Program{{tests, args}}}
			var count tally
			err = m.Run(ctx, func(line string) {
				fmt.Printf("%s| %s\n", k.name, line)
				count.add(line)
			})
			if err != nil {
				t.Error(err)
			}
			if count.passed == 0 {
				t.Error("no test passed")
			}
			for _, name := range missing(&count, os.Getenv("SEAMARK_VM_RUN")) {
				t.Errorf("%s did not pass, and it is for its like that these machines are there", name)
			}
			t.Logf("Linux %s: %d tests passed, %d failed, %d skipped", kernel.Release, count.passed, count.failed, count.skipped)
		})
	}
}

// required are the tests of what the machines have and the kernels that others are run
// on may lack: there, they may be skipped, and here not.
var required = []string{"TestEveryProgramLoads", "TestVLANDevice", "TestBond", "TestIPIPReceiver", "TestSCTP", "TestVirtioCard"}

// missing are the required tests that have not passed; of those that run, an expression
// as of go test -run, alone, if there is one.
func missing(count *tally, run string) []string {
	chosen := regexp.MustCompile(strings.Split(run, "/")[0])
	return slices.DeleteFunc(slices.Clone(required), func(name string) bool {
		return !chosen.MatchString(name) || slices.Contains(count.names, name)
	})
}

// tally counts the tests, without their subtests, in the output of go test -v.
type tally struct {
	passed, failed, skipped int
	names                   []string // of those that passed
}

func (c *tally) add(line string) {
	switch {
	case strings.HasPrefix(line, "--- PASS: "):
		c.passed++
		c.names = append(c.names, strings.Fields(line)[2])
	case strings.HasPrefix(line, "--- FAIL: "):
		c.failed++
	case strings.HasPrefix(line, "--- SKIP: "):
		c.skipped++
	}
}

// build runs the go command, for static binaries.
func build(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", args[0], err, out)
	}
}
