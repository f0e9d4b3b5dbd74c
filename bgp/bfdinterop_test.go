package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seamark-lb/seamark/bfd"
	"github.com/seamark-lb/seamark/state"
)

// daemon is a node's tables with what keeps BGP and BFD sessions for them, as
// seamarkd has it.
type daemon struct {
	t      *testing.T
	db     *state.DB
	writer *state.Writer
}

func runDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{t: t}
	d.db, d.writer = state.New()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	decided := func(state.Snapshot) bool { return true }
	d.writer.Update(func(tx *state.Tx) {
		tx.Mark(state.PrunedMark(d.db.Frontends.Name()))
		d.db.Devices.Put(tx, linkRow(t, "tor"))
	})
	ctx, cancel := context.WithCancel(context.Background())
	group, groupCtx := errgroup.WithContext(ctx)
	neighbors := bfd.New(d.db, d.writer, log)
	group.Go(func() error { return neighbors.Run(groupCtx) })
	group.Go(func() error {
		return (&state.Reconciler[state.BFDSession]{DB: d.db, Writer: d.writer, Table: d.db.BFDSessions, Target: neighbors, Log: log, Gate: decided}).Run(groupCtx)
	})
	target := &Target{DB: d.db, Writer: d.writer, Log: log, Decided: decided, Speaker: New(log)}
	group.Go(func() error { return target.Run(groupCtx) })
	group.Go(func() error {
		return d.db.Follow(groupCtx, time.Minute, func(snap state.Snapshot) {
			rows, _ := BFDSessions(target.bfdInputs(snap))
			d.writer.Update(func(tx *state.Tx) { state.Want(tx, d.db.BFDSessions, rows, time.Now()) })
		}, d.db.BGPSessions.Watch(), d.db.BGPSessionStates.Watch(), d.db.BGPSpeakers.Watch())
	})
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
		for name := range target.Speaker.instances {
			if err := target.Speaker.Speakers().Delete(context.Background(), state.BGPSpeaker{Instance: name}); err != nil {
				t.Error(err)
			}
		}
	})
	return d
}

// linkRow is the row of an interface.
func linkRow(t *testing.T, name string) state.Device {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := link.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	d := state.Device{Name: name, Index: link.Index, Up: true}
	for _, a := range addrs {
		d.Prefixes = append(d.Prefixes, prefixOf(a.String()))
	}
	return d
}

// speak wants the instance, the session and a route of each family.
func (d *daemon) speak(identity state.BGPIdentity, s state.BGPSession) {
	d.writer.Update(func(tx *state.Tx) {
		now := time.Now()
		state.Want(tx, d.db.BGPSpeakers, []state.BGPSpeaker{{Instance: s.Instance, BGPIdentity: identity}}, now)
		state.Want(tx, d.db.BGPSessions, []state.BGPSession{s}, now)
		var routes []state.BGPRoute
		for _, prefix := range []string{"203.0.113.1/32", "2001:db8::1/128"} {
			routes = append(routes, state.BGPRoute{Instance: s.Instance, Prefix: prefixOf(prefix), Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{s.Peer}}}})
		}
		state.Want(tx, d.db.BGPRoutes, routes, now)
	})
}

// session waits until the session stands as is says.
func (d *daemon) session(what string, is func(state.BGPSessionState) bool) {
	d.t.Helper()
	eventually(d.t, what, func() error {
		rows := d.db.BGPSessionStates.Rows(d.db.Snapshot())
		if len(rows) != 1 || !is(rows[0]) {
			return fmt.Errorf("%+v, BFD %+v", rows, d.db.BFDStates.Rows(d.db.Snapshot()))
		}
		return nil
	})
}

// cut has the wire lose all packets while both ends have carrier: they are for
// nobody there.
func cut(t *testing.T, inRouter string) {
	nobody(t, inRouter, "replace", " lladdr 02:00:00:00:00:99 nud permanent")
}

func mend(t *testing.T, inRouter string) { nobody(t, inRouter, "del", "") }

func nobody(t *testing.T, inRouter, verb, more string) {
	t.Helper()
	for _, to := range []string{"10.9.0.%d", "fd09::%d", "fe80::ff:fe00:90%d"} {
		run(t, "ip neigh "+verb+" "+fmt.Sprintf(to, 1)+" dev tor"+more)
		run(t, inRouter+"ip neigh "+verb+" "+fmt.Sprintf(to, 2)+" dev node"+more)
	}
}

// holdTime is long enough for BFD to be what takes a session down.
const holdTime = 90 * time.Second

// BFD beside BGP, in each way that a session can be had, as the router sees it:
// the path breaks, and, for one of them, heals.
func TestBFDInterop(t *testing.T) {
	needRouters(t)
	for _, c := range []struct {
		name      string
		frr, bird string
		neighbor  string
		// kind of BFD session, "single" or "multi" hop.
		kind     string
		identity state.BGPIdentity
		session  func(*state.BGPSession)
	}{
		{name: "one hop", neighbor: plain, frr: frrNeighbor(plain, "65001", "bfd"), bird: birdNeighbor(plain, "65001", "bfd on;"), kind: "single"},
		{name: "several hops", neighbor: "10.9.1.2", frr: frrNeighbor("10.9.1.2", "65001", "ebgp-multihop 3", "update-source 10.9.1.1", "bfd"),
			bird: birdNeighbor("10.9.1.2", "65001", "multihop 3; source address 10.9.1.1; bfd on;"), kind: "multi",
			session: func(s *state.BGPSession) {
				s.Remote, s.Source, s.Multihop = netip.MustParseAddr("10.9.1.1"), netip.MustParseAddr("10.9.1.2"), 3
			}},
		{name: "internal", neighbor: plain, identity: state.BGPIdentity{ASN: 65000}, frr: frrNeighbor(plain, "65000", "bfd"),
			bird: birdNeighbor(plain, "65000", "direct; bfd on;"), kind: "single"},
		{name: "link-local", frr: frrLinkLocal("bfd"), bird: birdLinkLocal("bfd on;"), neighbor: nodeLinkLocal, kind: "single", session: unnumbered},
	} {
		for _, kind := range []string{"FRR", "BIRD"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				inRouter := wire(t)
				router, config := peerDaemon(&frr{in: inRouter}), c.frr
				bfdUp := "Up, " + c.kind
				if kind == "BIRD" {
					router, config = &bird{in: inRouter}, c.bird
					bfdUp = "Up, on " + map[string]string{"single": "node", "multi": "---"}[c.kind]
				}
				router.configure(t, config)
				d := runDaemon(t)
				s := state.BGPSession{Instance: "tor", Peer: "router", Remote: netip.MustParseAddr("10.9.0.1"), RemotePort: 179,
					ASN: state.BGPPeerASN{Mode: "Any"}, IPv4: true, IPv6: true, NextHop6: netip.MustParseAddr("fd09::2"), BFD: fast,
					BGPSessionConfig: state.BGPSessionConfig{ConnectRetry: time.Second, Hold: holdTime, GracefulRestart: time.Minute}}
				if c.session != nil {
					c.session(&s)
				}
				identity := state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr("10.9.0.2")}
				if c.identity.ASN != 0 {
					identity.ASN = c.identity.ASN
				}
				d.speak(identity, s)

				up := func() {
					t.Helper()
					d.session("the session is established, and BFD is up", func(st state.BGPSessionState) bool {
						return st.State == state.BGPEstablished && st.BFD == "Up"
					})
					eventually(t, "the router has BFD up", func() error {
						got, err := router.bfd(c.neighbor)
						if err == nil && !strings.HasPrefix(got, bfdUp) {
							err = fmt.Errorf("%q, want %q", got, bfdUp)
						}
						return err
					})
					eventually(t, "the router has the route", func() error { _, err := router.learned("2001:db8::1/128"); return err })
				}
				up()
				cut(t, inRouter)
				d.session("the session is down for BFD", func(st state.BGPSessionState) bool {
					return st.State != state.BGPEstablished && st.BFD != "Up" && strings.Contains(st.LastError, "BFD is down: ")
				})
				eventually(t, "the router has the route no more", func() error {
					if _, err := router.learned("2001:db8::1/128"); err == nil {
						return errors.New("it has")
					}
					return nil
				})
				if c.name == "one hop" {
					mend(t, inRouter)
					up()
				}
			})
		}
	}
}
