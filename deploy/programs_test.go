package deploy_test

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// binDir gets the programs, as make build makes them, when a test wants them and
// make has not built them yet.
var binDir string

var makeBuild = sync.OnceValues(func() (out []byte, err error) {
	return exec.Command("make", "-C", "..", "build", "BIN="+binDir).CombinedOutput()
})

func TestMain(m *testing.M) {
	var err error
	if binDir, err = os.MkdirTemp("", "seamark-bin"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(binDir)
	os.Exit(code)
}

func programs(t *testing.T) (dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("to link the programs is not short")
	}
	if dir := os.Getenv("SEAMARK_BIN"); dir != "" { // make has just built them
		return dir
	}
	if out, err := makeBuild(); err != nil {
		t.Fatalf("make build: %v: %s", err, out)
	}
	return binDir
}

// instruction is one of a Dockerfile: its name and its arguments.
type instruction struct {
	name string
	args []string
}

func dockerfile(t *testing.T) []instruction {
	t.Helper()
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var all []instruction
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		if fields := strings.Fields(line); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			all = append(all, instruction{fields[0], fields[1:]})
		}
	}
	return all
}

// The image is static programs of make build on nothing, where the chart looks
// for them.
func TestDockerfile(t *testing.T) {
	bin := programs(t)
	var inImage []string
	for i, in := range dockerfile(t) {
		switch in.name {
		case "FROM":
			if i != 0 || !slices.Equal(in.args, []string{"scratch"}) {
				t.Errorf("FROM %q", in.args)
			}
		case "COPY":
			to := in.args[len(in.args)-1]
			for _, from := range in.args[:len(in.args)-1] {
				inImage = append(inImage, filepath.Join(to, filepath.Base(from)))
				program, ok := strings.CutPrefix(from, "bin/")
				if !ok {
					if _, err := os.Stat(filepath.Join("..", from)); err != nil {
						t.Errorf("COPY: %v", err)
					}
					continue
				}
				checkStatic(t, filepath.Join(bin, program))
			}
		case "ENTRYPOINT":
			if got := strings.Join(in.args, " "); got != `["/usr/local/bin/seamarkd"]` {
				t.Errorf("ENTRYPOINT %s", got)
			}
		case "LABEL":
		default:
			t.Errorf("an image of programs alone needs no %s", in.name)
		}
	}
	for _, want := range []string{"/usr/local/bin/seamarkd", "/usr/local/bin/seamark", "/usr/local/bin/seamark-cni"} {
		if !slices.Contains(inImage, want) {
			t.Errorf("the image has %q and not %s, which the chart runs", inImage, want)
		}
	}
	ignore, err := os.ReadFile("Dockerfile.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range dockerfile(t) {
		if in.name == "COPY" {
			for _, from := range in.args[:len(in.args)-1] {
				if !strings.Contains(string(ignore), "\n!"+from+"\n") {
					t.Errorf("Dockerfile.dockerignore keeps %s from the build", from)
				}
			}
		}
	}
}

// checkStatic refuses a program that needs a loader or libraries.
func checkStatic(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Errorf("make build makes no program %s: %v", filepath.Base(path), err)
		return
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s has a %v: it is not static", filepath.Base(path), p.Type)
		}
	}
}

// Every flag and command that is given to a program is one it has.
func TestFlags(t *testing.T) {
	bin := programs(t)
	pod := daemonSet(t, "cni.enabled=true", "ignoreOtherAnnouncers=true").Spec.Template.Spec
	daemon := container(t, pod.Containers, "seamarkd")
	checkFlags(t, bin, slices.Concat(daemon.Command, daemon.Args))
	for _, c := range pod.InitContainers {
		checkFlags(t, bin, slices.Concat(c.Command, c.Args))
	}
	for _, probe := range []*corev1.Probe{daemon.StartupProbe, daemon.LivenessProbe, daemon.ReadinessProbe} {
		checkFlags(t, bin, probe.Exec.Command)
	}
	env, err := os.ReadFile("systemd/seamarkd.env")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^#?SEAMARKD_FLAGS="(.*)"$`).FindAllSubmatch(env, -1)
	if len(lines) != 2 {
		t.Errorf("%d lines of flags in seamarkd.env", len(lines))
	}
	for _, line := range lines {
		checkFlags(t, bin, append([]string{"/usr/local/bin/seamarkd"}, strings.Fields(string(line[1]))...))
	}
}

func checkFlags(t *testing.T, bin string, command []string) {
	t.Helper()
	program := filepath.Join(bin, filepath.Base(command[0]))
	i := slices.IndexFunc(command, func(arg string) bool { return strings.HasPrefix(arg, "-") })
	if i < 0 {
		i = len(command)
	}
	sub := command[1:i]
	help, err := exec.CommandContext(t.Context(), program, append(slices.Clone(sub), "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, help)
	}
	if len(sub) > 0 && !bytes.Contains(help, []byte(filepath.Base(command[0])+" "+strings.Join(sub, " ")+" ")) {
		t.Errorf("%s has no command %q: %s", command[0], sub, help)
	}
	for _, arg := range command[i:] {
		flag, _, _ := strings.Cut(arg, "=")
		if !regexp.MustCompile(`(?m)^ +` + flag + `\b`).Match(help) {
			t.Errorf("%q has no flag %s", command[:i], flag)
		}
	}
}

// unit are the settings of the systemd unit, by name.
func unit(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("systemd/seamarkd.service")
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			settings[name] = value
		}
	}
	return settings
}

func TestSystemdUnit(t *testing.T) {
	settings := unit(t)
	for name, want := range map[string]string{"Type": "exec", "Restart": "always", "EnvironmentFile": "-/etc/seamark/seamarkd.env",
		"RuntimeDirectory": "seamark", "RuntimeDirectoryPreserve": "yes", "StateDirectory": "seamark",
		"ExecStart": "/usr/local/bin/seamarkd $SEAMARKD_FLAGS", "StartLimitIntervalSec": "0"} {
		if settings[name] != want {
			t.Errorf("%s=%s, want %s", name, settings[name], want)
		}
	}
	if _, ok := settings["ExecStartPre"]; ok {
		t.Error("nothing has to run before the daemon")
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze")
	}
	// It looks for the program, too.
	text, err := os.ReadFile("systemd/seamarkd.service")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seamarkd.service")
	text = bytes.ReplaceAll(text, []byte("/usr/local/bin"), []byte(programs(t)))
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
}

// The daemon works with the rights that the chart and the unit give it, and no
// others: it announces an address, takes over from one that ended, and cleans up.
func TestCapabilities(t *testing.T) {
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("needs root and no -short: it loads BPF programs in a network namespace of its own")
	}
	bin := programs(t)
	added := func(c corev1.Container) (caps []string) {
		for _, c := range c.SecurityContext.Capabilities.Add {
			caps = append(caps, "CAP_"+string(c))
		}
		return caps
	}
	cleaning := daemonSet(t, "cleanup.enabled=true").Spec.Template.Spec
	ofUnit := strings.Fields(unit(t)["CapabilityBoundingSet"])
	for name, tc := range map[string]struct {
		daemon, cleanup []string
		readOnly        string // as the container runtime makes them
	}{
		"chart": {added(container(t, daemonSet(t).Spec.Template.Spec.Containers, "seamarkd")), added(container(t, cleaning.InitContainers, "cleanup")), "/ /proc/sys"},
		"unit":  {ofUnit, ofUnit, "/usr"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "sm") // t.TempDir may be too long for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			bounding := func(caps []string) string {
				set := "-all"
				for _, c := range caps {
					set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
				}
				return set
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			// The namespaces end with the last process in them, the mounts with the namespaces.
			cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", node)
			cmd.Env = append(os.Environ(), "DIR="+dir, "BIN="+bin, "SEAMARK_SOCKET="+dir+"/run/seamark.sock",
				"READ_ONLY="+tc.readOnly, "OF_DAEMON="+bounding(tc.daemon), "OF_CLEANUP="+bounding(tc.cleanup))
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Count(string(out), "announced") != 2 {
				t.Errorf("with %s: %v\n%s", tc.daemon, err, out)
			}
		})
	}
}

// node is a node of its own with a store in the daemon: started, told what to
// announce, stopped, started again, and cleaned up in the end.
const node = `set -eu
ip link set lo up
ip link add d0 type veth peer name d1
ip link set d0 up; ip link set d1 up
ip addr add 192.0.2.1/24 dev d0
mount -t tmpfs tmpfs $DIR
mkdir $DIR/bpf $DIR/run $DIR/state
mount -t bpf bpf $DIR/bpf
for dir in $READ_ONLY; do
	[ $dir = / ] || mount --bind $dir $dir
	mount -o remount,bind,ro $dir
	[ ! -w $dir ]
done
cat >$DIR/objects.yaml <<'END'
apiVersion: v1
kind: Node
metadata: {name: "n"}
spec: {podCIDR: 172.20.0.0/24, podCIDRs: [172.20.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: p}
spec: {blocks: [{cidr: 192.0.2.128/28}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: p}
spec: {loadBalancerIPs: true}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: default}
spec: {type: LoadBalancer, ports: [{port: 80}]}
END
start() {
	setpriv --inh-caps=-all --bounding-set=$OF_DAEMON -- $BIN/seamarkd --node-name n --bpffs $DIR/bpf \
		--run-dir $DIR/run --state-dir $DIR/state --store-dir $DIR/state/store --store-unsafe-no-fsync &
	daemon=$!
	# The deadline is the test's, unless the daemon ends.
	until $BIN/seamark health --ready; do kill -0 $daemon; sleep 0.05; done
}
start
$BIN/seamark apply -f $DIR/objects.yaml
until $BIN/seamark get announcement | grep -q d0; do kill -0 $daemon; sleep 0.05; done
echo announced
kill $daemon; wait $daemon
start
until $BIN/seamark status | grep -q 'd0 .*XDP .*tcx\|d0 .*XDP .*clsact'; do kill -0 $daemon; sleep 0.05; done
until $BIN/seamark get announcement | grep -q d0; do kill -0 $daemon; sleep 0.05; done
echo announced
kill $daemon; wait $daemon
[ -e $DIR/bpf/seamark ]
setpriv --inh-caps=-all --bounding-set=$OF_CLEANUP -- $BIN/seamarkd cleanup --bpffs $DIR/bpf --run-dir $DIR/run --state-dir $DIR/state
[ ! -e $DIR/bpf/seamark ]
`
