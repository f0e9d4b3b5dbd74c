package bgp

import (
	"cmp"
	"context"
	"math"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/vishvananda/netlink"
)

// deferral bounds how long routes wait for the peers' own after a restart (RFC
// 4724 §4.1): none of ours depend on theirs.
const deferral = 1 * time.Second

// idleAfterReset is how long a session that was reset waits before it connects again.
const idleAfterReset = 1 * time.Second

// local is this end's address: that of the connection there is or, of what the
// node has to send to the peer, the source. The zero Addr: nothing can be sent.
func (s *session) local(p *api.Peer) netip.Addr {
	if s.own.IsValid() {
		return s.own
	}
	if s.row.Source.IsValid() {
		return s.row.Source
	}
	if a, err := netip.ParseAddr(p.Transport.GetLocalAddress()); err == nil && !a.IsUnspecified() {
		return a.WithZone("")
	}
	routes, err := netlink.RouteGet(s.remote.AsSlice())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(routes[0].Src)
	return a.Unmap()
}

// internal says whether the session is one inside the AS. Of a peer that may have
// any number it is not known before it has said which.
func (s *session) internal(asn uint32) bool {
	return cmp.Or(s.row.ASN.Number, s.asn) == asn || s.row.ASN.Number == 0 && s.row.ASN.Mode == asnInternal
}

// The modes of a BGPPeerASN, but Any.
const (
	asnInternal = "Internal"
	asnExternal = "External"
)

// prefix is the peer's address as GoBGP's sets of neighbors have it.
func (s *session) prefix() string {
	address := s.remote.WithZone("")
	return netip.PrefixFrom(address, address.BitLen()).String()
}

// peer is the session as GoBGP wants it.
func (s *session) peer(asn uint32, restarting bool) *api.Peer {
	row := s.row
	peerASN := row.ASN.Number // 0: any
	if peerASN == 0 && row.ASN.Mode == asnInternal {
		peerASN = asn
	}
	seconds := func(d time.Duration) uint64 { return uint64(math.Ceil(d.Seconds())) }
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: s.remote.String(), PeerAsn: peerASN, AuthPassword: row.Password,
			AllowOwnAsn: uint32(row.AllowASIn), Description: row.Peer, AdminDown: s.held != "" || s.refused != ""},
		Timers: &api.Timers{Config: &api.TimersConfig{ConnectRetry: seconds(row.ConnectRetry), HoldTime: seconds(row.Hold),
			KeepaliveInterval: seconds(row.KeepAlive), IdleHoldTimeAfterReset: seconds(idleAfterReset)}},
		Transport: &api.Transport{RemotePort: uint32(row.RemotePort), PassiveMode: row.Passive},
	}
	switch {
	case s.own.IsValid(): // GoBGP by itself takes it with its zone, which it cannot read as a next hop
		p.Transport.LocalAddress, p.Transport.BindInterface = s.own.String(), s.remote.Zone()
	case row.Source.IsValid():
		p.Transport.LocalAddress = row.Source.String()
	}
	if row.Multihop > 1 {
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: uint32(row.Multihop)}
	}
	if row.TTLSecurity > 0 {
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(row.TTLSecurity)}
	}
	if row.GracefulRestart > 0 {
		p.GracefulRestart = &api.GracefulRestart{Enabled: true, RestartTime: uint32(seconds(row.GracefulRestart)),
			DeferralTime: uint32(seconds(deferral)), LocalRestarting: restarting}
	}
	for _, family := range []struct {
		v6, exchanged bool
		limit         uint32
	}{{false, row.IPv4, row.MaxPrefixes4}, {true, row.IPv6, row.MaxPrefixes6}} {
		if !family.exchanged {
			continue
		}
		af := &api.AfiSafi{Config: &api.AfiSafiConfig{Family: apiFamilyOf(family.v6), Enabled: true}}
		if row.GracefulRestart > 0 {
			af.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
		}
		if family.limit > 0 {
			af.PrefixLimits = &api.PrefixLimit{Family: apiFamilyOf(family.v6), MaxPrefixes: family.limit, ShutdownThresholdPct: 100}
		}
		p.AfiSafis = append(p.AfiSafis, af)
	}
	return p
}

// addPeer begins a session.
func (i *instance) addPeer(ctx context.Context, s *session) error {
	if err := i.addressesChanged(ctx); err != nil {
		return err
	}
	return i.server.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(i.row.ASN, i.restarting)})
}

// replacePeer makes the session what now says. What can be changed in place does
// not reset it.
func (i *instance) replacePeer(ctx context.Context, old, now *session) error {
	if old != nil && old.remote == now.remote && old.own == now.own {
		if err := i.addressesChanged(ctx); err != nil {
			return err
		}
		if old.row.MaxPrefixes4 != now.row.MaxPrefixes4 || old.row.MaxPrefixes6 != now.row.MaxPrefixes6 {
			if p := i.inServer(ctx, now); p != nil && isShutOut(p) {
				return i.beginAgain(ctx, now)
			}
		}
		if _, err := i.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: now.peer(i.row.ASN, false)}); err != nil {
			return err
		}
		if old.row.NextHop6 == now.row.NextHop6 {
			return nil
		}
		return i.sendAgain(ctx, now)
	}
	if old != nil {
		if err := i.deletePeer(ctx, old); err != nil {
			return err
		}
	}
	return i.addPeer(ctx, now)
}

// sendAgain gives the peer all routes anew: what changes in policies alone, GoBGP
// sends to nobody.
func (i *instance) sendAgain(ctx context.Context, s *session) error {
	return i.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: s.remote.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT})
}

// inServer is the session as the server has it; nil: it has none.
func (i *instance) inServer(ctx context.Context, s *session) (found *api.Peer) {
	err := i.server.ListPeer(ctx, &api.ListPeerRequest{Address: s.remote.String()}, func(p *api.Peer) { found = p })
	if err != nil {
		return nil
	}
	return found
}

func (i *instance) deletePeer(ctx context.Context, s *session) error {
	defer i.log.forget(s.remote.String())
	return i.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: s.remote.String()})
}

// addressesChanged has the policies made anew: they name peers by address.
func (i *instance) addressesChanged(ctx context.Context) error {
	used := map[uint32]bool{}
	for _, r := range i.routes {
		for _, tag := range r.tags {
			used[tag] = true
		}
	}
	i.offers.forget(used)
	i.offers.set = false
	return i.setPolicies(ctx)
}
