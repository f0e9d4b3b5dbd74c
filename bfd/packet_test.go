package bfd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// up is a packet as FRR sends it: Up, detect multiplier 3, 300 ms each way.
const up = "20c00318 0a0b0c0d 01020304 000493e0 000493e0 00000000"

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

func TestParse(t *testing.T) {
	fine := packet{phase: state.BFDUp, multiplier: 3, mine: 0x0a0b0c0d, yours: 0x01020304, minTx: 300 * time.Millisecond, minRx: 300 * time.Millisecond}
	with := func(change func(*packet)) packet { p := fine; change(&p); return p }
	for _, tc := range []struct {
		name, bytes string
		want        packet
		err         error
	}{
		{"up", up, fine, nil},
		{"trailing bytes", up + "ffff", fine, nil},
		{"diagnostic", "21c00318" + up[8:], with(func(p *packet) { p.diag = state.BFDTimeExpired }), nil},
		{"poll", "20e00318" + up[8:], with(func(p *packet) { p.poll = true }), nil},
		{"final", "20d00318" + up[8:], with(func(p *packet) { p.final = true }), nil},
		{"demand", "20c20318" + up[8:], with(func(p *packet) { p.demand = true }), nil},
		{"control plane independent", "20c80318" + up[8:], fine, nil},
		{"down without your discriminator", "20400318 0a0b0c0d 00000000" + up[26:],
			with(func(p *packet) { p.phase, p.yours = state.BFDDown, 0 }), nil},
		{"admin down without your discriminator", "20000318 0a0b0c0d 00000000" + up[26:],
			with(func(p *packet) { p.phase, p.yours = state.BFDAdminDown, 0 }), nil},
		{"intervals of 71 minutes", up[:26] + "ffffffff ffffffff 00000000",
			with(func(p *packet) { p.minTx, p.minRx = time.Hour, time.Hour }), nil},
		{"no periodic packets wanted", up[:26] + "000493e0 00000000 00000000", with(func(p *packet) { p.minRx = 0 }), nil},

		{"nothing", "", packet{}, errShort},
		{"one byte short", up[:len(up)-2], packet{}, errShort},
		{"version 0", "00c00318" + up[8:], packet{}, errVersion},
		{"version 2", "40c00318" + up[8:], packet{}, errVersion},
		{"length too small", "20c00317" + up[8:], packet{}, errLength},
		{"length beyond the datagram", "20c00319" + up[8:], packet{}, errLength},
		{"multiplier 0", "20c00018" + up[8:], packet{}, errMultiplier},
		{"multipoint", "20c10318" + up[8:], packet{}, errMultipoint},
		{"my discriminator 0", "20c00318 00000000" + up[17:], packet{}, errDiscriminator},
		{"up without your discriminator", "20c00318 0a0b0c0d 00000000" + up[26:], packet{}, errNoYours},
		{"init without your discriminator", "20800318 0a0b0c0d 00000000" + up[26:], packet{}, errNoYours},
		{"authenticated", "20c4031a" + up[8:] + "0101", packet{}, errAuth},
		{"authentication bit, no section", "20c40318" + up[8:], packet{}, errAuth},
		{"poll and final", "20f00318" + up[8:], packet{}, errPollFinal},
	} {
		got, err := parse(unhex(tc.bytes))
		if got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%s: %+v, %v; want %+v, %v", tc.name, got, err, tc.want, tc.err)
		}
	}
}

func TestAppend(t *testing.T) {
	for _, tc := range []struct {
		p    packet
		want string
	}{
		{packet{phase: state.BFDUp, multiplier: 3, mine: 0x0a0b0c0d, yours: 0x01020304, minTx: 300 * time.Millisecond, minRx: 300 * time.Millisecond}, up},
		{packet{phase: state.BFDDown, diag: state.BFDNeighborDown, poll: true, multiplier: 255, mine: 1, minTx: time.Second, minRx: 50 * time.Millisecond},
			"2360ff18 00000001 00000000 000f4240 0000c350 00000000"},
		{packet{phase: state.BFDAdminDown, diag: state.BFDByAdministrator, final: true, demand: true, multiplier: 1, mine: 1, yours: 2},
			"27120118 00000001 00000002 00000000 00000000 00000000"},
	} {
		if got := tc.p.append(nil); !bytes.Equal(got, unhex(tc.want)) {
			t.Errorf("%v: % x, want %s", tc.p, got, tc.want)
		}
	}
}

// What parse takes, append writes the same, but for what is not read: the C bit, the
// echo interval, and intervals that are cut.
func FuzzParse(f *testing.F) {
	f.Add(unhex(up))
	f.Add(unhex("20400318 0a0b0c0d 00000000" + up[26:]))
	f.Add(unhex("20c4031a" + up[8:] + "0101"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			if p != (packet{}) {
				t.Errorf("% x: refused (%v), and yet %+v", b, err, p)
			}
			return
		}
		if p.minTx > time.Hour || p.minRx > time.Hour || p.mine == 0 || p.multiplier == 0 {
			t.Errorf("% x: %+v", b, p)
		}
		again, err := parse(p.append(nil))
		if err != nil || again != p {
			t.Errorf("% x: %+v, written and read again %+v, %v", b, p, again, err)
		}
	})
}
