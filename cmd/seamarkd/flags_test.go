package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/pflag"
)

// Every refusal names the flag and the cure; nothing is started.
func TestFlagsRefused(t *testing.T) {
	for _, tc := range []struct {
		args string
		want []string
	}{
		{"--store etcd", []string{"--store etcd", "--etcd-endpoints", "http://"}},
		{"--store zookeeper", []string{`--store "zookeeper"`, "kube, embedded or etcd"}},
		{"--kubeconfig k.yaml", []string{"--kubeconfig", "--store kube", "embedded"}},
		{"--store kube --kube-qps 0", []string{"--kube-qps 0", "above 0"}},
		{"--ignore-other-announcers", []string{"--ignore-other-announcers", "--store kube"}},
		{"--store kube --etcd-endpoints http://a:1", []string{"--etcd-endpoints", "--store etcd"}},
		{"--store kube --kubeconfig /proc/none --bpffs /proc/none", []string{"/proc/none"}},
		{"--etcd-endpoints http://10.0.2.10:2379", []string{"--etcd-endpoints", "--store etcd"}},
		{"--store etcd --etcd-endpoints http://a:1 --etcd-cert c.pem", []string{"--etcd-cert", "--etcd-key"}},
		{"--store etcd --etcd-endpoints http://a:1 --etcd-user u", []string{"--etcd-user", "--etcd-password-file"}},
		{"--lease-duration 2s", []string{"--lease-duration 2s", "--lease-renew 1s", "raise"}},
		{"--lease-duration 3500ms", []string{"whole seconds"}},
		{"--restart-grace 1s", []string{"--restart-grace 1s", "--lease-duration 3s"}},
		{"--lease-renew 0s", []string{"--lease-renew 0s"}},
		{"--bfd on", []string{`--bfd "on"`, "auto, true or false"}},
		{"--bgp-drain-delay 11m", []string{"--bgp-drain-delay 11m0s", "0s to 10m0s"}},
		{"--bfd-interval 40ms", []string{"--bfd-interval 40ms", "50ms to 1s"}},
		{"--bfd-multiplier 1", []string{"--bfd-multiplier 1", "2 or more"}},
		{"--mode appliance", []string{`--mode "appliance"`, "node or lb"}},
		{"--forwarding-mode nat", []string{`--forwarding-mode "nat"`, "dsr, snat, hybrid or kube-proxy"}},
		{"--dsr-dispatch vxlan", []string{`--dsr-dispatch "vxlan"`, "ipip or geneve"}},
		{"--kube-proxy-replacement yes", []string{`--kube-proxy-replacement "yes"`, "auto, true or false"}},
		{"--forwarding-mode kube-proxy --kube-proxy-replacement true", []string{"--kube-proxy-replacement true", "--forwarding-mode kube-proxy"}},
		{"--unserved reject", []string{`--unserved "reject"`, "drop or refuse"}},
		{"--node-port-addresses 10.0.0.0/8,10.1.0.1", []string{`--node-port-addresses "10.1.0.1"`, "192.168.10.0/24"}},
		{"--flow-timeout 0s", []string{"--flow-timeout 0s", "2s or more"}},
		{"--udp-answered-timeout 1s", []string{"--udp-answered-timeout 1s", "2s or more"}},
		{"--log-level loud", []string{`--log-level "loud"`, "debug, info, warn or error"}},
		{"store --store-cert c.pem --store-dir /proc/none --run-dir /proc/none", []string{"--store-cert", "--store-key"}},
		{"store --store-cert c.pem --store-key k.pem --store-dir /proc/none --run-dir /proc/none", []string{"--store-listen-client", "https://"}},
		{"extra", []string{"unknown command", "extra"}},
		{"--no-such-flag", []string{"--no-such-flag"}},
		{"store --store-name a --store-initial-cluster a=http://127.0.0.1:1 --store-listen-peer ftp://x --run-dir /proc/none", []string{"--store-listen-peer"}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			cmd := newRootCommand()
			cmd.SetArgs(strings.Fields(tc.args))
			var out bytes.Buffer
			cmd.SetOut(&out)
			cmd.SetErr(&out)
			err := cmd.ExecuteContext(t.Context())
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestDetectConflicts(t *testing.T) {
	for args, want := range map[string]announce.Detection{"": announce.DefaultDetection, "--detect-conflicts=false": {Count: -1}} {
		f, fs := &nodeFlags{}, pflag.NewFlagSet("", pflag.ContinueOnError)
		f.register(fs)
		must(t, fs.Parse(strings.Fields(args)))
		if got := f.detection(); got != want {
			t.Errorf("%q: %+v, want %+v", args, got, want)
		}
	}
}

// An appliance forwards by snat unless told otherwise, and has no pods.
func TestMode(t *testing.T) {
	flags := func(args ...string) (*nodeFlags, error) {
		f, fs := &nodeFlags{}, pflag.NewFlagSet("", pflag.ContinueOnError)
		f.register(fs)
		must(t, fs.Parse(args))
		return f, f.complete()
	}
	for args, want := range map[string]state.Forwarding{
		"--mode=node": state.ForwardDSR, "--mode=lb": state.ForwardSNAT,
		"--mode=lb --forwarding-mode=dsr": state.ForwardDSR, "--forwarding-mode=hybrid": state.ForwardHybrid,
		"--forwarding-mode=kube-proxy": state.ForwardKubeProxy,
	} {
		f, err := flags(append(strings.Fields(args), "--state-dir", t.TempDir())...)
		if err != nil || f.frontends.Forwarding != want {
			t.Errorf("%s: %s, %v; want %s", args, f.frontends.Forwarding, err, want)
		}
	}
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "endpoints"), 0o755))
	write(t, filepath.Join(dir, "endpoints", "lxc1"), "{}", 0o644)
	if _, err := flags("--mode=lb", "--state-dir", dir); err == nil || !strings.Contains(err.Error(), "--mode lb: there are pods") || !strings.Contains(err.Error(), "cleanup") {
		t.Errorf("pods on an appliance: %v", err)
	}
	if f, err := flags("--forwarding-mode=kube-proxy", "--state-dir", t.TempDir()); err != nil || f.frontends.KubeProxyReplacement != datapath.ReplaceFalse {
		t.Errorf("what kube-proxy forwards: %v, and it is replaced: %s", err, f.frontends.KubeProxyReplacement)
	}
	if _, err := flags("--mode=lb", "--forwarding-mode=kube-proxy", "--state-dir", t.TempDir()); err == nil || !strings.Contains(err.Error(), "write dsr, snat or hybrid") {
		t.Errorf("kube-proxy on an appliance: %v", err)
	}
	if _, err := flags("--mode=node", "--state-dir", dir); err != nil {
		t.Errorf("pods on a node: %v", err)
	}
}

func TestNodeIP(t *testing.T) {
	for _, given := range []string{"fe80::1%eth1", "eth1", "203.0.113.77", "fd00::77"} {
		if _, err := outsideOf(given); err == nil || !strings.Contains(err.Error(), "--node-ip") {
			t.Errorf("outsideOf(%q): %v, want an error that names --node-ip", given, err)
		}
	}
	if out, err := outsideOf("127.0.0.1"); err != nil || out.addrs[0].String() != "127.0.0.1" || out.mtu == 0 {
		t.Errorf("outsideOf(127.0.0.1) = %v, %v", out, err)
	}
}

func TestNodeAddrs(t *testing.T) {
	addrs := func(text string) (all []netip.Addr) {
		for _, a := range strings.Fields(text) {
			all = append(all, netip.MustParseAddr(a))
		}
		return all
	}
	for name, row := range map[string]struct {
		own   string
		given bool
		node  string
		want  string
	}{
		"nobody says more":            {own: "10.0.2.15 fd00::15", want: "10.0.2.15 fd00::15"},
		"the node knows better":       {own: "10.0.2.15 fd00::15", node: "192.168.10.100 fd00:10::100", want: "192.168.10.100 fd00:10::100"},
		"what is given comes first":   {own: "192.168.20.1", given: true, node: "192.168.10.100", want: "192.168.20.1 192.168.10.100"},
		"given, and of the node":      {own: "fd00::15", given: true, node: "192.168.10.100 fd00::15", want: "fd00::15 192.168.10.100"},
		"the node has one family":     {own: "192.168.10.100 fd00:10::100", given: true, node: "192.168.10.100", want: "192.168.10.100 fd00:10::100"},
		"of two on the device, first": {own: "192.168.10.100 192.168.10.7 fd00::1 fd00::2", want: "192.168.10.100 fd00::1"},
		"all that the node has":       {own: "192.168.10.100", node: "192.168.10.100 10.9.9.9", want: "192.168.10.100 10.9.9.9"},
	} {
		out := outside{addrs: addrs(row.own), given: row.given}
		if got := out.nodeAddrs(state.Node{Addrs: addrs(row.node)}); !slices.Equal(got, addrs(row.want)) {
			t.Errorf("%s: %v, want %s", name, got, row.want)
		}
	}
}

func TestMSSClamp(t *testing.T) {
	for mtu, want := range map[int]uint16{1500: 1440, 9000: 8940, 65536: 65475, 40: 0} {
		if got := mssClamp(mtu); got != want {
			t.Errorf("mssClamp(%d) = %d, want %d", mtu, got, want)
		}
	}
}
