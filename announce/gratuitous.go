package announce

import (
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	"golang.org/x/sys/unix"
)

// Gratuitous says when an address is announced unasked.
type Gratuitous struct {
	// Burst are the times after a takeover.
	Burst []time.Duration
	// Refresh is the time between announcements after the burst.
	Refresh time.Duration
	// PerSecond bounds the announcements of all addresses together; each is
	// two packets in IPv4 and one in IPv6.
	PerSecond int
}

// DefaultGratuitous reaches a neighbour also when the first packets meet a
// port that does not forward yet. Its 17,000 packets a second are less than 1 % of
// what a port of 1 Gbit/s carries, where many a switch begins to drop broadcasts;
// at that pace the bursts of 5,000 addresses are over in 1.8 s.
var DefaultGratuitous = Gratuitous{
	Burst:   []time.Duration{0, 150 * time.Millisecond, 500 * time.Millisecond},
	Refresh: time.Minute, PerSecond: 8500,
}

func (g Gratuitous) withDefaults() Gratuitous {
	if g.Burst == nil {
		g.Burst = DefaultGratuitous.Burst
	}
	if g.Refresh == 0 {
		g.Refresh = DefaultGratuitous.Refresh
	}
	if g.PerSecond == 0 {
		g.PerSecond = DefaultGratuitous.PerSecond
	}
	return g
}

// Sender puts announcements of an address on the wire.
type Sender interface {
	Send(ifindex int, mac net.HardwareAddr, addr netip.Addr) error
	// Probe asks whether another machine has the address, and claims nothing.
	Probe(ifindex int, mac net.HardwareAddr, addr netip.Addr) error
}

// herald sends gratuitous ARP and unsolicited advertisements: a burst at a takeover, then now and then. One
// goroutine sends for all addresses, in the order that they are due.
type herald struct {
	when   Gratuitous
	clock  Clock
	sender Sender
	// may says whether anything may be sent: a stale holder sends nothing.
	may    func() bool
	log    *slog.Logger
	counts *Counts

	mu    sync.Mutex
	calls map[entryKey]*call
	queue callQueue
	wake  chan struct{}
}

// call is what is to be sent for one entry.
type call struct {
	key   entryKey
	mac   net.HardwareAddr
	began time.Duration // of the burst
	step  int           // of the burst; its length: refreshing
	due   time.Duration
	muted bool
	index int // in the queue
}

func newHerald(g Gratuitous, clock Clock, sender Sender, may func() bool, log *slog.Logger, counts *Counts) *herald {
	return &herald{when: g.withDefaults(), clock: clock, sender: sender, may: may, log: log, counts: counts,
		calls: map[entryKey]*call{}, wake: make(chan struct{}, 1)}
}

// Take announces an entry that this node has just taken over.
func (h *herald) Take(k entryKey, mac net.HardwareAddr) {
	h.change(k, func(c *call, now time.Duration) {
		c.mac, c.muted, c.began, c.step, c.due = mac, false, now, 0, now+h.when.after(0)
	}, true)
}

// Keep refreshes an entry that this node has held all along.
func (h *herald) Keep(k entryKey, mac net.HardwareAddr) {
	h.change(k, func(c *call, now time.Duration) {
		c.mac = mac
		if c.due == 0 {
			c.step, c.due = len(h.when.Burst), now+h.when.Refresh
		}
	}, true)
}

// Again repeats the burst.
func (h *herald) Again(k entryKey) {
	h.change(k, func(c *call, now time.Duration) { c.began, c.step, c.due = now, 0, now+h.when.after(0) }, false)
}

// Once announces the entry now.
func (h *herald) Once(k entryKey) {
	h.change(k, func(c *call, now time.Duration) { c.due = now }, false)
}

// Mute keeps the entry from being announced, or no longer.
func (h *herald) Mute(k entryKey, muted bool) {
	h.change(k, func(c *call, now time.Duration) { c.muted = muted }, false)
}

// Drop forgets the entry.
func (h *herald) Drop(k entryKey) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.calls[k]; c != nil {
		heap.Remove(&h.queue, c.index)
		delete(h.calls, k)
	}
}

func (h *herald) change(k entryKey, f func(*call, time.Duration), create bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.calls[k]
	if c == nil {
		if !create {
			return
		}
		c = &call{key: k}
		h.calls[k] = c
		heap.Push(&h.queue, c)
	}
	f(c, h.clock.Boottime())
	heap.Fix(&h.queue, c.index)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// after is the time of a step of the burst; past its end, of the refresh.
func (g Gratuitous) after(step int) time.Duration {
	if step < len(g.Burst) {
		return g.Burst[step]
	}
	return g.Refresh
}

// next returns what is to be sent at now, at most one thing, or how long there
// is nothing to send.
func (h *herald) next(now time.Duration) (c call, send bool, wait time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		return call{}, false, h.when.Refresh
	}
	first := h.queue[0]
	if first.due > now {
		return call{}, false, first.due - now
	}
	if first.step+1 < len(h.when.Burst) {
		first.step++
		first.due = max(first.began+h.when.Burst[first.step], now)
	} else {
		first.step, first.due = len(h.when.Burst), now+h.when.Refresh
	}
	heap.Fix(&h.queue, 0)
	return *first, !first.muted, 0
}

// run sends until ctx ends.
func (h *herald) run(ctx context.Context) {
	// Timers are too coarse for a pause after each, so after each batch.
	batch := max(h.when.PerSecond/100, 1)
	pause := time.Second * time.Duration(batch) / time.Duration(h.when.PerSecond)
	failed := map[int]string{} // last error by interface
	var paced time.Duration    // when the next batch may begin
	for sent := 0; ctx.Err() == nil; {
		wake := h.wake
		c, send, wait := h.next(h.clock.Boottime())
		if send && h.may() {
			h.send(c, failed)
			if sent++; sent%batch == 0 {
				now := h.clock.Boottime()
				paced = max(paced, now-pause) + pause // a timer that was late is made up for
				wake, wait = nil, paced-now
			}
		}
		if wait <= 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-h.clock.After(wait):
		}
	}
}

func (h *herald) send(c call, failed map[int]string) {
	err := h.sender.Send(c.key.ifindex, c.mac, c.key.addr)
	if err == nil {
		h.counts.Gratuitous.Add(1)
		delete(failed, c.key.ifindex)
		return
	}
	if failed[c.key.ifindex] != err.Error() { // once per cause
		failed[c.key.ifindex] = err.Error()
		h.log.Warn("announce address: tried again at its next turn", "addr", c.key.addr, "err", err)
	}
}

// callQueue is a heap of calls by due.
type callQueue []*call

func (q callQueue) Len() int           { return len(q) }
func (q callQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q callQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push is container/heap's.
func (q *callQueue) Push(x any) {
	c := x.(*call)
	c.index = len(*q)
	*q = append(*q, c)
}

// Pop is container/heap's.
func (q *callQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// Socket sends announcements on any interface of the network namespace it was
// opened in.
type Socket struct{ fd int }

// OpenSocket needs CAP_NET_RAW.
func OpenSocket() (*Socket, error) {
	// Protocol 0 receives nothing: this socket only sends.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket for ARP and neighbour discovery (it needs CAP_NET_RAW): %w", err)
	}
	return &Socket{fd}, nil
}

// Close closes the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// broadcast is everyone's hardware address.
var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Send tells everyone that addr is at mac: in IPv4 in both forms, since some
// neighbours take in only one.
func (s *Socket) Send(ifindex int, mac net.HardwareAddr, addr netip.Addr) error {
	if addr.Is6() {
		packet, err := unsolicitedNA(mac, addr)
		if err != nil {
			return err
		}
		return s.send(ifindex, unix.ETH_P_IPV6, multicastMAC(allNodes), packet, addr)
	}
	for _, op := range []arp.Operation{arp.OperationRequest, arp.OperationReply} {
		packet, err := gratuitousARP(op, mac, addr)
		if err != nil {
			return err
		}
		if err := s.send(ifindex, unix.ETH_P_ARP, broadcast, packet, addr); err != nil {
			return err
		}
	}
	return nil
}

func (s *Socket) send(ifindex int, protocol uint16, mac net.HardwareAddr, packet []byte, about netip.Addr) error {
	to := unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: ifindex, Halen: uint8(len(mac))}
	copy(to.Addr[:], mac)
	if err := unix.Sendto(s.fd, packet, 0, &to); err != nil {
		return fmt.Errorf("send announcement of %s on interface %d: %w", about, ifindex, err)
	}
	return nil
}

// gratuitousARP is the ARP packet, without an Ethernet header. The target
// hardware address is zero in the request (RFC 5227 §3) and mac in the reply
// (RFC 5944 §4.6): Linux takes a reply for gratuitous only so.
func gratuitousARP(op arp.Operation, mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	target := mac
	if op == arp.OperationRequest {
		target = make(net.HardwareAddr, 6)
	}
	p, err := arp.NewPacket(op, mac, addr, target, addr)
	if err != nil {
		return nil, fmt.Errorf("build gratuitous ARP for %s at %s: %w", addr, mac, err)
	}
	return p.MarshalBinary()
}

// networkOrder of a protocol number, as sockaddr_ll wants it.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
