package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/mdlayher/ndp"
)

// WatchND is WatchARP for an IPv6 address, which is asked for by Neighbor Solicitations.
func WatchND(ctx context.Context, from Namespace, iface string, address netip.Addr, interval time.Duration) (ARPResult, error) {
	if interval <= 0 {
		return ARPResult{}, fmt.Errorf("watch neighbour discovery: interval %v: want more than 0", interval)
	}
	var conn *ndp.Conn
	var self net.HardwareAddr
	err := from.Do(func() error {
		ifi, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		self = ifi.HardwareAddr
		// By its number: package net remembers for a minute which number a name has, in
		// whichever namespace it was asked.
		ifi.Name = strconv.Itoa(ifi.Index)
		conn, _, err = ndp.Listen(ifi, ndp.LinkLocal)
		return err
	})
	if err != nil {
		return ARPResult{}, fmt.Errorf("watch neighbour discovery on %s: %w", iface, err)
	}
	defer conn.Close()
	group, err := ndp.SolicitedNodeMulticast(address)
	if err != nil {
		return ARPResult{}, fmt.Errorf("watch neighbour discovery on %s: %w", iface, err)
	}
	question := &ndp.NeighborSolicitation{TargetAddress: address,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: self}}}
	w := newWatch(address, time.Now())
	for ctx.Err() == nil {
		if err := conn.WriteTo(question, nil, group); err != nil {
			return w.result, fmt.Errorf("watch neighbour discovery on %s: send solicitation: %w", iface, err)
		}
		w.asked()
		// Until the next question is due, whatever comes belongs to this one.
		conn.SetReadDeadline(time.Now().Add(interval))
		stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
		for {
			message, _, _, err := conn.ReadFrom()
			if err != nil {
				if e, ok := err.(net.Error); ok && e.Timeout() {
					break
				}
				stop()
				return w.result, fmt.Errorf("watch neighbour discovery on %s: %w", iface, err)
			}
			w.hearND(message, time.Now())
		}
		stop()
	}
	w.silence(time.Now())
	return w.result, nil
}

// hearND takes in a message, of which only advertisements of the address matter.
func (w *watch) hearND(message ndp.Message, now time.Time) {
	na, ok := message.(*ndp.NeighborAdvertisement)
	if !ok || na.TargetAddress != w.address {
		return
	}
	for _, option := range na.Options {
		if o, ok := option.(*ndp.LinkLayerAddress); ok && o.Direction == ndp.Target {
			w.heard(o.Addr.String(), na.Solicited, now)
			return
		}
	}
}
