package kernel

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"golang.org/x/sys/unix"
)

// onOneCPU keeps the test on the first CPU.
func onOneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread goes with its CPU
	var cpu unix.CPUSet
	cpu.Set(0)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		t.Fatal(err)
	}
}

// Rows of frontends are remembered, each CPU for itself, until userspace says that
// frontends have changed.
func TestRecentFrontends(t *testing.T) {
	n := newNode(t)
	onOneCPU(t)
	vip6 := netip.MustParseAddr("fd00::211")
	tcp := packet.TCP{SrcPort: 1025, DstPort: 9000, Flags: packet.ACK}
	for name, family := range map[string]struct {
		key any
		in  []byte
	}{
		"frontends":  {bpfFrontendKey{Addr: be32(otherVIP), Port: be16(9000), Proto: packet.ProtoTCP}, packet.Build(fromRouter, packet.IPv4{Src: client, Dst: otherVIP}, tcp)},
		"frontends6": {bpfFrontendKey6{Addr: words(vip6), Port: be16(9000), Proto: packet.ProtoTCP}, packet.Build(fromRouter, packet.IPv6{Src: netip.MustParseAddr("fd01::1"), Dst: vip6}, tcp)},
	} {
		unknown := func() { n.expect(kindXDP, n.out, family.in, xdpPass, "not_ours", nil) }
		known := func() { n.expect(kindXDP, n.out, family.in, xdpDrop, "no_backend", nil) }
		unknown()
		if err := n.maps[name].Put(family.key, bpfFrontend{Set: 7}); err != nil {
			t.Fatal(err)
		}
		known() // what was not there is not remembered
		if err := n.maps[name].Delete(family.key); err != nil {
			t.Fatal(err)
		}
		known()
		n.newEdition()
		unknown()
		n.put(name, family.key, bpfFrontend{Set: 7})
		known()
		n.put(name, family.key, bpfFrontend{Set: 7, Flags: uint32(bpfFrontendFlagsFRONTEND_INSIDE)})
		unknown()
		if err := n.maps[name].Delete(family.key); err != nil {
			t.Fatal(err)
		}
		n.newEdition()
		unknown()
	}

	// More frontends than there is room for, every other one for pods alone.
	ports := 2 * n.maps["recent_frontends"].MaxEntries()
	for port := range ports {
		n.put("frontends", bpfFrontendKey{Addr: be32(otherVIP), Port: be16(uint16(1 + port)), Proto: packet.ProtoTCP},
			bpfFrontend{Set: 7, Flags: port % 2 * uint32(bpfFrontendFlagsFRONTEND_INSIDE)})
	}
	for range 2 {
		for port := range ports {
			in := packet.Build(fromRouter, packet.IPv4{Src: client, Dst: otherVIP}, packet.TCP{SrcPort: 1025, DstPort: uint16(1 + port), Flags: packet.ACK})
			action, err := n.program(kindXDP).Run(runOptions(n, in))
			if want := []uint32{xdpDrop, xdpPass}[port%2]; err != nil || action != want {
				t.Fatalf("port %d: action %d, %v; want %d", 1+port, action, err, want)
			}
		}
	}
}

// Frontends of neighbouring addresses or ports are remembered beside one another: in
// one place, each would push out the other.
func TestRecentFrontendsSpread(t *testing.T) {
	n := newNode(t)
	onOneCPU(t)
	const many, least = 128, 115 // of 1024 places; by chance, 128 frontends share 120
	for name, to := range map[string]func(i int) (netip.Addr, uint16){
		"addresses":      func(i int) (netip.Addr, uint16) { return netip.AddrFrom4([4]byte{10, 3, 0, byte(i)}), 80 },
		"ports":          func(i int) (netip.Addr, uint16) { return otherVIP, uint16(30000 + i) },
		"IPv6 addresses": func(i int) (netip.Addr, uint16) { return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}), 80 },
		"IPv6 ports":     func(i int) (netip.Addr, uint16) { return netip.MustParseAddr("fd00::211"), uint16(30000 + i) },
		"IPv6 networks":  func(i int) (netip.Addr, uint16) { return netip.AddrFrom16([16]byte{0: 0xfd, 7: byte(i), 15: 1}), 80 },
	} {
		var frames [][]byte
		for i := range many {
			addr, port := to(i)
			tcp := packet.TCP{SrcPort: 1025, DstPort: port, Flags: packet.ACK}
			if addr.Is6() {
				frames = append(frames, packet.Build(fromRouter, packet.IPv6{Src: netip.MustParseAddr("fd01::1"), Dst: addr}, tcp))
				n.put("frontends6", bpfFrontendKey6{Addr: words(addr), Port: be16(port), Proto: packet.ProtoTCP}, bpfFrontend{Set: 7})
			} else {
				frames = append(frames, packet.Build(fromRouter, packet.IPv4{Src: client, Dst: addr}, tcp))
				n.put("frontends", bpfFrontendKey{Addr: be32(addr), Port: be16(port), Proto: packet.ProtoTCP}, bpfFrontend{Set: 7})
			}
		}
		for _, in := range frames { // in the edition that the last has made
			n.expect(kindXDP, n.out, in, xdpDrop, "no_backend", nil)
		}
		if got := n.remembered(); got < least {
			t.Errorf("%s: of %d frontends %d are remembered, want %d at least", name, many, got, least)
		}
	}
}

// remembered counts the rows that the first CPU has noted in this edition.
func (n *node) remembered() (count int) {
	n.t.Helper()
	var edition uint32
	if err := n.maps["frontends_edition"].Lookup(uint32(0), &edition); err != nil {
		n.t.Fatal(err)
	}
	for place := range n.maps["recent_frontends"].MaxEntries() {
		var four []bpfRecentFrontend
		var six []bpfRecentFrontend6
		if err := errors.Join(n.maps["recent_frontends"].Lookup(place, &four), n.maps["recent_frontends6"].Lookup(place, &six)); err != nil {
			n.t.Fatal(err)
		}
		if four[0].Key != 0 && four[0].Edition == edition {
			count++
		}
		if six[0].Key[2] != 0 && six[0].Edition == edition {
			count++
		}
	}
	return count
}

// A daemon that died after it had changed a frontend, and before it said so, is made
// up for by the next.
func TestOpenMakesAnEdition(t *testing.T) {
	h := newHost(t)
	edition := func(k *Kernel) (n uint32) {
		t.Helper()
		if err := k.maps["frontends_edition"].Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	k := openWith(t, h.config())
	before := edition(k)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if after := edition(openWith(t, h.config())); after == before {
		t.Errorf("after a restart the edition is still %d", before)
	}
}
