package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// What a run is made of, unless the environment says otherwise: the same packets each
// time, as many as CI can bear, or on a slow machine as many as there is time for.
const (
	fuzzSeed    = 1
	fuzzPackets = 100_000
	fuzzTime    = time.Minute
)

// Whatever comes in, and in whatever order: one verdict that the hook may give, counted
// once, as a drop if it is one; what is not ours stays as it is; what is sent or passed on
// is the packet that came in, whole, its checksums as right or wrong as they were; and what
// is answered is right. SEAMARK_FUZZ_SEED and SEAMARK_FUZZ_FOR ask for other packets, and
// for more (make fuzz).
func TestRandomPackets(t *testing.T) {
	seed, packets, length := uint64(fuzzSeed), fuzzPackets, fuzzTime
	var err, bad error
	if s := os.Getenv("SEAMARK_FUZZ_SEED"); s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
	}
	if s := os.Getenv("SEAMARK_FUZZ_FOR"); s != "" {
		packets = math.MaxInt
		length, bad = time.ParseDuration(s)
	}
	if err := errors.Join(err, bad); err != nil {
		t.Fatal(err)
	}
	z := newFuzzer(t)
	z.random = rand.New(rand.NewPCG(seed, seed))
	begun := time.Now()
	// part is how much of the run is over.
	part := func() float64 {
		return max(float64(z.sent)/float64(packets), float64(time.Since(begun))/float64(length))
	}
	full := false
	for conversations := 0; part() < 1; conversations++ {
		if conversations%64 == 0 {
			z.change()
		}
		if part() > 0.85 && !full {
			full = true
			z.checkPairs()
			z.fillTables()
		}
		z.converse()
		if t.Failed() {
			t.Fatalf("SEAMARK_FUZZ_SEED=%d, packet %d", seed, z.sent)
		}
	}
	t.Logf("seed %d: %d packets, %.0f in a second: %v", seed, z.sent, float64(z.sent)/time.Since(begun).Seconds(), z.seen)
	if z.sent < fuzzPackets {
		return // too few to ask for more of them
	}
	// The run is worth nothing when all of it ends at the first check.
	for _, reason := range z.reasons {
		if z.seen[reason] == 0 && !slices.Contains(unreachable, reason) {
			t.Errorf("no packet of the run was %q", reason)
		}
	}
}

// unreachable are the reasons that a run cannot be asked for.
var unreachable = []string{
	"unspec",          // of no packet
	"flow_table",      // LRU tables make room, while there is memory
	"neighbour_quota", // by the clock
	"nat_ports",       // there are more ports than a test's table has room for
}

// FuzzPackets is for go test -fuzz: a packet into one of the programs, the same again, and
// what the other end might answer. Flows stay from one input to the next.
func FuzzPackets(f *testing.F) {
	z := newFuzzer(f)
	for _, s := range z.seeds {
		f.Add(uint8(slices.Index(fuzzed, s.kind)), s.frame)
	}
	inputs := make(chan func())
	defer close(inputs)
	go func() { // to enter the namespace takes far longer than a packet
		runtime.LockOSThread() // and the thread ends with this
		if err := netns.Set(z.net); err != nil {
			f.Error(err)
		}
		for input := range inputs {
			input()
		}
	}()
	f.Fuzz(func(t *testing.T, kind uint8, frame []byte) {
		if len(frame) < 14 || len(frame) > 9000 {
			return
		}
		done := make(chan struct{})
		inputs <- func() {
			defer close(done)
			n := *z.node
			n.t = t
			in := *z
			in.node, in.random = &n, rand.New(rand.NewPCG(uint64(kind), uint64(len(frame))))
			program := fuzzed[int(kind)%len(fuzzed)]
			in.send(program, frame)
			in.send(in.onward(program, frame, in.send(program, frame)))
		}
		<-done
	})
}

// firstBuffer is what BPF_PROG_TEST_RUN puts into the first buffer of a frame, at least.
const firstBuffer = 3000

// fuzzed are the programs.
var fuzzed = []string{kindXDP, kindTCBalance, kindTCOutside, kindTCPod, kindTCToPod}

// legal are the actions that they may take.
var legal = map[string][]uint32{
	kindXDP:       {xdpDrop, xdpPass, xdpTX, xdpRedirect},
	kindTCBalance: {tcNext, tcDrop, tcRedirect},
	kindTCOutside: {tcNext, tcDrop, tcRedirect},
	kindTCPod:     {tcNext, tcDrop, tcRedirect},
	kindTCToPod:   {tcNext, tcDrop},
}

// fuzzer sends packets to a node that has everything.
type fuzzer struct {
	*node
	random   *rand.Rand
	seeds    []seed
	verdicts map[countKey]Verdict // so far
	seen     map[string]int       // packets, by reason
	sent     int
}

func newFuzzer(t testing.TB) *fuzzer {
	t.Helper()
	n := newNode(t)
	n.addEverything()
	z := &fuzzer{node: n, seeds: n.seeds(), verdicts: map[countKey]Verdict{}, seen: map[string]int{}}
	z.note()
	return z
}

// change makes the world another: what was heard is forgotten, leases end and are renewed,
// slots move, backends drain, go and come back.
func (z *fuzzer) change() {
	z.announceAll(chosen[int64](z.random, 3600, 3600, 3600, -1))
	z.move(chosen(z.random, idNew, idNew|moved, idNew|moved, idThird|moved), chosen(z.random, moving, moving, 0))
	f, id := chosen(z.random, families...), chosen[uint32](z.random, idNew, idOld, idThird)
	switch z.random.IntN(3) {
	case 0:
		z.drain(f, id)
	case 1:
		z.put(f.table("backends"), id, make([]byte, z.maps[f.table("backends")].ValueSize()))
	default:
		z.putBackend(f, id, f.pod(id), 8080, 20, 0)
	}
}

// checkPairs looks for halves of pairs of translation.
func (z *fuzzer) checkPairs() {
	for _, f := range families {
		out, in := z.natTable(f, "nat_out"), z.natTable(f, "nat_in")
		if len(out) != len(in) {
			z.t.Errorf("%s: %d entries of nat_out, %d of nat_in", f.name, len(out), len(in))
		}
		for from, to := range out {
			back, ok := in[natTuple{to.dst, to.src, from.proto}]
			if !ok || back.src != from.dst || back.dst != from.src || back.backend != to.backend {
				z.t.Errorf("%s: nat_out has %v for %v, nat_in %v (%v)", f.name, to, from, back, ok)
			}
		}
	}
}

// converse begins with a seed, and goes on with what might come of it, while something does.
func (z *fuzzer) converse() {
	begun, first := z.begin()
	kind, frame := begun, first
	for range 1 + z.random.IntN(16) {
		if z.random.IntN(3) == 0 {
			frame = mutate(z.random, frame)
		}
		r := z.send(kind, frame)
		if z.t.Failed() || len(r.out) < 14 {
			return
		}
		nothing := r.reason == "not_ours" || isDrop(kind, r.action)
		switch z.random.IntN(8) {
		case 0: // the same again
		case 1:
			kind, frame = begun, first
		case 2:
			kind, frame = z.outside(), errorAbout(z.random, slices.Clone(r.out))
			if z.random.IntN(4) == 0 {
				kind = kindTCToPod
			}
		default:
			if nothing {
				return
			}
			kind, frame = z.onward(kind, frame, r)
		}
	}
}

// begin is a seed, for a program that it may come to.
func (z *fuzzer) begin() (kind string, frame []byte) {
	s := chosen(z.random, z.seeds...)
	if kind = s.kind; kind == kindXDP {
		kind = z.outside()
	}
	return kind, slices.Clone(s.frame)
}

// outside is one of the programs that balance.
func (z *fuzzer) outside() string { return chosen(z.random, kindXDP, kindTCBalance) }

// onward is what comes next of a frame: where it goes to in this node, or what the other
// end answers.
func (z *fuzzer) onward(kind string, in []byte, r result) (next string, frame []byte) {
	outside := kind
	if kind != kindXDP {
		outside = z.outside()
	}
	switch {
	case len(r.out) < 14 || isDrop(kind, r.action):
		return kind, in
	case kind == kindXDP && r.action == xdpPass:
		return kindTCOutside, r.out
	case kind == kindTCPod && r.action == tcNext:
		return kindTCToPod, answered(z.random, r.out)
	case kind == kindTCToPod || bytes.Equal(r.out[:6], podMAC[:]):
		return kindTCPod, answered(z.random, r.out)
	}
	if frame, ok := arrived(r.out); ok {
		return outside, frame
	}
	return outside, answered(z.random, r.out)
}

// arrived is what was sent to another node in a tunnel, as it would be at the other: that
// is this one.
func arrived(out []byte) ([]byte, bool) {
	ip, ok := locate(out)
	if !ok {
		return nil, false
	}
	in, ok := ip.carried(out)
	if !ok {
		return nil, false
	}
	frame := slices.Clone(out)
	copy(frame, nodeMAC[:])
	copy(frame[6:], otherMAC[:])
	family := func(v6 bool) family {
		if v6 {
			return families[1]
		}
		return families[0]
	}
	_, dst := ip.addrs(frame)
	if ip.proto == packet.ProtoUDP {
		copy(dst, family(ip.v6).node.AsSlice())
		copy(frame[ip.l4+24:in.l3], family(in.v6).localPod.AsSlice())
	} else {
		copy(dst, family(in.v6).localPod.AsSlice())
	}
	mend(frame)
	return frame, true
}

func isDrop(kind string, action uint32) bool {
	return kind == kindXDP && action == xdpDrop || kind != kindXDP && action == tcDrop
}

// send runs a frame through a program and checks all that has to be so of any frame.
func (z *fuzzer) send(kind string, frame []byte) result {
	z.t.Helper()
	if kind != kindXDP && (len(frame) < 54 || len(frame) > 3000) {
		return result{} // BPF_PROG_TEST_RUN takes no others
	}
	if len(frame) > 9000 {
		return result{}
	}
	dev := z.out
	if kind == kindTCPod || kind == kindTCToPod {
		dev = z.pod
	}
	if z.random.IntN(32) == 0 {
		dev = z.second
	}
	r, err := z.through(kind, dev, frame)
	z.sent++
	z.seen[r.reason]++
	if err == nil {
		err = z.check(kind, frame, r)
	}
	if err != nil {
		z.t.Errorf("%s, action %d for %q: %v\n%x\n%sbecame\n%x\n%s", kind, int32(r.action), r.reason, err,
			frame, packet.String(frame), r.out, packet.Diff(frame, r.out))
	}
	return r
}

// through is run, for many packets.
func (z *fuzzer) through(kind string, dev netlink.Link, frame []byte) (result, error) {
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: skbContext(dev)}
	if kind == kindXDP {
		options.Context = xdpContext(dev, frame)
	} else if z.random.IntN(16) == 0 { // what the kernel has put together of several
		binary.NativeEndian.PutUint32(options.Context.([]byte)[176:], uint32(400+z.random.IntN(1000)))
	}
	action, err := z.program(kind).Run(&options)
	r := result{action: action, out: options.DataOut}
	if err != nil {
		return r, err
	}
	risen := z.note()
	if len(risen) != 1 || risen[0].Packets != 1 {
		return r, fmt.Errorf("counted as %v", risen)
	}
	r.hook, r.reason, r.bytes = risen[0].Hook, risen[0].Reason, risen[0].Bytes
	hook := kind
	if kind == kindTCBalance { // it stands in for the other
		hook = kindTCOutside
	}
	// Where one look is enough, XDP counts the first buffer alone of a frame of several.
	if r.hook != hook || r.bytes != uint64(len(frame)) && (kind != kindXDP || r.bytes < firstBuffer) {
		return r, fmt.Errorf("counted %d bytes at %s", r.bytes, r.hook)
	}
	if risen[0].Dropped != isDrop(kind, action) {
		return r, fmt.Errorf("the reason is one to drop for: %v", risen[0].Dropped)
	}
	return r, nil
}

// note notes the verdicts and returns by what they have risen.
func (z *fuzzer) note() (risen []Verdict) {
	now, err := z.Verdicts()
	if err != nil {
		z.t.Fatal(err)
	}
	for _, v := range now {
		key := countKey{v.Hook, v.Reason}
		if then := z.verdicts[key]; then != v {
			z.verdicts[key] = v
			v.Packets -= then.Packets
			v.Bytes -= then.Bytes
			risen = append(risen, v)
		}
	}
	return risen
}

// check is what has to be so of a packet and what became of it.
func (z *fuzzer) check(kind string, in []byte, r result) error {
	if !slices.Contains(legal[kind], r.action) {
		return fmt.Errorf("no such action")
	}
	noticed := strings.HasPrefix(r.reason, "arp_") || strings.HasPrefix(r.reason, "nd_")
	switch r.reason {
	case "arp_reply", "nd_reply", "refused", "icmp_too_big":
		return checkMade(r.out)
	case "icmp_forwarded": // or told anew, of what a tunnel carried
		if err := checkCarried(in, r.out); err != nil && checkMade(r.out) != nil {
			return err
		}
	case "not_ours":
		noticed = true
	default:
		if !noticed && !isDrop(kind, r.action) {
			if err := checkCarried(in, r.out); err != nil {
				return err
			}
		}
	}
	if noticed || isDrop(kind, r.action) && !slices.Contains(late, r.reason) && isPlain(in) {
		return unchanged(kind, in, r.out)
	}
	if ip, err := innermost(r.out, false); err == nil && !isDrop(kind, r.action) && r.action != xdpPass && r.action != tcNext && r.out[ip.hops()] == 0 {
		return fmt.Errorf("no hops are left")
	}
	return nil
}

// late are the reasons that are found when a packet has been changed for where it was to go.
var late = []string{"no_headroom", "ttl_expired"}

// isPlain says whether nothing of a frame has to be taken off or translated to see that it
// is to be dropped.
func isPlain(frame []byte) bool {
	ip, ok := locate(frame)
	if !ok || ip.l3 != 14 {
		return false
	}
	_, tunnel := ip.carried(frame)
	return !tunnel && ip.proto != packet.ProtoICMP && ip.proto != packet.ProtoICMPv6
}

// unchanged says whether a frame is as it was. In tc its first tag is beside it then.
func unchanged(kind string, in, out []byte) error {
	if bytes.Equal(in, out) {
		return nil
	}
	if tag := binary.BigEndian.Uint16(in[12:]); kind != kindXDP && (tag == packet.TypeVLAN || tag == packet.TypeQinQ) && len(in) >= 18 &&
		bytes.Equal(slices.Concat(in[:12], in[16:]), out) {
		return nil
	}
	return fmt.Errorf("has changed")
}
