package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

// Peers of an interface find each other by router advertisements (RFC 4861): each
// sends them, with a lifetime of 0, which makes nobody's default router of it.

// errNoNeighbor: nobody on the interface has said yet that he is a router.
var errNoNeighbor = errors.New("no router is there: it has to send IPv6 router advertisements (FRR does with neighbor INTERFACE interface, BIRD with protocol radv), " +
	"and none has come yet; or write spec.peerAddress")

// remoteOf is the peer's address: that of the row or, on its interface, the
// link-local one of the router there. The one that has a session keeps it; else it
// is the one heard last, and before the first is, the one that the kernel knows.
func (s *Speaker) remoteOf(row state.BGPSession, now *session) (netip.Addr, error) {
	if row.Interface == "" {
		return row.Remote, nil
	}
	link, err := netlink.LinkByName(row.Interface)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find peer %s on interface %s: %w: make it, or correct spec.interface", row.Peer, row.Interface, err)
	}
	if now != nil && now.row.Interface == row.Interface && !now.since.IsZero() {
		return now.remote, nil
	}
	if last, ok := s.routers[row.Interface]; ok {
		return last, nil
	}
	neighbors, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find peer %s on interface %s: %w", row.Peer, row.Interface, err)
	}
	for _, n := range neighbors {
		addr, ok := netip.AddrFromSlice(n.IP)
		if ok && addr.IsLinkLocalUnicast() && n.Flags&netlink.NTF_ROUTER != 0 && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			return addr.WithZone(row.Interface), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("find peer %s on interface %s: %w", row.Peer, row.Interface, errNoNeighbor)
}

// ownAddress is this end's of a session with a link-local address; the zero Addr of others.
func ownAddress(row state.BGPSession, remote netip.Addr) (netip.Addr, error) {
	if remote.Zone() == "" {
		return netip.Addr{}, nil
	}
	if row.Source.IsValid() {
		return row.Source.WithZone(""), nil
	}
	link, err := netlink.LinkByName(remote.Zone())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find own address towards peer %s on interface %s: %w", row.Peer, remote.Zone(), err)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find own address towards peer %s on interface %s: %w", row.Peer, remote.Zone(), err)
	}
	for _, a := range addrs {
		if own, ok := netip.AddrFromSlice(a.IP); ok && own.IsLinkLocalUnicast() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			return own, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("find own address towards peer %s on interface %s: it has no link-local one: set it up, with IPv6", row.Peer, remote.Zone())
}

// hear keeps who advertised himself last on an interface, which is the address's zone.
func (s *Speaker) hear(router netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routers[router.Zone()] = router
}

// unnumbered makes the node known on the interfaces that sessions are to be had on.
func (t *Target) unnumbered(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	running := map[string]context.CancelFunc{}
	return t.DB.Follow(ctx, poll, func(snap state.Snapshot) {
		wanted := map[string]bool{}
		for s := range t.DB.BGPSessions.All(snap) {
			if s.Interface != "" && s.Bar == "" && s.Status.Wanted() {
				wanted[s.Interface] = true
			}
		}
		for iface := range wanted {
			if running[iface] == nil {
				ctx, end := context.WithCancel(ctx)
				running[iface] = end
				a := &advertiser{iface: iface, heard: t.heard, log: t.Log.With("interface", iface)}
				all.Go(func() { a.run(ctx) })
			}
		}
		for iface, end := range running {
			if !wanted[iface] {
				end()
				delete(running, iface)
			}
		}
	}, t.DB.BGPSessions.Watch())
}

// heard has the sessions of the interface looked at anew that are not with this router.
func (t *Target) heard(router netip.Addr) {
	t.Speaker.hear(router)
	snap := t.DB.Snapshot()
	var seeking []string
	for row := range t.DB.BGPSessions.All(snap) {
		now, _ := t.DB.BGPSessionStates.Get(snap, row.RowKey())
		if row.Interface == router.Zone() && row.Bar == "" && now.State != state.BGPEstablished && (now.Remote != router || row.Status.Phase == state.Failed) {
			seeking = append(seeking, row.RowKey())
		}
	}
	if len(seeking) == 0 {
		return
	}
	t.Writer.Update(func(tx *state.Tx) {
		for _, key := range seeking {
			if row, ok := t.DB.BGPSessions.Get(tx, key); ok && row.Status.Wanted() {
				t.DB.BGPSessions.Put(tx, row.WithStatus(state.Status{}))
			}
		}
	})
}

// advertiser makes the node known on an interface as one that may be a router, and
// hears who else is.
type advertiser struct {
	iface string
	heard func(router netip.Addr)
	log   *slog.Logger
}

// againAfter is how long an advertiser waits for an interface that is not there, or has
// no address yet.
const againAfter = time.Second

// run returns when ctx has ended.
func (a *advertiser) run(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		err := a.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			a.log.Warn("send router advertisements", "retry", againAfter, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
}

// serve lasts until ctx has ended, or the interface as it is.
func (a *advertiser) serve(ctx context.Context) error {
	socket, err := openND(a.iface)
	if err != nil {
		return err
	}
	defer socket.close()
	defer context.AfterFunc(ctx, socket.close)()
	var options []ndp.Option
	if len(socket.link.HardwareAddr) == 6 {
		options = append(options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: socket.link.HardwareAddr})
	}
	pace := advertPace{next: time.Now()}
	var there heardRouter
	for {
		m, from, err := socket.receive(pace.next)
		now := time.Now()
		switch m.(type) {
		case *ndp.RouterSolicitation:
			pace.solicited(now, rand.Float64())
		case *ndp.RouterAdvertisement:
			if from.IsLinkLocalUnicast() && there.hear(from, now) {
				a.heard(from)
			}
		case nil:
			if err == nil {
				continue
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("receive on %s: %w", a.iface, err)
			}
			if err := socket.send(&ndp.RouterAdvertisement{Options: options}, allNodes); err != nil {
				return err
			}
			if !there.addr.IsValid() && pace.sent < initialAdverts { // RFC 4861 §6.3.7: as often a host asks
				if err := socket.send(&ndp.RouterSolicitation{Options: options}, allRouters); err != nil {
					return err
				}
			}
			pace.advertised(now, rand.Float64())
		}
	}
}

// heardRouter is who is told of an interface. Where there are several, each has its time to
// come to a session; and a flood of advertisements costs no more than a few.
type heardRouter struct {
	addr        netip.Addr
	since, told time.Time
}

// hear says whether the advertisement is to be told.
func (r *heardRouter) hear(from netip.Addr, now time.Time) bool {
	switch {
	case !r.addr.IsValid():
	case from == r.addr && now.Sub(r.told) < minBetweenAdverts, from != r.addr && now.Sub(r.since) < maxAdvertInterval:
		return false
	}
	if from != r.addr {
		r.addr, r.since = from, now
	}
	r.told = now
	return true
}
