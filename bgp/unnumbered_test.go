package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seamark-lb/seamark/state"
)

// However many ask: what is sent keeps the distance of RFC 4861, nobody waits longer
// for an answer than it says, and there is none that is not sent in time.
func TestAdvertPace(t *testing.T) {
	for range 1000 {
		now := time.Unix(1000, 0)
		p := advertPace{next: now}
		asked := time.Time{} // by someone who has no answer yet
		for range 100 {
			if rand.IntN(3) > 0 { // somebody asks before the next is due
				if wait := p.next.Sub(now); wait > 0 {
					now = now.Add(time.Duration(rand.Int64N(int64(wait))))
				}
				p.solicited(now, rand.Float64())
				if asked.IsZero() {
					asked = now
				}
				if rand.IntN(2) == 0 {
					continue
				}
			}
			now = p.next
			if since := now.Sub(p.last); p.sent > 0 && (since < minBetweenAdverts || since > maxAdvertInterval) {
				t.Fatalf("%v after the one before", since)
			}
			if waited := now.Sub(asked); !asked.IsZero() && waited > maxAdvertDelay+minBetweenAdverts {
				t.Fatalf("an answer after %v", waited)
			}
			asked = time.Time{}
			p.advertised(now, rand.Float64())
			if p.sent < initialAdverts && p.next.Sub(now) != minBetweenAdverts {
				t.Fatalf("the %d. is %v before the next", p.sent, p.next.Sub(now))
			}
		}
	}
}

// A router is told of; another takes its place after a while.
func TestRouterOfInterface(t *testing.T) {
	one, other := netip.MustParseAddr("fe80::1%tor"), netip.MustParseAddr("fe80::2%tor")
	var r heardRouter
	for _, step := range []struct {
		at   time.Duration
		from netip.Addr
		want bool
	}{{0, one, true}, {1, one, false}, {2, other, false}, {3, one, true}, {9, other, false}, {10, other, true}, {11, one, false}, {19, one, false}, {20, one, true}} {
		if got := r.hear(step.from, time.Unix(1000, 0).Add(step.at*time.Second)); got != step.want {
			t.Errorf("after %d s %s: %t", step.at, step.from, got)
		}
	}
}

// unnumberedNode has a session with whoever is on tor, and the routes of the matrix.
type unnumberedNode struct {
	t  *testing.T
	db *state.DB
}

func newUnnumberedNode(t *testing.T) unnumberedNode {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	db, writer := state.New()
	speaker := New(log)
	target := &Target{DB: db, Writer: writer, Log: log, Speaker: speaker, Decided: func(state.Snapshot) bool { return true }}
	s := sessionWithRouter()
	s.IPv6 = true
	unnumbered(&s)
	writer.Update(func(tx *state.Tx) {
		tx.Mark(state.PrunedMark(db.Frontends.Name()))
		db.BGPPeers.Put(tx, state.BGPPeer{Name: "router", Import: []state.BGPImport{taking("172.20.0.0/16", 24, 24)}})
		state.Want(tx, db.BGPSpeakers, []state.BGPSpeaker{{Instance: "tor", BGPIdentity: state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr(plain)}}}, time.Now())
		state.Want(tx, db.BGPSessions, []state.BGPSession{s}, time.Now())
		var routes []state.BGPRoute
		for _, prefix := range []string{"203.0.113.1/32", "2001:db8::1/128"} {
			routes = append(routes, state.BGPRoute{Instance: "tor", Prefix: prefixOf(prefix), Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{"router"}}}})
		}
		state.Want(tx, db.BGPRoutes, routes, time.Now())
	})
	ctx, stop := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error { return target.Run(ctx) })
	t.Cleanup(func() {
		stop()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})
	return unnumberedNode{t, db}
}

// speaksWith waits until the session is with that address, and carries routes both ways.
func (n unnumberedNode) speaksWith(router peerDaemon, remote netip.Addr) {
	n.t.Helper()
	eventually(n.t, "a session with "+remote.String(), func() error {
		rows := n.db.BGPSessionStates.Rows(n.db.Snapshot())
		if len(rows) != 1 || rows[0].Remote != remote {
			return fmt.Errorf("%+v", rows)
		}
		return nil
	})
	eventually(n.t, "the router has the session", func() error { return router.established("node") })
	for _, prefix := range []string{"203.0.113.1/32", "2001:db8::1/128"} {
		eventually(n.t, "the router has "+prefix, func() error {
			got, err := router.learned(prefix)
			if err == nil && got.NextHop != nodeLinkLocal {
				err = fmt.Errorf("by %s", got.NextHop)
			}
			return err
		})
	}
	eventually(n.t, "the node has the router's", func() error {
		rows := n.db.BGPReceived.Rows(n.db.Snapshot())
		if len(rows) != 1 || rows[0].Prefix != prefixOf("172.20.2.0/24") || rows[0].NextHops[len(rows[0].NextHops)-1] != remote {
			return fmt.Errorf("%+v", rows)
		}
		return nil
	})
}

// BIRD with a range of neighbors knows as much of the node.
func TestUnnumberedBIRD(t *testing.T) {
	needRouters(t)
	router := &bird{in: wire(t)}
	router.configure(t, ` neighbor range fe80::/10 as 65001; interface "node"; dynamic name "node";
 ipv4 { import all; export where proto = "pods"; extended next hop on; };
 ipv6 { import all; export none; };
}
protocol static pods { ipv4; route 172.20.2.0/24 blackhole; }
protocol radv {
 interface "node" { max ra interval 4; min ra interval 3; };`)
	newUnnumberedNode(t).speaksWith(router, linkLocal(t, router.in, "node").WithZone("tor"))
}

// FRR with `neighbor INTERFACE interface` knows the node by its advertisements alone; the
// node knows FRR by its own, also after its address has changed, and the link was down.
func TestUnnumbered(t *testing.T) {
	needRouters(t)
	router := &frr{in: wire(t)}
	run(t, router.in+"ip -6 addr del fd09::1/64 dev node") // which would be the next hop
	n := newUnnumberedNode(t)
	eventually(t, "nobody is there", func() error {
		rows := n.db.BGPSessions.Rows(n.db.Snapshot())
		if len(rows) != 1 || !strings.Contains(rows[0].Status.Err, errNoNeighbor.Error()) {
			return fmt.Errorf("%+v", rows)
		}
		return nil
	})

	config := strings.Replace(frrNeighbor("node", "65001"), "node remote-as", "node interface remote-as", 1)
	router.configure(t, strings.Replace(config, " address-family ipv4 unicast", " address-family ipv4 unicast\n  network 172.20.2.0/24", 1))
	first := linkLocal(t, router.in, "node").WithZone("tor")
	n.speaksWith(router, first)

	const second = "fe80::901"
	run(t, router.in+"ip -6 addr add "+second+"/64 dev node nodad")
	run(t, router.in+"ip -6 addr del "+first.WithZone("").String()+"/64 dev node")
	n.speaksWith(router, netip.MustParseAddr(second).WithZone("tor"))

	run(t, "ip link set tor down")
	eventually(t, "the session is down", func() error {
		for _, row := range n.db.BGPSessionStates.Rows(n.db.Snapshot()) {
			if row.State == state.BGPEstablished {
				return errors.New("it is not")
			}
		}
		return nil
	})
	run(t, "ip link set tor up")
	n.speaksWith(router, linkLocal(t, router.in, "node").WithZone("tor"))
}
