package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/osrg/gobgp/v4/api"

	"github.com/seamark-lb/seamark/state"
)

// GoBGP v4 gives a session that begins all routes, and only then takes it for one
// that hears of changes: what changes between the two, the peer is never told. So
// changes are remembered until a session has been seen established, and told again.

// changed remembers that peers are told of the prefix now, and may not hear it.
func (i *instance) changed(prefix netip.Prefix) {
	for _, s := range i.sessions {
		if s.unsettled == nil {
			s.unsettled = map[netip.Prefix]bool{}
		}
		s.unsettled[prefix] = true
	}
}

// Settle tells the peers whose sessions have begun since it was called last what they
// may have missed.
func (s *Speaker) Settle(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, i := range s.instances {
		if i.server == nil {
			continue
		}
		errs = append(errs, i.listSessions(ctx, func(session *session, p *api.Peer) {
			errs = append(errs, i.settle(session, p.State.SessionState))
		}))
	}
	return errors.Join(errs...)
}

// settle judges what changed since the session was seen last. Nothing changes while it does.
func (i *instance) settle(s *session, is api.PeerState_SessionState) error {
	downs := i.log.flaps(s.remote.String())
	switch {
	case is == api.PeerState_SESSION_STATE_OPENCONFIRM: // it may have been given all already
		return nil
	case is != api.PeerState_SESSION_STATE_ESTABLISHED: // it will be
		s.settled = false
	case s.settled && s.downs == downs: // it heard of each
	default:
		for prefix := range s.unsettled {
			if err := i.tellAgain(s, prefix); err != nil {
				return fmt.Errorf("tell peer %s of %s again: %w", s.row.Peer, prefix, err)
			}
		}
		s.settled, s.downs = true, downs
	}
	s.unsettled = nil
	return nil
}

// tellAgain says of a prefix what holds. GoBGP withdraws what is in its table, so what
// is not is put there before: without a tag, for which the policies let it out to nobody.
func (i *instance) tellAgain(s *session, prefix netip.Prefix) error {
	r := i.routes[prefix]
	offered := false
	if r != nil {
		offered, _ = i.offered(s, r)
	}
	if !offered {
		if err := errors.Join(i.addPath(&route{row: state.BGPRoute{Prefix: prefix}}), i.deletePath(prefix)); err != nil {
			return err
		}
	}
	if r == nil {
		return nil
	}
	return i.addPath(r)
}
