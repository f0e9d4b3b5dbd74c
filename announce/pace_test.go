package announce

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/arp"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

// listen opens a packet socket at the far end of the cable, with room for all that is sent.
func (c cable) listen(t *testing.T) int {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Set(c.there))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(networkOrder(unix.ETH_P_ARP)))
	must(netns.Set(c.here))
	must(err)
	t.Cleanup(func() { unix.Close(fd) })
	must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20))
	must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	return fd
}

// receive is unix.Recvfrom, begun anew where a signal of Go's scheduler ends it.
func receive(fd int, buffer []byte) (n int, from unix.Sockaddr, err error) {
	for {
		if n, from, err = unix.Recvfrom(fd, buffer, 0); !errors.Is(err, unix.EINTR) {
			return n, from, err
		}
	}
}

// Five thousand addresses are taken over at once: each is on the wire soon, and no
// more packets are than the pace allows.
func TestTakeoverOfManyAddresses(t *testing.T) {
	const addrs = 5000
	c := newCable(t)
	wire := c.listen(t)
	socket, err := OpenSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	r := newRig()
	r.herald = newHerald(DefaultGratuitous, SystemClock{}, socket, func() bool { return true }, quiet, &Counts{})
	r.target.herald = r.herald
	r.device(state.Device{Name: "a0", Index: c.a0.Attrs().Index, MAC: mac1.String(), Up: true})
	var assigned []state.Assignment
	for i := range addrs {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		assigned = append(assigned, state.Assignment{Addr: addr, Node: "a", Interfaces: []string{"a0"}, Generation: 2, Reason: state.ReasonLeaseExpired})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.herald.run(ctx) }()
	defer func() { cancel(); <-done }()

	began := time.Now()
	for _, row := range Local(assigned, r.db.Devices.Rows(r.db.Snapshot()), "a") {
		r.update(t, row)
	}
	updated := time.Since(began)
	var all time.Duration // until each was announced once
	heard := map[netip.Addr]int{}
	buffer := make([]byte, 128)
	for packets, want := 0, addrs*2*len(DefaultGratuitous.Burst); packets < want; packets++ {
		n, _, err := receive(wire, buffer)
		if err != nil {
			t.Fatalf("after %d packets of %d: %v", packets, want, err)
		}
		var p arp.Packet
		if err := p.UnmarshalBinary(buffer[:n]); err != nil || p.SenderHardwareAddr.String() != net.HardwareAddr(mac1).String() {
			t.Fatalf("packet %x: %v", buffer[:n], err)
		}
		heard[p.SenderIP]++
		if len(heard) == addrs && all == 0 {
			all = time.Since(began)
		}
	}
	whole := time.Since(began)
	for addr, n := range heard {
		if n != 2*len(DefaultGratuitous.Burst) {
			t.Errorf("%s: %d packets", addr, n)
		}
	}
	if len(heard) != addrs {
		t.Errorf("heard of %d addresses, want %d", len(heard), addrs)
	}
	announcements := addrs * len(DefaultGratuitous.Burst)
	if least := time.Duration(announcements-DefaultGratuitous.PerSecond/50) * time.Second / time.Duration(DefaultGratuitous.PerSecond); whole < least {
		t.Errorf("%d announcements in %v: too fast for %d a second", announcements, whole, DefaultGratuitous.PerSecond)
	}
	t.Logf("%d addresses: in the responder after %v, on the wire after %v, the whole burst after %v",
		addrs, updated.Round(time.Millisecond), all.Round(time.Millisecond), whole.Round(time.Millisecond))
}
