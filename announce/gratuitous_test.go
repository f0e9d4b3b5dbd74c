package announce

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var mac1 = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// drain advances the clock to each due time up to until and returns what is sent when.
func drain(h *herald, clock *fakeClock, until time.Duration) string {
	var sent []string
	for start := clock.Boottime(); ; {
		now := clock.Boottime()
		c, send, wait := h.next(now)
		switch {
		case send:
			sent = append(sent, fmt.Sprintf("%s@%v", c.key.addr, now-start))
		case wait > 0 && now+wait > start+until:
			clock.Advance(start + until - now)
			return strings.Join(sent, " ")
		default:
			clock.Advance(wait)
		}
	}
}

func TestHeraldSchedule(t *testing.T) {
	k, other := entryKey{addr(1), 2}, entryKey{addr(2), 2}
	for _, tc := range []struct {
		name string
		do   func(*herald, *fakeClock)
		want string
	}{
		{"taken over", func(h *herald, _ *fakeClock) { h.Take(k, mac1) },
			"192.168.10.1@0s 192.168.10.1@150ms 192.168.10.1@500ms 192.168.10.1@1m0.5s 192.168.10.1@2m0.5s"},
		{"held all along", func(h *herald, _ *fakeClock) { h.Keep(k, mac1); h.Keep(k, mac1) }, "192.168.10.1@1m0s 192.168.10.1@2m0s"},
		{"taken over and kept", func(h *herald, _ *fakeClock) { h.Take(k, mac1); h.Keep(k, mac1) },
			"192.168.10.1@0s 192.168.10.1@150ms 192.168.10.1@500ms 192.168.10.1@1m0.5s 192.168.10.1@2m0.5s"},
		{"dropped", func(h *herald, _ *fakeClock) { h.Take(k, mac1); h.Take(other, mac1); h.Drop(k) },
			"192.168.10.2@0s 192.168.10.2@150ms 192.168.10.2@500ms 192.168.10.2@1m0.5s 192.168.10.2@2m0.5s"},
		{"dropped in the burst", func(h *herald, c *fakeClock) { h.Take(k, mac1); drain(h, c, 200*time.Millisecond); h.Drop(k) }, ""},
		{"muted", func(h *herald, _ *fakeClock) { h.Take(k, mac1); h.Mute(k, true) }, ""},
		{"muted, then again", func(h *herald, c *fakeClock) {
			h.Take(k, mac1)
			h.Mute(k, true)
			drain(h, c, 10*sec)
			h.Mute(k, false)
			h.Again(k)
		}, "192.168.10.1@0s 192.168.10.1@150ms 192.168.10.1@500ms 192.168.10.1@1m0.5s 192.168.10.1@2m0.5s"},
		{"defended", func(h *herald, c *fakeClock) { h.Keep(k, mac1); drain(h, c, 10*sec); h.Once(k) },
			"192.168.10.1@0s 192.168.10.1@1m0s 192.168.10.1@2m0s"},
		{"unknown", func(h *herald, _ *fakeClock) { h.Once(k); h.Again(k); h.Mute(k, false); h.Drop(k) }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			clock := newFakeClock()
			h := newHerald(DefaultGratuitous, clock, &wireLog{}, func() bool { return true }, quiet, &Counts{})
			tc.do(h, clock)
			if got := drain(h, clock, 130*sec); got != tc.want {
				t.Errorf("sent %s\nwant %s", got, tc.want)
			}
		})
	}
}

// A stale holder sends nothing; the refresh goes on when the lease is valid again.
func TestHeraldSendsNothingWithoutLease(t *testing.T) {
	clock, wire, counts := newFakeClock(), &wireLog{}, &Counts{}
	may := make(chan bool)
	h := newHerald(DefaultGratuitous, clock, wire, func() bool { return <-may }, quiet, counts)
	h.Take(entryKey{addr(1), 2}, mac1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.run(ctx) }()
	may <- false
	clock.Advance(150 * time.Millisecond)
	may <- false
	clock.Advance(350 * time.Millisecond)
	may <- true
	eventually(t, 5*sec, "one announcement", func() bool { return wire.count() == 1 && counts.Gratuitous.Load() == 1 })
	cancel()
	<-done
	if want := "192.168.10.1@2 is at 02:00:00:00:00:01"; wire.sent[0] != want {
		t.Errorf("sent %s, want %s", wire.sent[0], want)
	}
}

func TestGratuitousARP(t *testing.T) {
	for _, tc := range []struct {
		op     arp.Operation
		target []byte
	}{
		{arp.OperationRequest, []byte{0, 0, 0, 0, 0, 0}},
		{arp.OperationReply, mac1},
	} {
		got, err := gratuitousARP(tc.op, mac1, addr(211))
		if err != nil {
			t.Fatal(err)
		}
		want := slicesConcat([]byte{0, 1, 8, 0, 6, 4, 0, byte(tc.op)}, mac1, []byte{192, 168, 10, 211}, tc.target, []byte{192, 168, 10, 211})
		if !bytes.Equal(got, want) {
			t.Errorf("operation %d:\n% x, want\n% x", tc.op, got, want)
		}
	}
	if _, err := gratuitousARP(arp.OperationReply, mac1, netip.MustParseAddr("fd00::1")); err == nil {
		t.Error("no error for an IPv6 address")
	}
}

func slicesConcat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// A Linux neighbour that has the address at another's hardware address
// changes its mind at each of the two forms.
func TestSocketMovesANeighbour(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test and takes its namespace along
	here, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Set(here))
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a0", HardwareAddr: mac1}, PeerName: "b0", PeerNamespace: netlink.NsFd(there)}
	must(netlink.LinkAdd(veth))
	a0, err := netlink.LinkByName("a0")
	must(err)
	must(netlink.LinkSetUp(a0))
	far, err := netlink.NewHandleAt(there)
	must(err)
	defer far.Close()
	b0, err := far.LinkByName("b0")
	must(err)
	must(far.AddrAdd(b0, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 10, 200), Mask: net.CIDRMask(24, 32)}}))
	must(far.LinkSetUp(b0))

	socket, err := OpenSocket()
	must(err)
	defer socket.Close()
	vip := net.IPv4(192, 168, 10, 211)
	neighbour := func() string {
		neighs, err := far.NeighList(b0.Attrs().Index, unix.AF_INET)
		must(err)
		for _, n := range neighs {
			if n.IP.Equal(vip) {
				return n.HardwareAddr.String()
			}
		}
		return "none"
	}
	eventually(t, 5*sec, "carrier", func() bool {
		b0, err = far.LinkByName("b0")
		must(err)
		a0, err = netlink.LinkByName("a0") // drops what is sent before
		must(err)
		return b0.Attrs().OperState == netlink.OperUp && a0.Attrs().OperState == netlink.OperUp
	})
	must(far.NeighSet(&netlink.Neigh{LinkIndex: b0.Attrs().Index, IP: vip, State: netlink.NUD_STALE,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}))
	if got := neighbour(); got != "02:00:00:00:00:09" {
		t.Fatalf("neighbour begins at %s", got)
	}
	must(socket.Send(a0.Attrs().Index, mac1, addr(211)))
	eventually(t, 5*sec, "neighbour moves to "+mac1.String(), func() bool { return neighbour() == mac1.String() })

	must(netlink.LinkSetDown(a0))
	if err := socket.Send(a0.Attrs().Index, mac1, addr(211)); err == nil || !strings.Contains(err.Error(), "network is down") {
		t.Errorf("send on a link that is down: %v", err)
	}
}
