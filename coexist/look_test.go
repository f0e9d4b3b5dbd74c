package coexist

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// enterNamespace puts the test into a network namespace of its own.
func enterNamespace(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("network namespaces are not short, and need root")
	}
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fresh.Close()
		if err := netns.Set(before); err != nil {
			t.Error(err) // and the thread stays locked, to end with the test
			return
		}
		before.Close()
		runtime.UnlockOSThread()
	})
}

// write makes files below dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(name + " is not installed")
	}
	cmd := exec.Command(name, args...) // in the thread's namespace
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func TestLookCNI(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"20-seamark.conflist": `{"cniVersion": "1.0.0", "name": "seamark", "plugins": [{"type": "seamark-cni"}, {"type": "portmap"}]}`,
		"10-old.conf":         `{"name": "old", "type": "bridge"}`,
		"15-more.json":        `{"name": "more", "plugins": [{"type": "ptp"}]}`,
		"05-cut.conflist":     `{"plugins": [`,
		"06-empty.conflist":   `{"plugins": []}`,
		"07-untyped.conf":     `{"name": "x"}`,
		"01-readme.txt":       `{"type": "none"}`,
		"00-dir.conf/a":       ``,
	})
	var f Findings
	if err := (Host{CNIDir: dir}).cni(&f); err != nil {
		t.Fatal(err)
	}
	want := []CNIConfig{
		{"05-cut.conflist", nil, "unexpected end of JSON input"},
		{"06-empty.conflist", nil, "the list of plugins is empty"},
		{"07-untyped.conf", nil, "a plugin has no type"},
		{"10-old.conf", []string{"bridge"}, ""},
		{"15-more.json", []string{"ptp"}, ""},
		{"20-seamark.conflist", []string{"seamark-cni", "portmap"}, ""},
	}
	if !reflect.DeepEqual(f.CNI, want) {
		t.Errorf("found\n%+v, want\n%+v", f.CNI, want)
	}

	f = Findings{}
	if err := (Host{CNIDir: filepath.Join(dir, "absent")}).cni(&f); err != nil || f.CNI != nil {
		t.Errorf("without the folder: %+v, %v", f.CNI, err)
	}
	if err := (Host{CNIDir: filepath.Join(dir, "10-old.conf")}).cni(&f); err == nil {
		t.Error("a file was read as the folder")
	}
}

// settings of a node: by name below /proc/sys/net.
func settings(t *testing.T, proc string, values map[string]string) {
	t.Helper()
	all := map[string]string{
		"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/all/arp_ignore": "0",
		"ipv4/conf/default/rp_filter": "1", "ipv4/conf/default/arp_ignore": "0",
		"ipv4/conf/lo/rp_filter": "1", "ipv4/conf/lo/arp_ignore": "0",
		"ipv4/conf/eth0/rp_filter": "0", "ipv4/conf/eth0/arp_ignore": "0",
		"ipv4/conf/eth1/rp_filter": "0", "ipv4/conf/eth1/arp_ignore": "0",
	}
	for name, value := range values {
		all[name] = value
	}
	files := map[string]string{}
	for name, value := range all {
		files["sys/net/"+name] = value + "\n"
	}
	write(t, proc, files)
}

func TestLookSettings(t *testing.T) {
	both := []string{"eth0", "eth1"}
	for name, row := range map[string]struct {
		values map[string]string
		want   Findings
	}{
		"as they should be":    {nil, Findings{AnyARP: both}},
		"no forwarding":        {map[string]string{"ipv4/ip_forward": "0"}, Findings{NoForwarding: true, AnyARP: both}},
		"bridges":              {map[string]string{"bridge/bridge-nf-call-iptables": "1"}, Findings{AnyARP: both, BridgeNetfilter: true}},
		"bridges left alone":   {map[string]string{"bridge/bridge-nf-call-iptables": "0"}, Findings{AnyARP: both}},
		"one strict":           {map[string]string{"ipv4/conf/eth1/rp_filter": "1"}, Findings{AnyARP: both, Strict: []string{"eth1"}}},
		"all strict":           {map[string]string{"ipv4/conf/all/rp_filter": "1"}, Findings{AnyARP: both, Strict: both, AllStrict: true}},
		"all strict, one not":  {map[string]string{"ipv4/conf/all/rp_filter": "1", "ipv4/conf/eth0/rp_filter": "2"}, Findings{AnyARP: both, Strict: []string{"eth1"}, AllStrict: true}},
		"all loose":            {map[string]string{"ipv4/conf/all/rp_filter": "2", "ipv4/conf/eth0/rp_filter": "1"}, Findings{AnyARP: both}},
		"one answers strictly": {map[string]string{"ipv4/conf/eth0/arp_ignore": "1"}, Findings{AnyARP: []string{"eth1"}}},
		"all answer strictly":  {map[string]string{"ipv4/conf/all/arp_ignore": "1"}, Findings{}},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			settings(t, proc, row.values)
			var f Findings
			if err := (Host{Proc: proc}).settings(&f); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(f, row.want) {
				t.Errorf("found %+v, want %+v", f, row.want)
			}
		})
	}
	proc := t.TempDir()
	settings(t, proc, map[string]string{"ipv4/ip_forward": "yes"})
	if err := (Host{Proc: proc}).settings(new(Findings)); err == nil || !strings.Contains(err.Error(), "net/ipv4/ip_forward") {
		t.Errorf("no number: %v", err)
	}
}

func TestMadeBy(t *testing.T) {
	for device, want := range map[string]string{
		"cilium_host": "Cilium", "flannel.1": "Flannel", "flannel-wg": "Flannel", "vxlan.calico": "Calico", "cali1234567890a": "Calico",
		"kube-ipvs0": "kube-proxy", "antrea-gw0": "Antrea", "weave": "Weave Net", "kube-bridge": "kube-router", "cni0": "the bridge plugin",
		"eth0": "", "lo": "", "br0": "", "tunl0": "", "weave0": "",
	} {
		if got := madeBy(device); got != want {
			t.Errorf("%s is made by %q, want %q", device, got, want)
		}
	}
}

// TestLook reads a namespace with real devices, settings and rules.
func TestLook(t *testing.T) {
	enterNamespace(t)
	host := Host{CNIDir: t.TempDir(), Proc: "/proc"}
	look := func() Findings {
		t.Helper()
		f, err := host.Look()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if f := look(); f.Devices != nil || f.KubeProxy != nil || f.Bridges != nil {
		t.Errorf("an empty node has %+v", f)
	}

	for _, link := range []netlink.Link{
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "flannel.1"}, PeerName: "eth0"},
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cilium_net"}, PeerName: "cilium_host"},
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}},
	} {
		if err := netlink.LinkAdd(link); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/eth0/rp_filter": "1", "conf/br0/rp_filter": "2", "conf/br0/arp_ignore": "1"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	write(t, host.CNIDir, map[string]string{"10-seamark.conflist": `{"plugins": [{"type": "seamark-cni"}]}`})
	f := look()
	if want := []CNIConfig{{"10-seamark.conflist", []string{OwnPlugin}, ""}}; !reflect.DeepEqual(f.CNI, want) {
		t.Errorf("network configurations %+v, want %+v", f.CNI, want)
	}
	if want := []Device{{"cilium_host", "Cilium"}, {"cilium_net", "Cilium"}, {"flannel.1", "Flannel"}}; !slices.Equal(f.Devices, want) {
		t.Errorf("devices %v, want %v", f.Devices, want)
	}
	if !slices.Equal(f.Bridges, []string{"br0"}) || f.NoForwarding || f.AllStrict {
		t.Errorf("found %+v", f)
	}
	if !slices.Contains(f.Strict, "eth0") || slices.Contains(f.Strict, "br0") {
		t.Errorf("strict are %v", f.Strict)
	}
	if !slices.Contains(f.AnyARP, "eth0") || slices.Contains(f.AnyARP, "br0") {
		t.Errorf("ARP for every address is answered on %v", f.AnyARP)
	}
}

func TestLookKubeProxy(t *testing.T) {
	// What the kubelet and others make is no kube-proxy's.
	const others = "*nat\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-SERVICES-2 - [0:0]\n:MY-KUBE-SERVICES2 - [0:0]\nCOMMIT\n"
	const services = "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
	for name, row := range map[string]struct {
		argv          []string
		others, rules string
		want          ProxyMode
	}{
		"iptables before nftables": {[]string{"iptables-legacy-restore"}, others, services, ModeIPTables},
		"iptables over nftables":   {[]string{"iptables-nft-restore"}, others, services, ModeIPTables},
		"nftables": {[]string{"nft", "-f", "-"}, "table ip kube-proxy-2 {}\ntable ip6 kube-proxy {}\n",
			"table ip kube-proxy {\n\tchain services {\n\t}\n}\n", ModeNFTables},
	} {
		t.Run(name, func(t *testing.T) {
			enterNamespace(t)
			host := Host{CNIDir: t.TempDir(), Proc: "/proc"}
			run(t, row.others, row.argv[0], row.argv[1:]...)
			if f, err := host.Look(); err != nil || f.KubeProxy != nil {
				t.Errorf("without kube-proxy: %v, %v", f.KubeProxy, err)
			}
			run(t, row.rules, row.argv[0], row.argv[1:]...)
			if f, err := host.Look(); err != nil || !slices.Equal(f.KubeProxy, []ProxyMode{row.want}) {
				t.Errorf("with kube-proxy: %v, %v, want %s", f.KubeProxy, err, row.want)
			}
		})
	}
	t.Run("ipvs", func(t *testing.T) {
		enterNamespace(t)
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: ipvsDevice}}); err != nil {
			t.Fatal(err)
		}
		f, err := Host{CNIDir: t.TempDir(), Proc: "/proc"}.Look()
		if err != nil || !slices.Equal(f.KubeProxy, []ProxyMode{ModeIPVS}) {
			t.Errorf("found %v, %v", f.KubeProxy, err)
		}
	})
	// To look makes nothing: asking iptables for a table would.
	t.Run("looking leaves no trace", func(t *testing.T) {
		enterNamespace(t)
		if _, err := (Host{CNIDir: t.TempDir(), Proc: "/proc"}).Look(); err != nil {
			t.Fatal(err)
		}
		names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if len(names) > 0 {
			t.Errorf("tables were made: %s", names)
		}
	})
}
