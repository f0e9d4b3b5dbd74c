package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestCheckRelease(t *testing.T) {
	for release, want := range map[string]string{
		"6.1.0-28-amd64":   "",
		"6.18.44":          "",
		"7.0-rc1":          "",
		"10.0.1":           "",
		"6.0.19":           "this is Linux 6.0.19: Seamark needs 6.1 or newer",
		"5.15.0-1-generic": "this is Linux 5.15.0-1-generic: Seamark needs 6.1 or newer",
		"linux":            `"linux" is not one`,
	} {
		if err := checkRelease(release); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("checkRelease(%q) = %v, want %q", release, err, want)
		}
	}
}

func TestMissingRights(t *testing.T) {
	for _, row := range []struct {
		has  []int
		want []string
	}{
		{nil, []string{"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"}},
		{[]int{unix.CAP_SYS_ADMIN}, []string{"CAP_NET_ADMIN"}},
		{[]int{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}, nil},
		{[]int{unix.CAP_BPF, unix.CAP_NET_ADMIN}, []string{"CAP_PERFMON"}},
		{[]int{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN}, nil},
	} {
		if got := missingRights(func(c int) bool { return slices.Contains(row.has, c) }); !slices.Equal(got, row.want) {
			t.Errorf("with %v missing = %v, want %v", row.has, got, row.want)
		}
	}
}

func TestNoBPFFS(t *testing.T) {
	h := newHost(t)
	for name, dir := range map[string]string{"absent": "/nonexistent/bpf", "not one": t.TempDir()} {
		cfg := h.config()
		cfg.BPFFS = dir
		_, err := Open(cfg)
		if err == nil || !strings.Contains(err.Error(), "no BPF filesystem is mounted there") || !strings.Contains(err.Error(), "mount -t bpf bpf "+dir) {
			t.Errorf("%s: Open = %v", name, err)
		}
		if err := Cleanup(dir, h.runDir); err == nil {
			t.Errorf("%s: Cleanup did not mind", name)
		}
	}
}

func TestSecondDaemon(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	for name, try := range map[string]func() error{
		"Open":    func() error { _, err := Open(h.config()); return err },
		"Cleanup": func() error { return Cleanup(h.bpffs, h.runDir) },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), "another seamarkd (process ") || !strings.Contains(err.Error(), "stop it first") {
			t.Errorf("%s beside a daemon = %v", name, err)
		}
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	h.open(t)
}

// Two nodes of one kernel know nothing of each other.
func TestTwoNodes(t *testing.T) {
	one, two := newHost(t), newHost(t)
	k1, k2 := one.open(t), two.open(t)
	if err := k1.maps["frontends"].Put(bpfFrontendKey{Addr: 1}, bpfFrontend{}); err != nil {
		t.Fatal(err)
	}
	if err := k2.maps["frontends"].Lookup(bpfFrontendKey{Addr: 1}, new(bpfFrontend)); err == nil {
		t.Error("the second node has the first one's frontend")
	}
}

func mapID(t testing.TB, m *ebpf.Map) ebpf.MapID {
	t.Helper()
	info, err := m.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return id
}

func linkInfo(t testing.TB, k *Kernel, name string) link.Info {
	t.Helper()
	l, ok := k.links[name]
	if !ok {
		t.Fatalf("no link %s", name)
	}
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	return *info
}

// A restart takes the maps and links over: same maps, same links, new programs.
func TestRestart(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	out, pod := addVeth(t, "out", "out-peer"), addVeth(t, "pod", "pod-peer")
	names := slices.Concat(linkNames(k, out, kindXDP, kindTCOutside), linkNames(k, pod, kindTCPod, kindTCToPod))
	attach := func(k *Kernel) Attachment {
		t.Helper()
		at, err := k.Attach("out")
		if err == nil {
			err = k.AttachPod("pod")
		}
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	first := attach(k)
	maps, links := map[string]ebpf.MapID{}, map[string]link.Info{}
	for name, m := range k.Maps() {
		maps[name] = mapID(t, m)
	}
	for _, name := range names {
		links[name] = linkInfo(t, k, name)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := xdpMode("out"); err != nil {
		t.Errorf("between the daemons: XDP on out: %v", err)
	}

	k = h.open(t)
	for name, m := range k.Maps() {
		if got := mapID(t, m); got != maps[name] {
			t.Errorf("map %s is another one: %d, was %d", name, got, maps[name])
		}
	}
	for _, name := range names { // before anything is attached again
		got := linkInfo(t, k, name)
		if got.ID != links[name].ID || got.Program == links[name].Program {
			t.Errorf("link %s: id %d program %d, was id %d program %d: want the link with a new program", name, got.ID, got.Program, links[name].ID, links[name].Program)
		}
	}
	if second := attach(k); second != first {
		t.Errorf("Attach after restart = %+v, was %+v", second, first)
	}
	for _, name := range names {
		if got := linkInfo(t, k, name); got.ID != links[name].ID {
			t.Errorf("link %s was replaced by Attach", name)
		}
	}
}

func TestDeviceGone(t *testing.T) {
	for name, gone := range map[string]func(t *testing.T, h host, k *Kernel, out, pod netlink.Link) *Kernel{
		"while the daemon runs": func(t *testing.T, _ host, k *Kernel, out, pod netlink.Link) *Kernel {
			if err := k.Detach("out"); err != nil {
				t.Fatal(err)
			}
			if err := k.DetachPod("pod"); err != nil {
				t.Fatal(err)
			}
			return k
		},
		"while it does not": func(t *testing.T, h host, k *Kernel, out, pod netlink.Link) *Kernel {
			k.Close()
			return h.open(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			k := h.open(t)
			out, pod := addVeth(t, "out", "out-peer"), addVeth(t, "pod", "pod-peer")
			if _, err := k.Attach("out"); err != nil {
				t.Fatal(err)
			}
			if err := k.AttachPod("pod"); err != nil {
				t.Fatal(err)
			}
			links := slices.Concat(linkNames(k, out, kindXDP, kindTCOutside), linkNames(k, pod, kindTCPod, kindTCToPod))
			if got := pins(t, linkDir(h.bpffs)); len(got) != len(links) {
				t.Fatalf("pinned links = %v, want %v", got, links)
			}
			for _, dev := range []netlink.Link{out, pod} {
				if err := netlink.LinkDel(dev); err != nil {
					t.Fatal(err)
				}
			}
			k = gone(t, h, k, out, pod)
			if got := pins(t, linkDir(h.bpffs)); len(got) != 0 {
				t.Errorf("pinned links of devices that are gone: %v", got)
			}
			var row bpfDevice
			if err := k.maps["devices"].Lookup(uint32(out.Attrs().Index), &row); err != nil || row != (bpfDevice{}) {
				t.Errorf("row of the device is still in devices: %+v, %v", row, err)
			}
			if _, err := k.Attach("out"); err == nil || !strings.Contains(err.Error(), "attach to out: Link not found") {
				t.Errorf("Attach to a device that is gone = %v", err)
			}
		})
	}
}

// A device that comes back with the number of one that went gets links of its own.
func TestDeviceComesBack(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	for range 2 {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out", Index: 1000}, PeerName: "out-peer"}
		if err := netlink.LinkAdd(veth); err != nil {
			t.Fatal(err)
		}
		if at, err := k.Attach("out"); err != nil || at.XDP != "native" {
			t.Fatalf("Attach = %+v, %v", at, err)
		}
		if err := k.AttachPod("out-peer"); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(veth); err != nil {
			t.Fatal(err)
		}
	}
}

// Devices whose numbers share a place in the map are refused, not mixed up.
func TestDevicesInOnePlace(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	for i, index := range []int{100, 100 + int(bpfMaxDevicesMAX_DEVICES)} {
		name := []string{"one", "two"}[i]
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}, PeerName: name + "-peer"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Attach("one"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Attach("two"); err == nil || !strings.Contains(err.Error(), "attach to two: device number 100 has the place of number 1124") {
		t.Errorf("Attach = %v", err)
	}
	if err := k.Detach("one"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Attach("two"); err != nil {
		t.Errorf("Attach when the place is free = %v", err)
	}
}

func TestAttachNotesChanges(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	dev := addVeth(t, "out", "out-peer")
	for _, mtu := range []int{1500, 1400} {
		if err := netlink.LinkSetMTU(dev, mtu); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Attach("out"); err != nil {
			t.Fatal(err)
		}
		var row bpfDevice
		if err := k.maps["devices"].Lookup(uint32(dev.Attrs().Index), &row); err != nil || int(row.Mtu) != mtu {
			t.Errorf("row = %+v, %v, want mtu %d", row, err, mtu)
		}
	}
}

func TestGenericXDP(t *testing.T) {
	h := newHost(t)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "out"}}); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"not native: ", "as an earlier daemon found it"} { // the mode is known after a restart, too
		k := h.open(t)
		at, err := k.Attach("out")
		if !strings.HasPrefix(at.Why, why) {
			t.Errorf("Why = %q, want %q", at.Why, why)
		}
		at.Why = ""
		if want := (Attachment{Device: "out", XDP: "generic", TC: tcOf(k)}); err != nil || at != want {
			t.Errorf("Attach = %+v, %v, want %+v", at, err, want)
		}
		k.Close()
	}
}

func TestAnotherProgramHasTheDevice(t *testing.T) {
	one, two := newHost(t), newHost(t)
	addVeth(t, "out", "out-peer") // in two's namespace, where the thread is
	k1, k2 := one.open(t), two.open(t)
	if _, err := k1.Attach("out"); err != nil {
		t.Fatal(err)
	}
	if _, err := k2.Attach("out"); err == nil || !strings.Contains(err.Error(), "attach to out: XDP: another program has the device") {
		t.Errorf("Attach = %v", err)
	}
}

// Kernels before 6.6 have filters in place of tcx.
func TestClsact(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	k.tcx = false
	dev := addVeth(t, "pod", "pod-peer")
	filters := func() (programs []int) {
		t.Helper()
		if err := eachFilter(func(_ netlink.Link, f *netlink.BpfFilter) error {
			programs = append(programs, f.Id)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return programs
	}
	for range 2 {
		if err := k.AttachPod("pod"); err != nil {
			t.Fatal(err)
		}
	}
	first := filters()
	if len(first) != 2 {
		t.Fatalf("filters = %v, want one at ingress and one at egress", first)
	}
	if got := filterKind(dev, ebpf.AttachTCXIngress); got != kindTCPod {
		t.Errorf("the filter at ingress is %q", got)
	}

	k.Close()
	k = h.open(t)
	k.tcx = false
	if err := k.replacePrograms(); err != nil {
		t.Fatal(err)
	}
	if second := filters(); len(second) != 2 || slices.ContainsFunc(second, func(id int) bool { return slices.Contains(first, id) }) {
		t.Errorf("filters after a restart = %v, were %v: want as many, with new programs", second, first)
	}
	if err := k.DetachPod("pod"); err != nil {
		t.Fatal(err)
	}
	if err := k.DetachPod("pod"); err != nil {
		t.Errorf("Detach of what is not there = %v", err)
	}
	if got := filters(); len(got) != 0 {
		t.Errorf("filters after Detach = %v", got)
	}
	if err := k.AttachPod("pod"); err != nil {
		t.Fatal(err)
	}
	k.Close()
	if err := Cleanup(h.bpffs, h.runDir); err != nil {
		t.Fatal(err)
	}
	if got := filters(); len(got) != 0 {
		t.Errorf("filters after Cleanup = %v", got)
	}
}

func TestCleanup(t *testing.T) {
	h := newHost(t)
	before := pins(t, h.bpffs) // the kernel's own
	k := h.open(t)
	dev := addVeth(t, "out", "out-peer")
	if _, err := k.Attach("out"); err != nil {
		t.Fatal(err)
	}
	if err := k.AttachPod("out-peer"); err != nil {
		t.Fatal(err)
	}
	xdp := linkInfo(t, k, pinName(kindXDP, dev.Attrs().Index))
	k.Close()
	for range 2 { // of nothing it is no error
		if err := Cleanup(h.bpffs, h.runDir); err != nil {
			t.Fatal(err)
		}
	}
	if got := pins(t, h.bpffs); !slices.Equal(got, before) {
		t.Errorf("left in the bpffs: %v, was %v", got, before)
	}
	if _, err := xdpMode("out"); err == nil {
		t.Error("XDP is still on out")
	}
	if l, err := link.NewFromID(xdp.ID); err == nil {
		l.Close()
		t.Error("the link is still there")
	}
	h.open(t)
}

func TestNewerLayoutIsRefused(t *testing.T) {
	h := newHost(t)
	k := h.open(t)
	if err := k.maps["layout"].Put(uint32(0), uint32(bpfLayoutVersionLAYOUT_VERSION+1)); err != nil {
		t.Fatal(err)
	}
	flows := mapID(t, k.maps["flows"])
	k.Close()
	_, err := Open(h.config())
	if err == nil || !strings.Contains(err.Error(), "their layout 4 is newer than this seamarkd's 3") || !strings.Contains(err.Error(), "seamarkd cleanup") {
		t.Errorf("Open = %v", err)
	}
	left, err := ebpf.LoadPinnedMap(filepath.Join(pinDir(h.bpffs), "flows"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	if mapID(t, left) != flows {
		t.Error("the refused maps were touched")
	}
	if err := Cleanup(h.bpffs, h.runDir); err != nil {
		t.Fatal(err)
	}
	h.open(t)
}

// A newer daemon's maps may be larger, and their values longer or of other
// fields; and an older one may have had maps of its own.
func TestMigration(t *testing.T) {
	h := newHost(t)
	cfg := h.config()
	cfg.Flows = 1024
	k := openWith(t, cfg)
	dev := addVeth(t, "out", "out-peer")
	if _, err := k.Attach("out"); err != nil {
		t.Fatal(err)
	}
	old := &node{t: t, Kernel: k}
	for port := range uint16(100) {
		old.put("flows", bpfFlowKey{ClientPort: port}, bpfFlow{Vip: 7, Port: port, Seen: 9})
	}
	old.put("backends", uint32(5), bpfBackend{Addr: 3})
	linked := linkInfo(t, k, pinName(kindXDP, dev.Attrs().Index))
	backends := mapID(t, k.maps["backends"])
	k.Close()

	// As an older daemon would have left them: a shorter value, a table of fewer
	// slots with one filled, a key of another size, a value of other fields, a map
	// that is no more.
	dir := pinDir(h.bpffs)
	older := func(name string, spec *ebpf.MapSpec, key, value any) {
		t.Helper()
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Put(key, value); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := m.Pin(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	older("next_hops", &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 100}, uint32(99), [2]uint32{3, 4})
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 17, Flags: unix.BPF_F_INNER_MAP}
	table, err := ebpf.NewMap(inner)
	if err != nil {
		t.Fatal(err)
	}
	older("tables", &ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 64, InnerMap: inner}, uint32(10), table)
	older("maglev", &ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 64, InnerMap: inner}, uint32(10), table)
	older("cluster_macs", &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 6, ValueSize: 4, MaxEntries: 100}, [6]byte{1}, uint32(1))
	number := &btf.Int{Name: "unsigned int", Size: 4}
	older("sets", &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 12, MaxEntries: 100, Key: number, Value: &btf.Struct{Name: "backend_set", Size: 12, Members: []btf.Member{
		{Name: "size", Type: &btf.Array{Type: number, Index: number, Nelems: 2}}, {Name: "active", Type: number, Offset: 64},
	}}}, uint32(5), [3]uint32{7, 7, 1})
	tableID := mapID(t, table)
	table.Close()
	older("layout", &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}, uint32(0), uint32(0))

	cfg.Flows = 4096
	k = openWith(t, cfg)
	if got := k.maps["flows"].MaxEntries(); got != 4096 {
		t.Errorf("flows has room for %d, want 4096", got)
	}
	flows := map[bpfFlowKey]bpfFlow{}
	var key bpfFlowKey
	var value bpfFlow
	for it := k.maps["flows"].Iterate(); it.Next(&key, &value); {
		flows[key] = value
	}
	for port := range uint16(100) {
		if got, want := flows[bpfFlowKey{ClientPort: port}], (bpfFlow{Vip: 7, Port: port, Seen: 9}); got != want {
			t.Errorf("flow %d = %+v, want %+v", port, got, want)
		}
	}
	var hop bpfNextHop
	if err := k.maps["next_hops"].Lookup(uint32(99), &hop); err != nil || hop != (bpfNextHop{Ifindex: 3, Vlan: 4}) {
		t.Errorf("next hop = %+v, %v, want it grown with zeros", hop, err)
	}
	var inside *ebpf.Map
	if err := k.maps["tables"].Lookup(uint32(10), &inside); err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if mapID(t, inside) != tableID {
		t.Error("the Maglev table did not move")
	}
	var set bpfBackendSet
	if err := k.maps["sets"].Lookup(uint32(5), &set); err != nil || set != (bpfBackendSet{}) {
		t.Errorf("set = %+v, %v, want nothing: its fields were others", set, err)
	}
	if mapID(t, k.maps["backends"]) != backends {
		t.Error("backends has its old shape, and was made anew")
	}
	if got := linkInfo(t, k, pinName(kindXDP, dev.Attrs().Index)); got.ID != linked.ID {
		t.Error("XDP was detached on the way")
	}
	var version uint32
	if err := k.maps["layout"].Lookup(uint32(0), &version); err != nil || version != uint32(bpfLayoutVersionLAYOUT_VERSION) {
		t.Errorf("layout = %d, %v", version, err)
	}
	for _, name := range pins(t, dir) {
		if _, ours := k.maps[name]; !ours && name != "links" {
			t.Errorf("%s is left over", name)
		}
	}
	// The programs have to use the moved maps, not the old ones.
	ids, _ := programMaps(t, k.programs[programs[kindXDP].name])
	if !slices.Contains(ids, mapID(t, k.maps["flows"])) {
		t.Error("the programs have another flows map than the Kernel")
	}
}

func programMaps(t testing.TB, p *ebpf.Program) ([]ebpf.MapID, bool) {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.MapIDs()
}

// The second copy brings what came meanwhile, and spoils nothing that is newer.
func TestSecondCopy(t *testing.T) {
	newHost(t)
	spec := &ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: 128}
	m := move{name: "test"}
	for _, at := range []**ebpf.Map{&m.old, &m.new} {
		made, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { made.Close() })
		*at = made
	}
	put := func(where *ebpf.Map, key, value uint32) {
		if err := where.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	put(m.old, 1, 1)
	if err := m.copy(ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
	put(m.old, 2, 2) // the old program, before it is replaced
	put(m.new, 1, 3) // the new one
	if err := m.copy(ebpf.UpdateNoExist); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[uint32]uint32{1: 3, 2: 2} {
		var got uint32
		if err := m.new.Lookup(key, &got); err != nil || got != want {
			t.Errorf("entry %d = %d, %v, want %d", key, got, err, want)
		}
	}
}
