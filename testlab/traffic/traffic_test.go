package traffic

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
)

func TestSummarize(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	timeout := errors.New("timed out")
	for _, tc := range []struct {
		name   string
		shots  string // one a 10 ms: . answered, x timed out, r refused, l late
		want   ProbeResult
		endsAt int
	}{
		{"none", "", ProbeResult{}, 0},
		{"all answered", "....", ProbeResult{Sent: 4, Answered: 4}, 40},
		{"one lost", "..x..", ProbeResult{Sent: 5, Answered: 4, Outage: 20 * time.Millisecond, OutageStart: at(10)}, 50},
		{"the longer of two", ".x.xrx.", ProbeResult{Sent: 7, Answered: 3, Refused: 1, Outage: 40 * time.Millisecond, OutageStart: at(20)}, 70},
		{"from the start", "xx.", ProbeResult{Sent: 3, Answered: 1, Outage: 20 * time.Millisecond, OutageStart: at(0)}, 30},
		{"to the end", ".xx", ProbeResult{Sent: 3, Answered: 1, Outage: 35 * time.Millisecond, OutageStart: at(0)}, 35},
		{"late is not lost, and no answer in time", "..ll.", ProbeResult{Sent: 5, Answered: 3, Late: 2, Outage: 30 * time.Millisecond, OutageStart: at(10)}, 50},
		{"never", "rr", ProbeResult{Sent: 2, Refused: 2, Outage: 20 * time.Millisecond, OutageStart: at(0)}, 20},
	} {
		var shots []*shot
		for i, c := range tc.shots {
			s := &shot{sent: at(10 * i)}
			switch c {
			case 'x':
				s.err = timeout
			case 'l':
				s.took = probePatience + time.Millisecond
			case 'r':
				s.err = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			shots = append(shots, s)
		}
		if got := summarize(shots, at(tc.endsAt)); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestARPWatchTellsAnswersFromClaims(t *testing.T) {
	self := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	a, b := net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	vip := netip.MustParseAddr("192.168.10.211")
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

	w := arpWatch{newWatch(vip, begin), self}
	hear := func(op arp.Operation, from, to net.HardwareAddr, ip netip.Addr, ms int) {
		w.hear(&arp.Packet{Operation: op, SenderHardwareAddr: from, SenderIP: ip}, &ethernet.Frame{Destination: to}, at(ms))
	}
	w.asked()
	hear(arp.OperationRequest, self, ethernet.Broadcast, vip, 0)              // our own
	hear(arp.OperationReply, a, self, netip.MustParseAddr("192.168.10.1"), 1) // another address
	hear(arp.OperationReply, a, self, vip, 1)                                 // the answer
	hear(arp.OperationReply, a, self, vip, 2)                                 // twice by one is no double
	w.asked()
	hear(arp.OperationReply, b, ethernet.Broadcast, vip, 30) // gratuitous
	hear(arp.OperationRequest, b, ethernet.Broadcast, vip, 30)
	hear(arp.OperationReply, a, self, vip, 31)
	hear(arp.OperationReply, b, self, vip, 32)
	w.asked()
	hear(arp.OperationReply, b, self, vip, 90)
	w.silence(at(100))

	r := w.result
	if r.Requests != 3 || r.Gratuitous[b.String()] != 2 || len(r.Gratuitous) != 1 {
		t.Errorf("requests %d, gratuitous %v", r.Requests, r.Gratuitous)
	}
	if len(r.Doubles) != 1 || r.Doubles[0] != (ARPDouble{at(32), a.String(), b.String()}) {
		t.Errorf("doubles %v", r.Doubles)
	}
	want := []ARPHolder{{a.String(), at(1), at(31), 3}, {b.String(), at(32), at(90), 2}}
	if len(r.Holders) != 2 || r.Holders[0] != want[0] || r.Holders[1] != want[1] {
		t.Errorf("holders %v, want %v", r.Holders, want)
	}
	if r.Silence != 58*time.Millisecond {
		t.Errorf("silence %v, want 58ms", r.Silence)
	}
}

func TestNDWatchTellsAnswersFromClaims(t *testing.T) {
	a, b := net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	vip := netip.MustParseAddr("fd00:10::211")
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	w := newWatch(vip, begin)
	hear := func(mac net.HardwareAddr, addr netip.Addr, solicited bool, ms int) {
		w.hearND(&ndp.NeighborAdvertisement{Solicited: solicited, TargetAddress: addr,
			Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}}}, at(ms))
	}
	w.asked()
	w.hearND(&ndp.NeighborSolicitation{TargetAddress: vip}, at(0))  // another's question
	w.hearND(&ndp.NeighborAdvertisement{TargetAddress: vip}, at(1)) // without a hardware address
	hear(a, netip.MustParseAddr("fd00:10::1"), true, 1)             // another address
	hear(a, vip, true, 2)                                           // the answer
	w.asked()
	hear(b, vip, false, 30) // unsolicited
	hear(b, vip, true, 42)
	hear(a, vip, true, 43)
	r := w.result
	if r.Requests != 2 || len(r.Holders) != 3 || r.Holders[0] != (ARPHolder{a.String(), at(2), at(2), 1}) || r.Holders[1].MAC != b.String() {
		t.Errorf("requests %d, holders %v", r.Requests, r.Holders)
	}
	if len(r.Doubles) != 1 || r.Doubles[0] != (ARPDouble{at(43), b.String(), a.String()}) || len(r.Gratuitous) != 1 || r.Gratuitous[b.String()] != 1 {
		t.Errorf("doubles %v, unsolicited %v", r.Doubles, r.Gratuitous)
	}
	if r.Silence != 40*time.Millisecond {
		t.Errorf("silence %v, want 40ms", r.Silence)
	}
}

func TestStreamTakesItsOwnLinesInOrder(t *testing.T) {
	for _, tc := range []struct {
		lines []string
		good  int // lines until the first that is refused
	}{
		{[]string{"1 a", "2 a", "3 a"}, 3},
		{[]string{"2 a"}, 0},
		{[]string{"1 a", "3 a"}, 1},
		{[]string{"1 a", "1 a"}, 1},
		{[]string{"1 a", "2 b"}, 1},
		{[]string{"1 a", "rubbish"}, 1},
		{[]string{""}, 0},
	} {
		c := &stream{}
		good := 0
		for _, line := range tc.lines {
			if c.take(line) != nil {
				break
			}
			good++
		}
		if good != tc.good || c.state.Lines != tc.good {
			t.Errorf("%q: took %d (counted %d), want %d", tc.lines, good, c.state.Lines, tc.good)
		}
	}
}
