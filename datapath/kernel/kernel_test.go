package kernel

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// host is a node for a test: a network namespace of its own and a BPF filesystem.
type host struct {
	bpffs, runDir string
	net           netns.NsHandle
}

// newHost makes a host and puts the test's thread into its namespace.
func newHost(t testing.TB) host {
	t.Helper()
	h := newNetwork(t)
	h.bpffs, h.runDir = mountBPFFS(t), t.TempDir()
	return h
}

// newNetwork makes a host that is no more than its namespace.
func newNetwork(t testing.TB) host {
	t.Helper()
	if testing.Short() || os.Getuid() != 0 {
		t.Skip("needs root and no -short: it loads BPF programs into network namespaces")
	}
	h := host{net: newNamespace(t)}
	enter(t, h.net)
	// Nothing but the test's own packets.
	writeSysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
	writeSysctl(t, "net/ipv6/conf/default/disable_ipv6", "1")
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// newNamespace makes a network namespace, which goes with the test.
func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	made, err := netns.New() // and enters it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close() })
	if err := netns.Set(before); err != nil {
		t.Fatal(err)
	}
	return made
}

// enter puts the test's thread into a namespace until the test ends. A subtest
// has a thread of its own, and enters for itself.
func enter(t testing.TB, ns netns.NsHandle) {
	t.Helper()
	runtime.LockOSThread()
	before, err := netns.Get()
	if err == nil {
		err = netns.Set(ns)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer before.Close()
		if err := netns.Set(before); err != nil {
			t.Fatal(err) // the thread stays locked, and ends with the test
		}
		runtime.UnlockOSThread()
	})
}

func mountBPFFS(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// testSizes are room enough for tests, and quick to fill and to empty.
var testSizes = Sizes{Flows: 4096, HalfOpen: 4096, Pins: 4096, NAT: 4096, Affinity: 4096, Fragments: 4096}

func (h host) config() Config {
	return Config{
		BPFFS:    h.bpffs,
		RunDir:   h.runDir,
		NodeAddr: netip.MustParseAddr("192.168.10.100"),
		Sizes:    testSizes,
		Log:      slog.New(slog.DiscardHandler),
	}
}

func (h host) open(t testing.TB) *Kernel {
	t.Helper()
	return openWith(t, h.config())
}

func openWith(t testing.TB, cfg Config) *Kernel {
	t.Helper()
	k, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// addVeth makes a pair of devices, both in the test's namespace, and up.
func addVeth(t testing.TB, name, peer string) netlink.Link {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{name, peer} {
		dev, err := netlink.LinkByName(n)
		if err == nil {
			err = netlink.LinkSetUp(dev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dev, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func pins(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range found {
		found[i] = filepath.Base(found[i])
	}
	return found
}

// tcOf is how tc programs are attached here.
func tcOf(k *Kernel) string {
	if k.tcx {
		return "tcx"
	}
	return "clsact"
}

// linkNames are the links of these kinds on a device, sorted: without tcx, tc
// programs have none.
func linkNames(k *Kernel, dev netlink.Link, kinds ...string) []string {
	var names []string
	for _, kind := range kinds {
		if kind == kindXDP || k.tcx {
			names = append(names, pinName(kind, dev.Attrs().Index))
		}
	}
	slices.Sort(names)
	return names
}

func TestAttach(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	dev := addVeth(t, "out", "out-peer")
	at, err := k.Attach("out")
	if err != nil {
		t.Fatal(err)
	}
	if at != (Attachment{Device: "out", XDP: "native", TC: tcOf(k)}) {
		t.Errorf("Attach = %+v", at)
	}
	var row bpfDevice
	if err := k.Maps()["devices"].Lookup(uint32(dev.Attrs().Index), &row); err != nil {
		t.Fatal(err)
	}
	if string(row.Mac[:]) != string(dev.Attrs().HardwareAddr) || row.Mtu != 1500 {
		t.Errorf("device row = %+v", row)
	}
	if got, want := pins(t, linkDir(h.bpffs)), linkNames(k, dev, kindXDP, kindTCOutside); !slices.Equal(got, want) {
		t.Errorf("pinned links = %v, want %v", got, want)
	}
	if err := k.Detach("out"); err != nil {
		t.Fatal(err)
	}
	if got := pins(t, linkDir(h.bpffs)); len(got) != 0 {
		t.Errorf("pinned links after Detach = %v", got)
	}
}

// The object has to come out the same wherever it is made.
func TestObjectHasNoPaths(t *testing.T) {
	for _, path := range []string{"/work/", "/home/", "/root/", "/tmp/", "/usr/"} {
		if strings.Contains(string(_BpfBytes), path) {
			t.Errorf("the object has a path in %s in it", path)
		}
	}
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// writeSysctl sets a sysctl of the thread's network namespace.
func writeSysctl(t testing.TB, name, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}
