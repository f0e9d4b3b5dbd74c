package bgp

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/seamark-lb/seamark/state"
)

// States is how the sessions stand, sorted by key. Those whose instance does not
// run, or whose peer was not found, are not among them.
func (s *Speaker) States(ctx context.Context) ([]state.BGPSessionState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var states []state.BGPSessionState
	for _, i := range s.instances {
		if i.server == nil {
			continue
		}
		err := i.listSessions(ctx, func(session *session, p *api.Peer) { states = append(states, i.stateOf(session, p)) })
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(states, func(a, b state.BGPSessionState) int { return strings.Compare(a.RowKey(), b.RowKey()) })
	return states, nil
}

// listSessions calls each with the sessions of an instance that runs, as they stand.
func (i *instance) listSessions(ctx context.Context, each func(*session, *api.Peer)) error {
	byAddress := map[netip.Addr]*session{}
	for _, session := range i.sessions {
		byAddress[session.remote] = session
	}
	err := i.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		remote, err := netip.ParseAddr(p.State.NeighborAddress)
		if session := byAddress[remote]; err == nil && session != nil {
			each(session, p)
		}
	})
	if err != nil {
		return fmt.Errorf("list sessions of BGP instance %s: %w", i.row.Instance, err)
	}
	return nil
}

func (i *instance) stateOf(s *session, p *api.Peer) state.BGPSessionState {
	row := state.BGPSessionState{Instance: s.row.Instance, Peer: s.row.Peer, Remote: s.remote, ASN: p.State.PeerAsn,
		State: stateName(p.State.SessionState), Flaps: i.log.flaps(s.remote.String()),
		UpdatesReceived: p.State.GetMessages().GetReceived().GetUpdate(), UpdatesSent: p.State.GetMessages().GetSent().GetUpdate()}
	row.LastError, row.ErrorAt = i.log.lastError(s.remote.String())
	if at := p.Timers.GetState(); at != nil {
		switch {
		case row.State == state.BGPEstablished && at.Uptime != nil:
			row.Since = at.Uptime.AsTime()
		case at.Downtime != nil && at.Downtime.Seconds > 0:
			row.Since = at.Downtime.AsTime()
		}
	}
	if row.Since.Unix() <= 0 {
		row.Since = time.Time{}
	}
	if down := cmp.Or(s.refused, s.held); down != "" {
		row.LastError, row.ErrorAt = down, time.Time{}
	}
	s.wasEstablished = s.wasEstablished || row.State == state.BGPEstablished
	row.Local, row.WasEstablished = s.local(p), s.wasEstablished
	if row.State != state.BGPEstablished {
		if s.row.Passive && row.LastError == "" {
			row.LastError = waitsForPeer
		}
		return row
	}
	row.IPv4, row.IPv6 = s.row.IPv4 && peerHas(p, false), s.row.IPv6 && peerHas(p, true)
	row.Told = row.IPv4 || row.IPv6
	for _, af := range p.AfiSafis {
		family := af.GetConfig().GetFamily()
		if exchanged := row.IPv4 && isFamily(family, false) || row.IPv6 && isFamily(family, true); !exchanged {
			continue
		}
		row.Told = row.Told && af.GetMpGracefulRestart().GetState().GetEndOfRibReceived()
		row.Received += int(af.State.GetReceived())
		row.Accepted += int(af.State.GetAccepted())
	}
	for prefix, r := range i.routes { // GoBGP would go through its policies for it
		if !row.Exchanges(prefix.Addr()) {
			continue
		}
		switch offered, other := i.offered(s, r); {
		case offered:
			row.Advertised++
		case other != "":
			row.ErrorAt = time.Time{}
			row.LastError = fmt.Sprintf("routes are held back that are not for peer %s too: it has the same link-local address, and so has this end: give one of them another", other)
		}
	}
	return row
}

// waitsForPeer is said of a passive session that nobody has tried to have.
const waitsForPeer = "waits for the peer to connect, as spec.passive has it: configure this node as a neighbor there; " +
	"if it is one, look at the way, and whether the passwords of both ends are the same"

// peerHas says whether the peer has said that it exchanges routes of a family (RFC
// 4760 §8). GoBGP has it of one that says nothing that it means IPv4.
func peerHas(p *api.Peer, v6 bool) bool {
	return slices.ContainsFunc(p.State.RemoteCap, func(c *api.Capability) bool {
		return c.GetMultiProtocol() != nil && isFamily(c.GetMultiProtocol().Family, v6)
	})
}

func isFamily(f *api.Family, v6 bool) bool {
	want := apiFamilyOf(v6)
	return f.GetAfi() == want.Afi && f.GetSafi() == want.Safi
}

// stateName is a state of RFC 4271 §8.2.2 as the RFC writes it.
func stateName(s api.PeerState_SessionState) string {
	switch s {
	case api.PeerState_SESSION_STATE_IDLE:
		return "Idle"
	case api.PeerState_SESSION_STATE_CONNECT:
		return "Connect"
	case api.PeerState_SESSION_STATE_ACTIVE:
		return "Active"
	case api.PeerState_SESSION_STATE_OPENSENT:
		return "OpenSent"
	case api.PeerState_SESSION_STATE_OPENCONFIRM:
		return "OpenConfirm"
	case api.PeerState_SESSION_STATE_ESTABLISHED:
		return state.BGPEstablished
	}
	return "Unknown"
}

// Path is a route as a session carries it.
type Path struct {
	Instance, Peer string
	Prefix         netip.Prefix
	NextHop        string
	ASPath         []uint32
	LocalPref, MED *uint32 `json:",omitempty"`
	// Communities and large ones, as text.
	Communities []string `json:",omitempty"`
}

// Direction of the routes of a session.
type Direction bool

// The directions.
const (
	Advertised Direction = false
	Received   Direction = true
)

// Paths are the routes that a peer by its name or address, "" for each, was sent or
// has sent, sorted by instance, peer and prefix. A session that is down has sent none.
func (s *Speaker) Paths(ctx context.Context, which Direction, peer string) ([]Path, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	table := api.TableType_TABLE_TYPE_ADJ_OUT
	if which == Received {
		table = api.TableType_TABLE_TYPE_ADJ_IN
	}
	var paths []Path
	for _, i := range s.instances {
		for _, session := range i.sessions {
			if i.server == nil || peer != "" && session.row.Peer != peer && session.remote.String() != peer {
				continue
			}
			if which == Advertised && i.inServer(ctx, session).GetState().GetSessionState() != api.PeerState_SESSION_STATE_ESTABLISHED {
				continue // GoBGP tells what it would send
			}
			for _, v6 := range []bool{false, true} {
				if exchanged := session.row.IPv4 && !v6 || session.row.IPv6 && v6; !exchanged {
					continue
				}
				request := apiutil.ListPathRequest{TableType: table, Name: session.remote.String(), Family: familyOf(v6), EnableFiltered: false}
				err := i.server.ListPath(request, func(nlri packet.NLRI, of []*apiutil.Path) {
					for _, p := range of {
						if path, ok := i.pathFrom(session, nlri, p); ok {
							paths = append(paths, path)
						}
					}
				})
				if err != nil {
					return nil, fmt.Errorf("list routes of peer %s: %w", session.row.Peer, err)
				}
			}
		}
	}
	slices.SortFunc(paths, func(a, b Path) int {
		if c := strings.Compare(a.Instance+"/"+a.Peer, b.Instance+"/"+b.Peer); c != 0 {
			return c
		}
		return a.Prefix.Compare(b.Prefix)
	})
	return paths, nil
}

// pathFrom reads a path; false: it is not for a prefix.
func (i *instance) pathFrom(s *session, nlri packet.NLRI, p *apiutil.Path) (Path, bool) {
	prefix, ok := prefixIn(nlri)
	if !ok {
		return Path{}, false
	}
	path := Path{Instance: i.row.Instance, Peer: s.row.Peer, Prefix: prefix}
	for _, attribute := range p.Attrs {
		switch a := attribute.(type) {
		case *packet.PathAttributeNextHop, *packet.PathAttributeMpReachNLRI:
			var hops []string
			for _, hop := range nextHopsIn(a) {
				hops = append(hops, hop.WithZone("").String())
			}
			path.NextHop = strings.Join(hops, " ")
		case *packet.PathAttributeAsPath:
			for _, segment := range a.Value {
				path.ASPath = append(path.ASPath, segment.GetAS()...)
			}
		case *packet.PathAttributeLocalPref:
			value := a.Value // GoBGP keeps its own
			path.LocalPref = &value
		case *packet.PathAttributeMultiExitDisc:
			value := a.Value
			path.MED = &value
		case *packet.PathAttributeCommunities:
			for _, c := range a.Value {
				path.Communities = append(path.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
			}
		case *packet.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				path.Communities = append(path.Communities, c.String())
			}
		}
	}
	return path, true
}
