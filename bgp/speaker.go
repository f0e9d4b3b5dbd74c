package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/seamark-lb/seamark/state"
)

// Speaker runs the BGP instances of this node. It is what the rows of three
// tables are brought into; in any order, since what an instance is to have is
// kept while it does not run.
type Speaker struct {
	log *slog.Logger

	mu        sync.Mutex
	instances map[string]*instance
	// begun: instances that ran before in this process. A peer that keeps the
	// routes of a restarting daemon (RFC 4724) is told so by the first alone.
	begun map[string]bool
	// told gets a word when peers have sent routes that may be taken.
	told chan struct{}
	// routers are who advertised himself last, by the interface.
	routers map[string]netip.Addr
}

// New returns a Speaker that runs nothing yet.
func New(log *slog.Logger) *Speaker {
	return &Speaker{log: log, instances: map[string]*instance{}, begun: map[string]bool{}, told: make(chan struct{}, 1), routers: map[string]netip.Addr{}}
}

// instance is one BGP speaker with its sessions and routes.
type instance struct {
	row    state.BGPSpeaker
	server *server.BgpServer // nil: it does not run
	log    *logger
	// restarting: peers may have kept routes of the daemon before this one.
	restarting bool
	sessions   map[string]*session
	routes     map[netip.Prefix]*route
	offers     *offers
	unwatch    func() // ends what watchReceived began; nil: it did not
}

// session is a peer that the server has.
type session struct {
	row state.BGPSession
	// remote is the peer's address in the server: that of the row, or found on
	// its interface.
	remote netip.Addr
	// own is this end's address of a session with a link-local address, and tells it
	// from those with the same address on other interfaces.
	own netip.Addr
	// asn is the peer's AS number, as it said when the session was seen established last.
	asn uint32
	// held is why it is kept down, and refused, why for a while; "": it is not.
	held, refused string
	// wasEstablished is the state's.
	wasEstablished bool
	// since is when it was established; the zero Time: it was not when it was seen last.
	since time.Time
	// shutOut is since when it is down for more prefixes than it may have, or refused;
	// the zero Time: it is not.
	shutOut time.Time
	// unsettled are the prefixes that have changed after it was seen last.
	unsettled map[netip.Prefix]bool
}

func newInstance(name string, log *slog.Logger) *instance {
	return &instance{row: state.BGPSpeaker{Instance: name}, sessions: map[string]*session{}, routes: map[netip.Prefix]*route{},
		offers: newOffers(), log: newLogger(log.With("instance", name))}
}

// instance returns the instance of that name, which is made if there is none.
func (s *Speaker) instance(name string) *instance {
	i := s.instances[name]
	if i == nil {
		i = newInstance(name, s.log)
		s.instances[name] = i
	}
	return i
}

// Speakers is the target of the BGPSpeakers.
func (s *Speaker) Speakers() state.Target[state.BGPSpeaker] { return speakers{s} }

type speakers struct{ *Speaker }

func (s speakers) Update(ctx context.Context, row state.BGPSpeaker) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instance(row.Instance)
	if i.server != nil && i.row.SameSpec(row) {
		return nil
	}
	i.row = row
	i.restarting = !s.begun[row.Instance]
	if err := i.start(ctx); err != nil {
		return fmt.Errorf("start BGP instance %s: %w", row.Instance, err)
	}
	s.begun[row.Instance] = true
	return nil
}

func (s speakers) Delete(ctx context.Context, row state.BGPSpeaker) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.instances[row.Instance]; i != nil {
		i.stop(ctx)
		delete(s.instances, row.Instance)
	}
	return nil
}

func (s speakers) Prune(ctx context.Context, wanted []state.BGPSpeaker) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, i := range s.instances {
		if i.server != nil && !slices.ContainsFunc(wanted, func(row state.BGPSpeaker) bool { return row.Instance == name }) {
			i.stop(ctx)
		}
	}
	return nil
}

// Families as GoBGP numbers them for an instance, and nowhere else.
const (
	gobgpIPv4Unicast = 0
	gobgpIPv6Unicast = 1
)

// start makes the instance run as its row says, with all it is to have.
func (i *instance) start(ctx context.Context) error {
	i.stop(ctx)
	srv := server.NewBgpServer(server.LoggerOption(i.log.server(), nil))
	go srv.Serve()
	port := int32(-1) // nobody may connect
	if i.row.ListenPort != 0 {
		port = int32(i.row.ListenPort)
	}
	global := &api.Global{Asn: i.row.ASN, RouterId: i.row.RouterID.String(), ListenPort: port,
		Families: []uint32{gobgpIPv4Unicast, gobgpIPv6Unicast}}
	if err := srv.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		srv.Stop()
		return err
	}
	i.server = srv
	err := i.refuseAll(ctx)
	for _, r := range i.routes {
		i.offers.want(r)
	}
	err = errors.Join(err, i.setPolicies(ctx))
	for _, r := range i.routes {
		err = errors.Join(err, i.addPath(r))
	}
	for _, s := range i.sessions {
		err = errors.Join(err, i.addPeer(ctx, s))
	}
	if err != nil {
		i.stop(ctx)
	}
	return err
}

// stop ends the sessions with a notification: peers forget the routes at once.
func (i *instance) stop(ctx context.Context) {
	if i.server == nil {
		return
	}
	if i.unwatch != nil {
		i.unwatch()
		i.unwatch = nil
	}
	if err := i.server.StopBgp(ctx, &api.StopBgpRequest{}); err != nil {
		i.log.log.Warn("stop BGP instance", "err", err)
	}
	i.server = nil
	i.offers = newOffers()
}

// Close ends all sessions. Where a peer keeps the routes of a daemon that
// restarts (RFC 4724), and there are any, it must not be told: the sessions end
// with the process.
func (s *Speaker) Close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.instances {
		if i.server == nil {
			continue
		}
		for _, session := range i.sessions {
			if session.row.GracefulRestart > 0 && len(i.routes) > 0 {
				continue
			}
			if err := i.deletePeer(ctx, session); err != nil {
				i.log.log.Warn("end BGP session", "peer", session.row.Peer, "err", err)
			}
		}
	}
}

// Sessions is the target of the BGPSessions.
func (s *Speaker) Sessions() state.Target[state.BGPSession] { return sessions{s} }

type sessions struct{ *Speaker }

func (s sessions) Update(ctx context.Context, row state.BGPSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instance(row.Instance)
	if row.Bar != "" { // it could be had before
		return i.dropSession(ctx, row.Peer)
	}
	remote, err := s.remoteOf(row, i.sessions[row.Peer])
	if err != nil {
		return err
	}
	own, err := ownAddress(row, remote)
	if err != nil {
		return err
	}
	old := i.sessions[row.Peer]
	if old != nil && old.row.SameSpec(row) && old.remote == remote && old.own == own {
		return nil
	}
	now := &session{row: row, remote: remote, own: own}
	if old != nil {
		now.held = old.held
		if old.remote == remote {
			now.wasEstablished, now.since, now.unsettled = old.wasEstablished, old.since, old.unsettled
			if old.row.ASN == row.ASN { // else it is to be met again
				now.asn = old.asn
			}
		}
	}
	i.sessions[row.Peer] = now
	if i.server == nil {
		return nil
	}
	if err := i.replacePeer(ctx, old, now); err != nil {
		if delete(i.sessions, row.Peer); old != nil && i.inServer(ctx, old) != nil { // to be tried again
			i.sessions[row.Peer] = old
		}
		return fmt.Errorf("have session of instance %s with peer %s: %w", row.Instance, row.Peer, err)
	}
	return nil
}

func (s sessions) Delete(ctx context.Context, row state.BGPSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[row.Instance]
	if i == nil {
		return nil
	}
	return i.dropSession(ctx, row.Peer)
}

func (s sessions) Prune(ctx context.Context, wanted []state.BGPSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	for _, row := range wanted {
		keep[row.RowKey()] = true
	}
	var errs []error
	for _, i := range s.instances {
		for peer, session := range i.sessions {
			if !keep[session.row.RowKey()] {
				errs = append(errs, i.dropSession(ctx, peer))
			}
		}
	}
	return errors.Join(errs...)
}

func (i *instance) dropSession(ctx context.Context, peer string) error {
	session := i.sessions[peer]
	if session == nil {
		return nil
	}
	if i.server != nil {
		if err := i.deletePeer(ctx, session); err != nil {
			return fmt.Errorf("end session of instance %s with peer %s: %w", i.row.Instance, peer, err)
		}
	}
	delete(i.sessions, peer)
	return nil
}

// Routes is the target of the BGPRoutes.
func (s *Speaker) Routes() state.Target[state.BGPRoute] { return routes{s} }

type routes struct{ *Speaker }

func (s routes) Update(ctx context.Context, row state.BGPRoute) error {
	return s.UpdateAll(ctx, []state.BGPRoute{row})[0]
}

// UpdateAll sets the policies once for all rows.
func (s routes) UpdateAll(ctx context.Context, rows []state.BGPRoute) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(rows))
	touched := map[*instance]error{}
	changed := make([]*route, len(rows))
	for n, row := range rows {
		i := s.instance(row.Instance)
		if old := i.routes[row.Prefix]; old != nil && slices.EqualFunc(old.row.Offers, row.Offers, state.BGPOffer.Equal) {
			continue
		}
		changed[n] = &route{row: row}
		i.offers.want(changed[n])
		touched[i] = nil
	}
	for i := range touched {
		if i.server != nil {
			touched[i] = i.setPolicies(ctx) // before the routes that they are for
		}
	}
	for n, r := range changed {
		if r == nil {
			continue
		}
		i := s.instances[r.row.Instance]
		if errs[n] = touched[i]; errs[n] == nil && i.server != nil {
			i.changed(r.row.Prefix)
			errs[n] = i.addPath(r)
		}
		if errs[n] != nil {
			errs[n] = fmt.Errorf("advertise %s by instance %s: %w", r.row.Prefix, r.row.Instance, errs[n])
			continue
		}
		i.routes[r.row.Prefix] = r
	}
	return errs
}

func (s routes) Delete(_ context.Context, row state.BGPRoute) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[row.Instance]
	if i == nil {
		return nil
	}
	return i.dropRoute(row.Prefix)
}

// DeleteAll is Delete of each.
func (s routes) DeleteAll(ctx context.Context, rows []state.BGPRoute) []error {
	errs := make([]error, len(rows))
	for n, row := range rows {
		errs[n] = s.Delete(ctx, row)
	}
	return errs
}

func (s routes) Prune(_ context.Context, wanted []state.BGPRoute) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	for _, row := range wanted {
		keep[row.RowKey()] = true
	}
	var errs []error
	for _, i := range s.instances {
		there, err := i.advertised()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, prefix := range there {
			if !keep[(state.BGPRoute{Instance: i.row.Instance, Prefix: prefix}).RowKey()] {
				errs = append(errs, i.dropRoute(prefix))
			}
		}
		for prefix := range i.routes { // what the server has lost is to be given to it again
			if !slices.Contains(there, prefix) && i.server != nil {
				delete(i.routes, prefix)
			}
		}
	}
	return errors.Join(errs...)
}

func (i *instance) dropRoute(prefix netip.Prefix) error {
	if i.server != nil {
		i.changed(prefix)
		if err := i.deletePath(prefix); err != nil {
			return fmt.Errorf("withdraw %s by instance %s: %w", prefix, i.row.Instance, err)
		}
	}
	delete(i.routes, prefix)
	return nil
}
