package bgp

import (
	"context"
	"fmt"
	"time"

	"github.com/osrg/gobgp/v4/api"

	"github.com/seamark-lb/seamark/state"
)

// Hold ends a session and keeps it down for the reason given, or lets it begin
// again with "". Its peer drops the routes at once, also one that would keep them
// for a restart (RFC 4724 §4): it is told that the session is shut down.
func (s *Speaker) Hold(ctx context.Context, instance, peer, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[instance]
	if i == nil || i.sessions[peer] == nil || i.sessions[peer].held == why {
		return nil
	}
	old := i.sessions[peer]
	now := *old
	now.held = why
	if i.server != nil && (old.held == "") != (why == "") {
		if _, err := i.server.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: now.peer(i.row.ASN, false)}); err != nil {
			return fmt.Errorf("hold session of instance %s with peer %s: %w", instance, peer, err)
		}
	}
	i.sessions[peer] = &now
	return nil
}

// restarting says whether the peer's routes are kept while it restarts (RFC 4724 §4.2).
func (s *Speaker) restarting(ctx context.Context, instance, peer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[instance]
	if i == nil || i.server == nil || i.sessions[peer] == nil {
		return false
	}
	return i.inServer(ctx, i.sessions[peer]).GetGracefulRestart().GetPeerRestarting()
}

// holdWithBFD takes sessions down whose path is, and lets them begin again.
func (t *Target) holdWithBFD(ctx context.Context) error {
	holds := map[string]*hold{}
	var again <-chan struct{}
	return t.DB.Follow(ctx, poll, func(snap state.Snapshot) {
		again = nil
		sessions := t.DB.BGPSessions.Rows(snap)
		_, beside := BFDSessions(t.bfdInputs(snap))
		there := map[string]bool{}
		wait := time.Duration(0)
		for _, row := range sessions {
			key := row.RowKey()
			there[key] = true
			h := holds[key]
			if h == nil {
				h = &hold{}
				holds[key] = h
			}
			st, _ := t.DB.BFDStates.Get(snap, beside[key])
			w := h.judge(st, st.PathDown() && t.Speaker.restarting(ctx, row.Instance, row.Peer), row.ConnectRetry, time.Now())
			if w > 0 && (wait == 0 || w < wait) {
				wait = w
			}
			if err := t.Speaker.Hold(ctx, row.Instance, row.Peer, h.why(st)); err != nil && ctx.Err() == nil {
				t.Log.Warn("have BGP follow BFD", "err", err)
			}
		}
		for key := range holds {
			if !there[key] {
				delete(holds, key)
			}
		}
		if wait > 0 {
			over := make(chan struct{})
			time.AfterFunc(wait, func() { close(over) })
			again = over
		}
	}, t.DB.BFDStates.Watch(), t.DB.BGPSessions.Watch(), func(state.Snapshot) <-chan struct{} { return again })
}

func (t *Target) bfdInputs(snap state.Snapshot) BFDInputs {
	return BFDInputs{Sessions: t.DB.BGPSessions.Rows(snap), States: t.DB.BGPSessionStates.Rows(snap), Speakers: t.DB.BGPSpeakers.Rows(snap),
		Devices: t.DB.Devices.Rows(snap)}
}

// why a session is held, in words; "": it is not.
func (h *hold) why(st state.BFDState) string {
	switch {
	case !h.held:
		return ""
	case st.Up():
		return "BFD went down several times: the session begins again in a moment"
	}
	why := "BFD is down"
	if st.Diag != state.BFDNoDiag {
		why += ": " + st.Diag.String()
	}
	return why + "; the session begins again when it is up, or in some seconds"
}
