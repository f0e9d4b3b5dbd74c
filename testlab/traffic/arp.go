package traffic

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
)

// ARPResult says who answered for an address, by ARP or neighbour discovery.
type ARPResult struct {
	Requests int `json:"requests"`
	// Holders in the order they answered; one that comes back is listed again.
	Holders []ARPHolder `json:"holders"`
	// Doubles are requests that two MACs answered.
	Doubles []ARPDouble `json:"doubles"`
	// Gratuitous claims of the address that nobody asked for, by MAC.
	Gratuitous map[string]int `json:"gratuitous"`
	// Silence is the longest time without an answer. In JSON, ns.
	Silence time.Duration `json:"silence"`
}

// ARPHolder is a MAC and when it answered first and last.
type ARPHolder struct {
	MAC     string    `json:"mac"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Replies int       `json:"replies"`
}

// ARPDouble is a second answer to one request.
type ARPDouble struct {
	At     time.Time `json:"at"`
	First  string    `json:"first"`
	Second string    `json:"second"`
}

func (r ARPResult) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests, %d answered by two, longest silence %s", r.Requests, len(r.Doubles), milliseconds(r.Silence))
	for _, h := range r.Holders {
		fmt.Fprintf(&b, "\n%s: %d replies from %s to %s", h.MAC, h.Replies, h.First.Format(clock), h.Last.Format(clock))
	}
	return b.String()
}

const clock = "15:04:05.000"

// WatchARP broadcasts a request for the address on an interface of the
// namespace, at once and at each interval, until ctx ends, and notes who answers.
func WatchARP(ctx context.Context, from Namespace, iface string, address netip.Addr, interval time.Duration) (ARPResult, error) {
	if interval <= 0 {
		return ARPResult{}, fmt.Errorf("watch ARP: interval %v: want more than 0", interval)
	}
	var client *arp.Client
	err := from.Do(func() error {
		ifi, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		client, err = arp.Dial(ifi)
		return err
	})
	if err != nil {
		return ARPResult{}, fmt.Errorf("watch ARP on %s: %w", iface, err)
	}
	defer client.Close()
	w := arpWatch{newWatch(address, time.Now()), client.HardwareAddr()}
	for ctx.Err() == nil {
		if err := client.Request(address); err != nil {
			return w.result, fmt.Errorf("watch ARP on %s: send request: %w", iface, err)
		}
		w.asked()
		// Until the next request is due, whatever comes belongs to this one.
		client.SetReadDeadline(time.Now().Add(interval))
		stop := context.AfterFunc(ctx, func() { client.SetReadDeadline(time.Now()) })
		for {
			packet, frame, err := client.Read()
			if err != nil {
				if e, ok := err.(net.Error); ok && e.Timeout() {
					break
				}
				stop()
				return w.result, fmt.Errorf("watch ARP on %s: %w", iface, err)
			}
			w.hear(packet, frame, time.Now())
		}
		stop()
	}
	w.silence(time.Now())
	return w.result, nil
}

// watch turns answers into a result.
type watch struct {
	address     netip.Addr
	result      ARPResult
	answeredBy  string // the request that is out; "" while nobody has
	silentSince time.Time
}

func newWatch(address netip.Addr, now time.Time) watch {
	return watch{address: address, result: ARPResult{Gratuitous: map[string]int{}}, silentSince: now}
}

// arpWatch is a watch by ARP.
type arpWatch struct {
	watch
	self net.HardwareAddr
}

func (w *watch) asked() {
	w.result.Requests++
	w.answeredBy = ""
}

func (w *arpWatch) hear(p *arp.Packet, f *ethernet.Frame, now time.Time) {
	if p.SenderIP != w.address || bytes.Equal(p.SenderHardwareAddr, w.self) {
		return
	}
	w.heard(p.SenderHardwareAddr.String(), p.Operation == arp.OperationReply && bytes.Equal(f.Destination, w.self), now)
}

// heard takes in that a MAC has the address, as an answer or unasked.
func (w *watch) heard(mac string, answer bool, now time.Time) {
	if !answer {
		w.result.Gratuitous[mac]++
		return
	}
	w.silence(now)
	if w.answeredBy != "" && w.answeredBy != mac {
		w.result.Doubles = append(w.result.Doubles, ARPDouble{now, w.answeredBy, mac})
	}
	if w.answeredBy == "" {
		w.answeredBy = mac
	}
	holders := w.result.Holders
	if len(holders) == 0 || holders[len(holders)-1].MAC != mac {
		w.result.Holders = append(holders, ARPHolder{MAC: mac, First: now, Last: now, Replies: 1})
		return
	}
	last := &holders[len(holders)-1]
	last.Last = now
	last.Replies++
}

func (w *watch) silence(now time.Time) {
	w.result.Silence = max(w.result.Silence, now.Sub(w.silentSince))
	w.silentSince = now
}
