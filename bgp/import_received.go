package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/seamark-lb/seamark/state"
)

// defaultLocalPref is that of routes that come without one (RFC 4271 §5.1.5 leaves it open).
const defaultLocalPref = 100

// Received are the routes that peers have sent, of those that taken, by the peer's
// name, has prefixes for; sorted by key. A peer that restarts (RFC 4724) still has
// sent what it had for as long as it asked for.
func (s *Speaker) Received(ctx context.Context, taken map[string][]state.BGPImport) ([]state.BGPReceived, error) {
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
				rows, err := i.receivedFrom(ctx, session, v6, taken[session.row.Peer])
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
	request := &api.WatchEventRequest{Peer: &api.WatchEventRequest_Peer{},
		Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{{Type: api.WatchEventRequest_Table_Filter_ADJIN}}}}
	err := i.server.WatchEvent(ctx, request, func(*api.WatchEventResponse) {
		select {
		case told <- struct{}{}:
		default: // a look is due already
		}
	})
	if err != nil {
		end()
		return fmt.Errorf("watch routes of BGP instance %s: %w", i.row.Instance, err)
	}
	i.unwatch = end
	return nil
}

// receivedFrom are the routes of one family that a peer has sent, and that may be taken.
func (i *instance) receivedFrom(ctx context.Context, s *session, v6 bool, taken []state.BGPImport) ([]state.BGPReceived, error) {
	if exchanged := s.row.IPv4 && !v6 || s.row.IPv6 && v6; !exchanged {
		return nil, nil
	}
	request := &api.ListPathRequest{TableType: api.TableType_ADJ_IN, Name: s.remote.String(), Family: familyOf(v6)}
	for _, t := range taken {
		if t.Prefix.Addr().Is6() == v6 {
			request.Prefixes = append(request.Prefixes, &api.TableLookupPrefix{Prefix: t.Prefix.String(), Type: api.TableLookupPrefix_LONGER})
		}
	}
	if len(request.Prefixes) == 0 {
		return nil, nil // which would list all
	}
	var rows []state.BGPReceived
	err := i.server.ListPath(ctx, request, func(d *api.Destination) {
		prefix, err := netip.ParsePrefix(d.Prefix)
		if err != nil || len(d.Paths) == 0 || !slices.ContainsFunc(taken, func(t state.BGPImport) bool { return t.Takes(prefix) }) {
			return
		}
		rows = append(rows, i.receivedRow(s, prefix, d.Paths[0]))
	})
	return rows, err
}

func (i *instance) receivedRow(s *session, prefix netip.Prefix, path *api.Path) state.BGPReceived {
	row := state.BGPReceived{Instance: i.row.Instance, Peer: s.row.Peer, Prefix: prefix, LocalPref: defaultLocalPref,
		Internal: path.SourceAsn == i.row.ASN}
	hop := func(text string) {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return
		}
		if a = a.Unmap(); a.IsLinkLocalUnicast() && a.Is6() {
			a = a.WithZone(s.remote.Zone())
		}
		row.NextHops = append(row.NextHops, a)
	}
	for _, packed := range path.Pattrs {
		message, err := packed.UnmarshalNew()
		if err != nil {
			continue // one that says nothing of the way
		}
		switch a := message.(type) {
		case *api.OriginAttribute:
			row.Origin = uint8(a.Origin)
		case *api.NextHopAttribute:
			hop(a.NextHop)
		case *api.MpReachNLRIAttribute:
			for _, text := range a.NextHops {
				hop(text)
			}
		case *api.AsPathAttribute:
			for _, segment := range a.Segments {
				row.ASPath = append(row.ASPath, segment.Numbers...)
				switch segment.Type {
				case api.AsSegment_AS_SEQUENCE:
					row.PathLength += len(segment.Numbers)
				case api.AsSegment_AS_SET:
					row.PathLength++
				}
			}
		case *api.LocalPrefAttribute:
			if row.Internal {
				row.LocalPref = a.LocalPref
			}
		case *api.MultiExitDiscAttribute:
			row.MED = a.Med
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
		if len(taken[s.Peer]) == 0 {
			continue
		}
		at, ok := db.BGPSessionStates.Get(snap, s.RowKey())
		if !ok || at.State != state.BGPEstablished || !at.Told && now.Sub(at.Since) < noEndOfRIB {
			return false
		}
	}
	return true
}
