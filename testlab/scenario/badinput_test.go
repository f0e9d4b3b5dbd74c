package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// refusedManifests say what is wrong with them, with "FILE:" for the file.
var refusedManifests = []struct {
	name, manifest string
	want           []string
}{
	{"pool whose start is after its stop", `apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: backwards}
spec:
  blocks:
  - start: 192.168.10.220
    stop: 192.168.10.213
`, []string{"FILE:6: IPPool backwards: spec.blocks[0]: start 192.168.10.220 is after stop 192.168.10.213: swap them"}},
	{"unknown field", `apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: typo}
spec:
  blcoks:
  - start: 192.168.10.220
`, []string{`FILE:5: IPPool typo: spec.blcoks: unknown field: did you mean "blocks"?`, "spec.blocks: is missing: add it"}},
	{"regular expression that does not compile", `apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: lab}
spec:
  interfaces:
  - '^eth[1'
  loadBalancerIPs: true
`, []string{`FILE:6: L2Policy lab: spec.interfaces[0]: "^eth[1" is no regular expression`, "write an RE2 expression such as"}},
	{"one bad object among good ones", services("good") + `---
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: none}
spec: {blocks: [{cidr: 192.168.10.0/33}]}
`, []string{"FILE:", "IPPool none: spec.blocks[0].cidr", "nothing was changed"}},
	{"kind that does not exist", "apiVersion: seamark.dev/v1alpha1\nkind: IPPol\nmetadata: {name: lab}\n", []string{"FILE:", "IPPol"}},
	{"no YAML", "kind: [\n", []string{"FILE:"}},
}

// TestBadInput: each mistake is named, with its cure, and the VIP is served on.
func TestBadInput(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	streams := l.streams(20)
	before := l.announcements(ctr)
	objects := func() string {
		return l.seamark(api, "get", "ippool", "-o", "yaml") + l.seamark(api, "get", "l2policy", "-o", "yaml")
	}
	mistake := func(name string, make func(*testing.T, lab)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			l := l.in(t)
			make(t, l)
			l.answers()
			l.flowing(streams, podCtr, podW1, podW0)
		})
	}

	for _, bad := range refusedManifests {
		mistake(bad.name, func(t *testing.T, l lab) {
			was := objects()
			file := filepath.Join(t.TempDir(), "bad.yaml")
			l.must(os.WriteFile(file, []byte(bad.manifest), 0o600))
			var want []string
			for _, w := range bad.want {
				want = append(want, strings.ReplaceAll(w, "FILE", file))
			}
			l.refused(ctr, []string{"seamark", "apply", "-f", file}, want...)
			if now := objects(); now != was {
				t.Errorf("objects after the refusal:\n%swere\n%s", now, was)
			}
			l.refused(ctr, []string{"seamark", "get", "service", "good"}, "not found")
		})
	}

	mistake("overlapping pools", func(t *testing.T, l lab) {
		l.apply(`apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: second}
spec:
  blocks: [{start: 192.168.10.214, stop: 192.168.10.220}]
`)
		l.eventually("the second pool is Conflicting", func() error {
			out, err := l.try(ctr, "seamark", "describe", "ippool", "second")
			for _, want := range []string{"seamark.dev/Conflicting", "Overlap", "pool lab, which is older, also holds 192.168.10.214–192.168.10.215"} {
				if err == nil && !strings.Contains(out, want) {
					err = fmt.Errorf("no %q in\n%s", want, out)
				}
			}
			return err
		})
		if out := l.seamark(ctr, "describe", "ippool", "lab"); strings.Contains(out, "pool second") {
			t.Errorf("the first pool:\n%s", out)
		}
		l.apply(services("s2", "s3", "s4", "s5", "s6"))
		for i, name := range []string{"s2", "s3", "s4", "s5"} {
			l.eventually("the first pool gives "+name+" an address", func() error {
				if address, reason := l.service(name); address != fmt.Sprintf("192.168.10.%d", 212+i) {
					return fmt.Errorf("address %q, %s", address, reason)
				}
				return nil
			})
		}
		l.eventually("the second gives none", func() error {
			if address, reason := l.service("s6"); address != "" || reason != "PoolExhausted" {
				return fmt.Errorf("address %q, %s", address, reason)
			}
			return nil
		})
		l.seamark(ctr, "delete", "ippool", "second")
		l.seamark(ctr, "delete", "service", "s2", "s3", "s4", "s5", "s6")
		l.available("4")
	})

	mistake("address outside every pool", func(t *testing.T, l lab) {
		l.apply(strings.Replace(services("far"), "namespace: default", "namespace: default, annotations: {seamark.dev/ips: 192.168.99.1}", 1))
		l.eventually("the Service is told", func() error {
			out, err := l.try(ctr, "seamark", "describe", "service", "far")
			for _, want := range []string{"seamark.dev/IPAMRequestSatisfied", "False", "OutsidePools", "192.168.99.1", "metadata.annotations[seamark.dev/ips]", "add a block"} {
				if err == nil && !strings.Contains(out, want) {
					err = fmt.Errorf("no %q in\n%s", want, out)
				}
			}
			return err
		})
		if address, _ := l.service("far"); address != "" {
			t.Errorf("it has %s", address)
		}
		l.seamark(ctr, "delete", "service", "far")
	})

	mistake("interfaces that match nothing", func(t *testing.T, l lab) {
		l.apply(`apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: nowhere}
spec:
  interfaces: [^wlan]
  loadBalancerIPs: true
`)
		problem := func(s status) bool {
			return strings.Contains(strings.Join(s.Problems, "\n"), `l2policy/nowhere: spec.interfaces[0]: "^wlan" matches no interface of node`)
		}
		for _, node := range nodes {
			l.eventually(node+" says so", func() error {
				if s := l.status(node); !problem(s) {
					return fmt.Errorf("problems %q", s.Problems)
				}
				return nil
			})
		}
		l.seamark(ctr, "delete", "l2policy", "nowhere")
		l.eventually("the problem is gone with the policy", func() error {
			if s := l.status(ctr); problem(s) {
				return fmt.Errorf("problems %q", s.Problems)
			}
			return nil
		})
	})

	daemon := func(node string, flags ...string) []string {
		return append([]string{"seamarkd", "--node-name", node, "--store", "etcd", "--etcd-endpoints", "http://10.0.2.10:2379"}, flags...)
	}
	mistake("second daemon", func(t *testing.T, l lab) {
		holder := l.holder()
		l.refused(holder, daemon(holder, l.nodeFlags(holder)...), "another seamarkd (process ", "runs on this node: stop it first")
		l.refused(holder, append(daemon(holder, l.nodeFlags(holder)...), "--run-dir", t.TempDir()),
			"another seamarkd, with another --run-dir, works with them: stop it first")
		if !l.status(holder).Ready {
			t.Errorf("the first daemon is no longer ready")
		}
	})

	mistake("no bpffs", func(t *testing.T, l lab) {
		dir := t.TempDir()
		for _, bpffs := range []string{dir, filepath.Join(dir, "nothing")} {
			l.refused(ctr, daemon(ctr, "--bpffs", bpffs, "--run-dir", t.TempDir(), "--state-dir", t.TempDir()),
				"open bpffs "+bpffs, "mkdir -p "+bpffs+" && mount -t bpf bpf "+bpffs)
		}
	})

	mistake("no rights", func(t *testing.T, l lab) {
		l.refused(ctr, append([]string{"setpriv", "--inh-caps=-all", "--bounding-set=-all"}, daemon(ctr, l.nodeFlags(ctr)...)...),
			"no CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN: run as root or with these capabilities")
	})

	mistake("flags", func(t *testing.T, l lab) {
		for _, bad := range []struct{ flags, want string }{
			{"--no-such-flag", "unknown flag: --no-such-flag"},
			{"--store=consul", `--store "consul": want kube, embedded or etcd`},
			{"--store=etcd", "--store etcd needs --etcd-endpoints, such as"},
			{"--lease-duration=1s", "--lease-duration 1s is less than three times --lease-renew 1s"},
			{"--restart-grace=1s", "--restart-grace 1s is less than --lease-duration 3s"},
			{"--log-level=loud", `--log-level "loud": want debug, info, warn or error`},
			{"--node-ip=10.9.9.9", "--node-ip 10.9.9.9: no device of this node has it"},
			{"extra", `unknown command "extra"`},
		} {
			l.refused(ctr, []string{"seamarkd", bad.flags}, bad.want)
		}
		l.refused(ctr, []string{"seamark", "get", "pools"}, "ippool")
	})

	for _, s := range nodes {
		if !l.status(s).Ready {
			t.Errorf("%s is not ready", s)
		}
	}
	if now := l.announcements(ctr); now != before {
		t.Errorf("announcements\n%swere\n%s", now, before)
	}
	l.unbroken(streams, generously, podCtr, podW1, podW0)
	l.daemon(l.holder(), testlab.Stop) // after all that, a clean stop is one
}
