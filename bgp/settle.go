package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

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
// may have missed, and has those begin again that have ended, or were shut out for long enough.
func (s *Speaker) Settle(ctx context.Context) error { return s.settle(ctx, time.Now()) }

func (s *Speaker) settle(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, i := range s.instances {
		if i.server == nil {
			continue
		}
		err := i.listSessions(ctx, func(session *session, p *api.Peer) {
			errs = append(errs, i.settle(ctx, session, p, now))
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// settle judges what changed since the session was seen last. Nothing changes while it does.
func (i *instance) settle(ctx context.Context, s *session, p *api.Peer, now time.Time) error {
	since := p.Timers.GetState().GetUptime().AsTime()
	if p.State.SessionState == api.PeerState_SESSION_STATE_ESTABLISHED && s.asn != p.State.PeerAsn {
		if err := i.meet(ctx, s, p.State.PeerAsn, now); err != nil || s.refused != "" {
			return err
		}
	}
	switch {
	case p.State.SessionState == api.PeerState_SESSION_STATE_OPENCONFIRM: // it may have been given all already
		return nil
	case p.State.SessionState != api.PeerState_SESSION_STATE_ESTABLISHED: // it will be
		lasted := !s.since.IsZero() && now.Sub(s.since) >= idleAfterError
		s.since, s.unsettled = time.Time{}, nil
		if lasted && mayBeginAgain(p) || s.shutOutLongEnough(p, now) {
			return i.beginAgain(ctx, s)
		}
		return nil
	case s.since.Equal(since): // it heard of each
	default:
		for prefix := range s.unsettled {
			if err := i.tellAgain(s, prefix); err != nil {
				return fmt.Errorf("tell peer %s of %s again: %w", s.row.Peer, prefix, err)
			}
		}
		s.since = since
	}
	s.unsettled = nil
	return nil
}

// idleAfterError is how long GoBGP leaves a session alone that has ended, whatever it
// is told. It keeps a peer that makes errors from doing so all the time: a
// session that lasted as long has shown that it does not.
const idleAfterError = 5 * time.Second

// mayBeginAgain says whether the session waits for no more than that. One that
// comes back from a restart (RFC 4724) has routes that would go with it.
func mayBeginAgain(p *api.Peer) bool {
	return p.State.SessionState == api.PeerState_SESSION_STATE_IDLE && p.State.AdminState == api.PeerState_ADMIN_STATE_UP && !p.GracefulRestart.GetPeerRestarting()
}

// meet takes in the AS number of a peer that may have several. GoBGP lets whichever it
// is in where it need not be a certain one, and does not know what is for internal peers alone.
func (i *instance) meet(ctx context.Context, s *session, asn uint32, now time.Time) error {
	knew := s.internal(i.row.ASN)
	s.asn = asn
	internal := s.internal(i.row.ASN)
	switch {
	case internal && s.row.ASN.Number == 0 && s.row.ASN.Mode == asnExternal:
		s.asn, s.shutOut = 0, now
		s.refused = fmt.Sprintf("the peer has this node's own AS number %d, and spec.peerASNMode is External: make it Internal or Any, "+
			"or correct the number of one of them; the session begins again after %s", asn, shutOutWords)
		if _, err := i.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: s.peer(i.row.ASN, false)}); err != nil {
			return fmt.Errorf("refuse peer %s, which is internal: %w", s.row.Peer, err)
		}
	case internal != knew:
		if err := errors.Join(i.addressesChanged(ctx), i.sendAgain(ctx, s)); err != nil {
			return fmt.Errorf("have routes of peer %s as its AS wants them: %w", s.row.Peer, err)
		}
	}
	return nil
}

// shutOutPause is how long a peer is left alone that sent more prefixes than it may, or
// was refused: it does so still, in all likelihood.
const (
	shutOutPause = 5 * time.Minute
	shutOutWords = "5 minutes"
)

// isShutOut says whether the peer sent more prefixes than it may. GoBGP by itself
// leaves it so for ever.
func isShutOut(p *api.Peer) bool { return p.State.AdminState == api.PeerState_ADMIN_STATE_PFX_CT }

// shutOutLongEnough says whether that was so long ago that the session may begin again.
func (s *session) shutOutLongEnough(p *api.Peer, now time.Time) bool {
	switch {
	case !isShutOut(p) && s.refused == "":
		s.shutOut = time.Time{}
	case s.shutOut.IsZero():
		s.shutOut = now
	case now.Sub(s.shutOut) >= shutOutPause:
		s.shutOut, s.refused = time.Time{}, ""
		return true
	}
	return false
}

// beginAgain has the session made anew, which does not wait.
func (i *instance) beginAgain(ctx context.Context, s *session) error {
	err := i.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: s.remote.String()})
	if err == nil {
		if err = i.server.AddPeer(ctx, &api.AddPeerRequest{Peer: s.peer(i.row.ASN, false)}); err != nil {
			delete(i.sessions, s.row.Peer) // to be had again with the next full pass
		}
	}
	if err != nil {
		return fmt.Errorf("begin session with peer %s again: %w", s.row.Peer, err)
	}
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
