package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// cell is one way of having a session, with both routers' words for it.
type cell struct {
	name      string
	frr, bird string
	// neighbor that the router knows the node by; 10.9.0.2 when "".
	neighbor string
	identity state.BGPIdentity
	session  func(*state.BGPSession)
	offer    state.BGPAttributes
	// want4 and want6 are what the router has learned; nil: it gets no such route.
	want4, want6 *learned
	// before and after are what else is done in the router's namespace, and shown.
	before func(t *testing.T, inRouter string)
	after  func(t *testing.T, inRouter string, speaker *Speaker, daemon peerDaemon)
}

func number(n uint32) *uint32 { return &n }

const plain = "10.9.0.2"

// frrNeighbor is a neighbor of FRR with both families, with more lines for it.
func frrNeighbor(address, asn string, more ...string) string {
	lines := []string{" neighbor " + address + " remote-as " + asn, " neighbor " + address + " timers connect 1"}
	for _, m := range more {
		lines = append(lines, " neighbor "+address+" "+m)
	}
	return strings.Join(append(lines, " address-family ipv4 unicast", "  neighbor "+address+" activate", " exit-address-family",
		" address-family ipv6 unicast", "  neighbor "+address+" activate", " exit-address-family"), "\n")
}

func birdNeighbor(address, asn string, more ...string) string {
	return " neighbor " + address + " as " + asn + ";\n ipv4 { import all; export none; };\n ipv6 { import all; export none; };\n " + strings.Join(more, "\n ")
}

// over6 is a session between the IPv6 addresses. It names its source: by the
// advertisements of the router the node has another, too.
func over6(s *state.BGPSession) {
	s.Remote, s.Source = netip.MustParseAddr("fd09::1"), netip.MustParseAddr("fd09::2")
}

// unnumbered is a session with whoever is the router on the interface.
func unnumbered(s *state.BGPSession) {
	s.Remote, s.Interface, s.NextHop6 = netip.Addr{}, "tor", netip.Addr{}
}

// nodeLinkLocal is the node's address on the wire.
const nodeLinkLocal = "fe80::ff:fe00:902"

// frrLinkLocal and birdLinkLocal are a neighbor with that, both families, and
// router advertisements for the node to find the router by.
func frrLinkLocal(more ...string) string {
	return frrNeighbor(nodeLinkLocal, "65001", append([]string{"interface node", "capability extended-nexthop"}, more...)...) +
		"\ninterface node\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 3"
}

func birdLinkLocal(more ...string) string {
	return " neighbor " + nodeLinkLocal + "%node as 65001;\n ipv4 { import all; export none; extended next hop on; };\n ipv6 { import all; export none; };\n " +
		strings.Join(more, "\n ") + "\n}\nprotocol radv {\n interface \"node\" { max ra interval 4; min ra interval 3; };"
}

// The matrix: each way of having a session, with FRR and with BIRD.
func TestInterop(t *testing.T) {
	needRouters(t)
	route4 := &learned{NextHop: "10.9.0.2", ASPath: "65001"}
	route6 := &learned{NextHop: "fd09::2", ASPath: "65001"}
	internal := state.BGPIdentity{ASN: 65000}
	for _, c := range []cell{
		{name: "IPv4", frr: frrNeighbor(plain, "65001"), bird: birdNeighbor(plain, "65001"), want4: route4, want6: route6},
		{name: "IPv6", neighbor: "fd09::2", frr: frrNeighbor("fd09::2", "65001"), bird: birdNeighbor("fd09::2", "65001"),
			session: over6, want6: route6},
		{name: "IPv4 over IPv6", neighbor: "fd09::2", frr: frrNeighbor("fd09::2", "65001", "capability extended-nexthop"),
			bird:    " neighbor fd09::2 as 65001;\n ipv4 { import all; export none; extended next hop on; };\n ipv6 { import all; export none; };",
			session: over6,
			want4:   &learned{NextHop: "fd09::2", ASPath: "65001"}, want6: route6},
		{name: "MD5", frr: frrNeighbor(plain, "65001", "password secret"), bird: birdNeighbor(plain, "65001", `password "secret";`),
			session: func(s *state.BGPSession) { s.Password = "secret" }, want4: route4},
		{name: "GTSM", frr: frrNeighbor(plain, "65001", "ttl-security hops 1"), bird: birdNeighbor(plain, "65001", "ttl security on;"),
			session: func(s *state.BGPSession) { s.TTLSecurity = 1 }, want4: route4},
		{name: "multihop", neighbor: "10.9.1.2", frr: frrNeighbor("10.9.1.2", "65001", "ebgp-multihop 3", "update-source 10.9.1.1"),
			bird: birdNeighbor("10.9.1.2", "65001", "multihop 3; source address 10.9.1.1;"),
			session: func(s *state.BGPSession) {
				s.Remote, s.Source, s.Multihop = netip.MustParseAddr("10.9.1.1"), netip.MustParseAddr("10.9.1.2"), 3
			}, want4: &learned{NextHop: "10.9.1.2", ASPath: "65001"}, before: hopBetween},
		{name: "passive", identity: state.BGPIdentity{ASN: 65001, ListenPort: 179}, frr: frrNeighbor(plain, "65001"), bird: birdNeighbor(plain, "65001"),
			session: func(s *state.BGPSession) { s.Passive = true }, want4: route4},
		{name: "graceful restart", frr: " bgp graceful-restart\n" + frrNeighbor(plain, "65001"), bird: birdNeighbor(plain, "65001", "graceful restart on;"),
			session: func(s *state.BGPSession) { s.GracefulRestart = 60 * time.Second }, want4: route4, after: isKept},
		{name: "any AS", frr: frrNeighbor(plain, "65001"), bird: birdNeighbor(plain, "65001"),
			session: func(s *state.BGPSession) { s.ASN = state.BGPPeerASN{Mode: "External"} }, want4: route4},
		{name: "attributes", frr: frrNeighbor(plain, "65001", "send-community all"), bird: birdNeighbor(plain, "65001"),
			offer: state.BGPAttributes{Communities: []uint32{65000<<16 | 100, 65000<<16 | 200}, Large: [][3]uint32{{65000, 1, 2}},
				MED: number(50), LocalPref: number(300), Prepend: 2},
			want4: &learned{NextHop: "10.9.0.2", ASPath: "65001 65001 65001", MED: 50, Communities: "65000:100 65000:200 65000:1:2"}},
		{name: "link-local", neighbor: nodeLinkLocal, frr: frrLinkLocal(), bird: birdLinkLocal(), session: unnumbered,
			want4: &learned{NextHop: nodeLinkLocal, ASPath: "65001"}, want6: &learned{NextHop: nodeLinkLocal, ASPath: "65001"}},
		{name: "internal", identity: internal, frr: frrNeighbor(plain, "65000"), bird: birdNeighbor(plain, "65000"),
			session: func(s *state.BGPSession) { s.ASN = state.BGPPeerASN{Mode: "Internal"} },
			offer:   state.BGPAttributes{LocalPref: number(300), Prepend: 2}, want4: &learned{NextHop: "10.9.0.2", LocalPref: 300}},
	} {
		for _, kind := range []string{"FRR", "BIRD"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				inRouter := wire(t)
				if c.before != nil {
					c.before(t, inRouter)
				}
				daemon, config := peerDaemon(&frr{in: inRouter}), c.frr
				if kind == "BIRD" {
					daemon, config = &bird{in: inRouter}, c.bird
				}
				daemon.configure(t, config)
				speaker := c.check(t, daemon, kind == "FRR")
				if c.after != nil {
					c.after(t, inRouter, speaker, daemon)
				}
			})
		}
	}
}

// hopBetween is the hop that the wire does not have: BGP that may go no further
// does not arrive.
func hopBetween(t *testing.T, inRouter string) {
	t.Helper()
	routerDrops(t, inRouter, "tcp dport 179 ip ttl 1")
}

// routerDrops has the router drop packets from the node.
func routerDrops(t *testing.T, inRouter, packets string) {
	t.Helper()
	for _, words := range []string{"add table ip drops", "add chain ip drops in { type filter hook input priority 0 ; }", "add rule ip drops in " + packets + " drop"} {
		run(t, inRouter+"nft "+words)
	}
}

// isKept shows what a router with graceful restart makes of a node that is gone
// without a word: it has been told to wait, and keeps the routes.
func isKept(t *testing.T, inRouter string, speaker *Speaker, daemon peerDaemon) {
	t.Helper()
	if got, err := daemon.restartTime(plain); err != nil || got != 60*time.Second {
		t.Errorf("the router has been told a restart time of %v, %v", got, err)
	}
	const prefix = "203.0.113.2/32"
	update(t, speaker.Routes(), state.BGPRoute{Instance: "tor", Prefix: prefixOf(prefix), Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{"router"}}}})
	eventually(t, "the router has "+prefix, func() error { _, err := daemon.learned(prefix); return err })
	routerDrops(t, inRouter, "tcp flags syn") // so that no session follows
	run(t, "ss -K dst 10.9.0.1 dport = 179")
	eventually(t, "the router waits for the node", func() error { return daemon.keeps(plain, prefix) })
}

// check has the session, looks at what the router has of it, and returns the node's
// end, whose session lasts.
func (c cell) check(t *testing.T, daemon peerDaemon, isFRR bool) *Speaker {
	t.Helper()
	if c.identity.ASN == 0 {
		c.identity.ASN = 65001
	}
	c.identity.RouterID = netip.MustParseAddr("10.9.0.2")
	if c.neighbor == "" {
		c.neighbor = plain
	}
	s := state.BGPSession{Instance: "tor", Peer: "router", Remote: netip.MustParseAddr("10.9.0.1"), RemotePort: 179,
		ASN: state.BGPPeerASN{Number: 65000}, IPv4: true, IPv6: true, NextHop6: netip.MustParseAddr("fd09::2"),
		BGPSessionConfig: state.BGPSessionConfig{ConnectRetry: time.Second, Hold: 9 * time.Second}}
	if c.session != nil {
		c.session(&s)
	}
	speaker := speak(t, c.identity)
	eventually(t, "the peer is found", func() error { return speaker.Sessions().Update(t.Context(), s) })
	for _, prefix := range []string{"203.0.113.1/32", "2001:db8::1/128"} {
		update(t, speaker.Routes(), state.BGPRoute{Instance: "tor", Prefix: prefixOf(prefix),
			Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{"router"}, BGPAttributes: c.offer}}})
	}
	eventually(t, "the router has the session", func() error { return daemon.established(c.neighbor) })
	eventually(t, "the node has the session", func() error {
		states, err := speaker.States(t.Context())
		if err == nil && (len(states) != 1 || states[0].State != state.BGPEstablished) {
			err = fmt.Errorf("%+v", states)
		}
		return err
	})
	for prefix, want := range map[string]*learned{"203.0.113.1/32": c.want4, "2001:db8::1/128": c.want6} {
		if want == nil {
			continue
		}
		eventually(t, "the router has "+prefix, func() error {
			got, err := daemon.learned(prefix)
			expected := *want
			if !isFRR && expected.LocalPref == 0 {
				got.LocalPref = 0 // BIRD has one of its own for every route
			}
			if err == nil && got != expected {
				err = fmt.Errorf("got %+v, want %+v", got, expected)
			}
			return err
		})
		r := state.BGPRoute{Instance: "tor", Prefix: prefixOf(prefix)}
		if err := speaker.Routes().Delete(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the router has "+prefix+" no more", func() error {
			if _, err := daemon.learned(prefix); err == nil {
				return errors.New("it has")
			}
			return nil
		})
	}
	return speaker
}

// speak returns a Speaker with a running instance tor.
func speak(t testing.TB, identity state.BGPIdentity) *Speaker {
	t.Helper()
	speaker := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	update(t, speaker.Speakers(), state.BGPSpeaker{Instance: "tor", BGPIdentity: identity})
	t.Cleanup(func() {
		if err := speaker.Speakers().Delete(context.Background(), state.BGPSpeaker{Instance: "tor"}); err != nil {
			t.Error(err)
		}
	})
	return speaker
}

func update[T any](t testing.TB, target state.Target[T], row T) {
	t.Helper()
	if err := target.Update(t.Context(), row); err != nil {
		t.Fatal(err)
	}
}

// Two routers of one link-local address, on two interfaces, get each what is for it.
func TestSameLinkLocalAddress(t *testing.T) {
	needRouters(t)
	inRouter := wire(t)
	daemon := &bird{in: inRouter}
	daemon.configure(t, birdLinkLocal())
	run(t, "ip link add other type veth peer name another")
	t.Cleanup(func() { run(t, "ip link del other") })
	run(t, "ip link set other up")
	run(t, "ip link set another up")
	eventually(t, "the interface has its link-local address", func() error {
		if out := run(t, "ip -6 address show dev other scope link"); !strings.Contains(out, "fe80::") || strings.Contains(out, "tentative") {
			return errors.New(out)
		}
		return nil
	})

	speaker := speak(t, state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr("10.9.0.2")})
	for peer, zone := range map[string]string{"router": "tor", "namesake": "other"} {
		remote := netip.MustParseAddr("fe80::ff:fe00:901").WithZone(zone)
		update(t, speaker.Sessions(), state.BGPSession{Instance: "tor", Peer: peer, Remote: remote, RemotePort: 179, ASN: state.BGPPeerASN{Number: 65000},
			IPv4: true, IPv6: true, BGPSessionConfig: state.BGPSessionConfig{ConnectRetry: time.Second, Hold: 9 * time.Second}})
	}
	for prefix, peer := range map[string]string{"203.0.113.1/32": "router", "203.0.113.2/32": "namesake"} {
		update(t, speaker.Routes(), state.BGPRoute{Instance: "tor", Prefix: prefixOf(prefix), Offers: []state.BGPOffer{{Advertisement: peer, Peers: []string{peer}}}})
	}
	eventually(t, "the router has its route", func() error { _, err := daemon.learned("203.0.113.1/32"); return err })
	if got, err := daemon.learned("203.0.113.2/32"); err == nil {
		t.Errorf("the router has the other's route: %+v", got)
	}
}
