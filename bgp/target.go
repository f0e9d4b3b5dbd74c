package bgp

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seamark-lb/seamark/state"
)

// Target keeps the sessions and routes that were decided, and says how they stand.
type Target struct {
	DB     *state.DB
	Writer *state.Writer
	Log    *slog.Logger
	// Decided says whether the rows have been decided once.
	Decided func(state.Snapshot) bool

	Speaker *Speaker
}

// poll is how often the sessions are asked how they stand.
const poll = time.Second

// Run returns when ctx has ended, with the sessions.
func (t *Target) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context) error{t.speakers().Run, t.sessions().Run, t.routes().Run, t.watch, t.importing, t.holdWithBFD, t.unnumbered} {
		group.Go(func() error { return part(ctx) })
	}
	err := group.Wait()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), poll)
	defer cancel()
	t.Speaker.Close(end)
	return err
}

func (t *Target) speakers() *state.Reconciler[state.BGPSpeaker] {
	return &state.Reconciler[state.BGPSpeaker]{DB: t.DB, Writer: t.Writer, Table: t.DB.BGPSpeakers, Target: t.Speaker.Speakers(), Log: t.Log, Gate: t.Decided}
}

// sessions begin when the routes that there are to be from the first have gone to
// the speaker: a peer that kept the routes of the daemon before (RFC 4724) drops
// what it is not told again.
func (t *Target) sessions() *state.Reconciler[state.BGPSession] {
	return &state.Reconciler[state.BGPSession]{DB: t.DB, Writer: t.Writer, Table: t.DB.BGPSessions, Target: t.Speaker.Sessions(), Log: t.Log, Gate: t.Decided,
		Hold: func(snap state.Snapshot, row state.BGPSession) state.Reason {
			if row.Status.Phase == state.Done || !row.Status.Wanted() {
				return ""
			}
			if !state.Marked(snap, state.PrunedMark(t.DB.Frontends.Name())) {
				return state.ReasonWaitingForDatapath
			}
			for r := range t.DB.BGPRoutes.All(snap) {
				if r.Instance == row.Instance && r.Status.Phase == state.Pending && r.Status.Tries == 0 && (r.Status.Reason == "" || t.untried(snap, r)) {
					return state.ReasonWaitingForRoutes
				}
			}
			return ""
		}, Wake: []state.Watch{t.DB.BGPRoutes.Watch(), t.DB.Frontends.Watch()}}
}

// untried says whether the datapath has not come to an address of the route yet.
// One that it cannot serve holds no session up.
func (t *Target) untried(snap state.Snapshot, r state.BGPRoute) bool {
	for _, a := range r.Addrs {
		for f := range t.DB.Frontends.By(snap, state.IndexAddr, a.String()) {
			if f.Status.Phase == state.Pending && f.Status.Tries == 0 && f.Status.Reason == "" {
				return true
			}
		}
	}
	return false
}

// routes go out only after their addresses are served here.
func (t *Target) routes() *state.Reconciler[state.BGPRoute] {
	return &state.Reconciler[state.BGPRoute]{DB: t.DB, Writer: t.Writer, Table: t.DB.BGPRoutes, Target: t.Speaker.Routes(), Log: t.Log, Gate: t.Decided,
		Hold: t.holdRoute, Wake: []state.Watch{t.DB.Frontends.Watch(), t.DB.KernelRoutes.Watch()}}
}

// holdRoute says why a route does not go out yet: an address of it is not served.
// An aggregate goes out when all of its addresses have been tried and one is
// served, and what nobody has of it is dropped here.
func (t *Target) holdRoute(snap state.Snapshot, row state.BGPRoute) state.Reason {
	if row.Status.Phase == state.Done || !row.Status.Wanted() {
		return ""
	}
	if row.Aggregate() {
		hole, _ := t.DB.KernelRoutes.Get(snap, Blackhole(row).RowKey())
		if hole.Status.Phase != state.Done || t.untried(snap, row) || !t.anyServed(snap, row) {
			return state.ReasonWaitingForDatapath
		}
		return ""
	}
	for _, a := range row.Addrs {
		for f := range t.DB.Frontends.By(snap, state.IndexAddr, a.String()) {
			if f.Status.Wanted() && f.Status.Phase != state.Done {
				return state.ReasonWaitingForDatapath
			}
		}
	}
	return ""
}

// anyServed says whether an address of the route is served.
func (t *Target) anyServed(snap state.Snapshot, r state.BGPRoute) bool {
	for _, a := range r.Addrs {
		for f := range t.DB.Frontends.By(snap, state.IndexAddr, a.String()) {
			if f.Status.Phase == state.Done {
				return true
			}
		}
	}
	return false
}

// watch writes how the sessions stand.
func (t *Target) watch(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if err := t.Speaker.Settle(ctx); err != nil && ctx.Err() == nil {
			t.Log.Warn("settle BGP sessions that began or ended", "err", err)
		}
		if states, err := t.Speaker.States(ctx); err == nil {
			t.tell(states)
		} else if ctx.Err() == nil {
			t.Log.Warn("ask BGP sessions how they stand", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (t *Target) tell(states []state.BGPSessionState) {
	snap := t.DB.Snapshot()
	_, beside := BFDSessions(t.bfdInputs(snap))
	var changed []state.BGPSessionState
	there := map[string]bool{}
	for _, row := range states {
		there[row.RowKey()] = true
		row.BFD = t.bfdOf(snap, row, beside[row.RowKey()])
		was, known := t.DB.BGPSessionStates.Get(snap, row.RowKey())
		if known && was == row {
			continue
		}
		changed = append(changed, row)
		switch {
		case row.State == state.BGPEstablished && was.State != row.State:
			t.Log.Info("BGP session established", "instance", row.Instance, "peer", row.Peer, "remote", row.Remote, "asn", row.ASN)
		case row.State != state.BGPEstablished && was.State == state.BGPEstablished:
			t.Log.Warn("BGP session is down", "instance", row.Instance, "peer", row.Peer, "remote", row.Remote, "why", row.LastError)
		}
	}
	var gone []string
	for row := range t.DB.BGPSessionStates.All(snap) {
		if !there[row.RowKey()] {
			gone = append(gone, row.RowKey())
		}
	}
	if len(changed) == 0 && len(gone) == 0 {
		return
	}
	t.Writer.Update(func(tx *state.Tx) {
		for _, row := range changed {
			t.DB.BGPSessionStates.Put(tx, row)
		}
		for _, key := range gone {
			t.DB.BGPSessionStates.Delete(tx, key)
		}
	})
}

// bfdOf is how the BFD session of that key stands, which is beside a BGP session.
func (t *Target) bfdOf(snap state.Snapshot, row state.BGPSessionState, key string) string {
	if s, _ := t.DB.BGPSessions.Get(snap, row.RowKey()); s.BFD.Multiplier == 0 {
		return ""
	}
	st, known := t.DB.BFDStates.Get(snap, key)
	switch {
	case !known:
		return state.BFDDown.String()
	case st.Phase == state.BFDDown && st.RemotePhase == state.BFDAdminDown:
		return state.BFDAdminDown.String()
	}
	return st.Phase.String()
}
