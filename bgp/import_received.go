package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/seamark-lb/seamark/state"
)

// defaultLocalPref is that of routes that come without one (RFC 4271 §5.1.5 leaves it open).
const defaultLocalPref = 100

// Received are the routes that peers have sent, of those that taken, by the peer's
// name, has prefixes for; sorted by key. A peer that restarts (RFC 4724) still has
// sent what it had for as long as it asked for.
func (s *Speaker) Received(_ context.Context, taken map[string][]state.BGPImport) ([]state.BGPReceived, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var received []state.BGPReceived
	for _, i := range s.instances {
		for _, session := range i.sessions {
			if i.server == nil || len(taken[session.row.Peer]) == 0 {
				continue
			}
			if err := i.watchReceived(s.told); err != nil {
				return nil, err
			}
			for _, v6 := range []bool{false, true} {
				rows, err := i.receivedFrom(session, v6, taken[session.row.Peer])
				if err != nil {
					return nil, fmt.Errorf("list routes of peer %s: %w", session.row.Peer, err)
				}
				received = append(received, rows...)
			}
		}
	}
	slices.SortFunc(received, func(a, b state.BGPReceived) int { return strings.Compare(a.RowKey(), b.RowKey()) })
	return received, nil
}

// watchReceived has told hear of it when a peer sends routes, or its session ends.
func (i *instance) watchReceived(told chan<- struct{}) error {
	if i.unwatch != nil {
		return nil
	}
	ctx, end := context.WithCancel(context.Background())
	tell := func() {
		select {
		case told <- struct{}{}:
		default: // a look is due already
		}
	}
	err := i.server.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnPathUpdate: func([]*apiutil.Path, time.Time) { tell() },
		OnPeerUpdate: func(*apiutil.WatchEventMessage_PeerEvent, time.Time) { tell() },
	}, server.WatchUpdate(false, "", ""), server.WatchPeer())
	if err != nil {
		end()
		return fmt.Errorf("watch routes of BGP instance %s: %w", i.row.Instance, err)
	}
	i.unwatch = end
	return nil
}

// receivedFrom are the routes of one family that a peer has sent, and that may be taken.
func (i *instance) receivedFrom(s *session, v6 bool, taken []state.BGPImport) ([]state.BGPReceived, error) {
	if exchanged := s.row.IPv4 && !v6 || s.row.IPv6 && v6; !exchanged {
		return nil, nil
	}
	request := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: s.remote.String(), Family: familyOf(v6)}
	for _, t := range taken {
		if t.Prefix.Addr().Is6() == v6 {
			request.Prefixes = append(request.Prefixes, &apiutil.LookupPrefix{Prefix: t.Prefix.String(), LookupOption: apiutil.LOOKUP_LONGER})
		}
	}
	if len(request.Prefixes) == 0 {
		return nil, nil // which would list all
	}
	var rows []state.BGPReceived
	err := i.server.ListPath(request, func(nlri packet.NLRI, paths []*apiutil.Path) {
		prefix, ok := prefixIn(nlri)
		if !ok || len(paths) == 0 || !slices.ContainsFunc(taken, func(t state.BGPImport) bool { return t.Takes(prefix) }) {
			return
		}
		rows = append(rows, i.receivedRow(s, prefix, paths[0]))
	})
	return rows, err
}

func (i *instance) receivedRow(s *session, prefix netip.Prefix, path *apiutil.Path) state.BGPReceived {
	row := state.BGPReceived{Instance: i.row.Instance, Peer: s.row.Peer, Prefix: prefix, LocalPref: defaultLocalPref,
		Internal: path.PeerASN == i.row.ASN}
	for _, attribute := range path.Attrs {
		switch a := attribute.(type) {
		case *packet.PathAttributeOrigin:
			row.Origin = a.Value
		case *packet.PathAttributeNextHop, *packet.PathAttributeMpReachNLRI:
			for _, hop := range nextHopsIn(a) {
				switch hop = hop.Unmap(); {
				case hop.Is6() && hop.IsLinkLocalUnicast():
					hop = hop.WithZone(s.remote.Zone())
				case hop == netip.IPv6Unspecified() && s.remote.Zone() != "":
					hop = s.remote // BIRD puts it before its link-local address, which GoBGP leaves out
				}
				row.NextHops = append(row.NextHops, hop)
			}
		case *packet.PathAttributeAsPath:
			for _, segment := range a.Value {
				row.ASPath = append(row.ASPath, segment.GetAS()...)
				row.PathLength += segment.ASLen()
			}
		case *packet.PathAttributeLocalPref:
			if row.Internal {
				row.LocalPref = a.Value
			}
		case *packet.PathAttributeMultiExitDisc:
			row.MED = a.Value
		}
	}
	return row
}

// ImportsKnown is set once the peers have said what they have, or have had the
// time to: before that, what the daemon before this one took from them stays.
const ImportsKnown = "bgp/imports"

// The times that a daemon gives the peers, from its start, to say what they have:
// those without End-of-RIB from when the session began.
const (
	importsWait = 2 * time.Minute
	noEndOfRIB  = 5 * time.Second
)

// importing keeps BGPReceived as the peers have it.
func (t *Target) importing(ctx context.Context) error {
	began := time.Now()
	return t.DB.Follow(ctx, poll, func(snap state.Snapshot) {
		taken := map[string][]state.BGPImport{}
		for p := range t.DB.BGPPeers.All(snap) {
			taken[p.Name] = p.Import
		}
		rows, err := t.Speaker.Received(ctx, taken)
		if err != nil {
			if ctx.Err() == nil {
				t.Log.Warn("ask for the routes of BGP peers", "err", err)
			}
			return
		}
		known := t.Decided(snap) && importsKnown(t.DB, snap, taken, time.Now(), began)
		t.Writer.Update(func(tx *state.Tx) {
			t.DB.BGPReceived.Replace(tx, rows, state.BGPReceived.Equal)
			if known {
				tx.Mark(ImportsKnown)
			}
		})
	}, t.DB.BGPPeers.Watch(), t.DB.BGPSessionStates.Watch(),
		func(state.Snapshot) <-chan struct{} { return t.Speaker.told })
}

// importsKnown says whether each peer that routes are taken from has said what it has.
func importsKnown(db *state.DB, snap state.Snapshot, taken map[string][]state.BGPImport, now, began time.Time) bool {
	if now.Sub(began) >= importsWait {
		return true
	}
	for s := range db.BGPSessions.All(snap) {
		if len(taken[s.Peer]) == 0 || s.Bar != "" {
			continue
		}
		at, ok := db.BGPSessionStates.Get(snap, s.RowKey())
		if !ok || at.State != state.BGPEstablished || !at.Told && now.Sub(at.Since) < noEndOfRIB {
			return false
		}
	}
	return true
}
