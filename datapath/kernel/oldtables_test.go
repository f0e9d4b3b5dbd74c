package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/testlab/packet"
	"golang.org/x/sys/unix"
)

// What a daemon left that had all Maglev tables in one map is moved before the programs
// are replaced: no packet of an upgrade meets a frontend without a table. A window that
// is open stays open.
func TestTablesAreSplit(t *testing.T) {
	h := newHost(t)
	k := openWith(t, worldConfig(h.config()))
	n := h.node(t, k, nil)
	ids := slices.Repeat([]uint32{3, 5 | uint32(bpfSlotSLOT_MOVED)}, 511)[:1021]
	n.table(30, 1, ids)
	n.table(31, 0, slices.Repeat([]uint32{3}, 1021))
	many := make([]uint32, 251)
	for i := range many {
		many[i] = uint32(i + 1)
	}
	n.put("frontends", bpfFrontendKey{Addr: be32(vip), Port: be16(90), Proto: packet.ProtoTCP}, bpfFrontend{Set: 31})
	syn := packet.Build(fromRouter, packet.IPv4{TTL: 63, Src: client, Dst: vip}, packet.TCP{SrcPort: 1025, DstPort: 90, Flags: packet.SYN})
	want := n.run(kindXDP, n.out, syn)
	if want.reason != "forward_remote" {
		t.Fatalf("before: %s", want.reason)
	}

	// As that daemon would have left it.
	for at, slots := range map[uint32][]uint32{4*30 + 1: ids, 4 * 31: slices.Repeat([]uint32{3}, 1021), 4 * 32: many} {
		words := make([]uint64, (len(slots)+2)/3)
		for i, slot := range slots {
			words[i/3] |= uint64(slot) << (i % 3 * 21)
		}
		inner, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: uint32(len(words)), Flags: unix.BPF_F_INNER_MAP})
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Close()
		if _, err := inner.BatchUpdate(numbersTo(uint32(len(words))), words, nil); err != nil {
			t.Fatal(err)
		}
		n.put("tables", at, inner)
	}
	n.put("sets", uint32(32), bpfBackendSet{Size: [4]uint32{251}})
	n.put("layout", uint32(0), uint32(2))
	k.Close()
	for _, name := range pins(t, pinDir(h.bpffs)) {
		if strings.HasPrefix(name, "tables_") {
			if err := os.Remove(filepath.Join(pinDir(h.bpffs), name)); err != nil {
				t.Fatal(err)
			}
		}
	}

	n.Kernel = openWith(t, worldConfig(h.config()))
	if got := n.run(kindXDP, n.out, syn); got.reason != want.reason || !slices.Equal(got.out, want.out) {
		t.Errorf("the first packet of the new programs: %s, want %s as before", got.reason, want.reason)
	}
	remote := packet.Build(fromRouter, packet.IPv4{TTL: 63, Src: client, Dst: vip}, packet.TCP{SrcPort: 1025, DstPort: portRemote, Flags: packet.SYN})
	if got := n.run(kindXDP, n.out, remote); got.reason != "forward_remote" {
		t.Errorf("by a table of another size: %s", got.reason)
	}
	inside := func(name string, at uint32) *ebpf.Map {
		var inner *ebpf.Map
		if err := n.maps[name].Lookup(at, &inner); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
		t.Cleanup(func() { inner.Close() })
		return inner
	}
	got, err := inside("tables_1021", 4*30+1).LookupBytes(uint32(0))
	if err != nil || !slices.Equal(got, smallTable(ids)) {
		t.Errorf("table of 1021 slots: %v, and %d bytes that are not those slots", err, len(got))
	}
	for name, at := range map[string]uint32{"tables": 4 * 31, "tables_251": 4 * 32} {
		if inside(name, at) != nil {
			t.Errorf("%s has a table at %d, where none belongs", name, at)
		}
	}
}
