package bgp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/seamark-lb/seamark/state"
)

const bystanderAddr = "127.0.0.4"

// hears reads from a session until it is told of the prefix; an error: the session ends before.
func hears(c net.Conn, prefix netip.Prefix) error {
	c.SetDeadline(time.Now().Add(30 * time.Second))
	for {
		b, err := readMessage(c)
		if err != nil {
			return err
		}
		m, err := packet.ParseBGPMessage(b)
		if err != nil {
			return err
		}
		switch body := m.Body.(type) {
		case *packet.BGPNotification:
			return fmt.Errorf("notification %d/%d", body.ErrorCode, body.ErrorSubcode)
		case *packet.BGPUpdate:
			if slices.ContainsFunc(body.NLRI, func(nlri packet.PathNLRI) bool { return nlri.NLRI.(*packet.IPAddrPrefix).Prefix == prefix }) {
				return nil
			}
		}
	}
}

// A change resets the session that it is of, where the OPEN or the connection has to be
// another, and no other session; and none where nothing of it is in either.
func TestWhatResetsSessions(t *testing.T) {
	for _, test := range []struct {
		name    string
		session func(*state.BGPSession)
		offer   func(*state.BGPOffer)
		resets  bool
	}{
		{name: "password", session: func(s *state.BGPSession) { s.Password = "new" }, resets: true},
		{name: "AS number", session: func(s *state.BGPSession) { s.ASN.Number++ }, resets: true},
		{name: "families", session: func(s *state.BGPSession) { s.IPv6 = false }, resets: true},
		{name: "graceful restart", session: func(s *state.BGPSession) { s.GracefulRestart = time.Minute }, resets: true},
		{name: "GTSM", session: func(s *state.BGPSession) { s.TTLSecurity = 1 }, resets: true},
		{name: "source", session: func(s *state.BGPSession) { s.Source = netip.MustParseAddr(nodeAddr) }, resets: true},
		{name: "timers", session: func(s *state.BGPSession) { s.Hold, s.KeepAlive, s.ConnectRetry = time.Minute, time.Second, time.Minute }},
		{name: "limit of prefixes", session: func(s *state.BGPSession) { s.MaxPrefixes4++ }},
		{name: "BFD profile", session: func(s *state.BGPSession) { s.BFD.Multiplier = 3 }},
		{name: "next hop", session: func(s *state.BGPSession) { s.NextHop6 = netip.MustParseAddr("2001:db8::1") }},
		{name: "communities", offer: func(o *state.BGPOffer) { o.Communities, o.Large = []uint32{1}, [][3]uint32{{1, 2, 3}} }},
		{name: "MED", offer: func(o *state.BGPOffer) { o.MED = number(5) }},
		{name: "local preference", offer: func(o *state.BGPOffer) { o.LocalPref = number(0) }},
		{name: "prepend", offer: func(o *state.BGPOffer) { o.Prepend = 2 }},
		{name: "advertisement", offer: func(o *state.BGPOffer) { o.Advertisement = "other" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newHostileNode(t)
			n.expect("bystander", bystanderAddr)
			bystander, changed := n.establish(bystanderAddr), n.establish(hostileAddr)
			row := state.BGPRoute{Instance: "tor", Prefix: prefixOf("203.0.113.1/32"), Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{"bystander", "hostile"}}}}
			update(t, n.speaker.Routes(), row)
			if err := errors.Join(hears(bystander, row.Prefix), hears(changed, row.Prefix)); err != nil {
				t.Fatal(err)
			}
			if test.session != nil {
				s := passiveSession("hostile", hostileAddr)
				test.session(&s)
				update(t, n.speaker.Sessions(), s)
			} else {
				row.Offers = slices.Clone(row.Offers)
				test.offer(&row.Offers[0])
				update(t, n.speaker.Routes(), row)
			}
			row.Prefix = prefixOf("203.0.113.2/32") // what follows says that the session is there
			update(t, n.speaker.Routes(), row)
			if err := hears(bystander, row.Prefix); err != nil {
				t.Errorf("the bystander's session: %v", err)
			}
			if err := hears(changed, row.Prefix); (err != nil) != test.resets {
				t.Errorf("the session is reset: %v, and it should be: %t", err, test.resets)
			}
		})
	}
}

// A session that lasted begins again at once when it is reset, and one that did not rests.
func TestBeginsAgain(t *testing.T) {
	n := newHostileNode(t)
	n.expect("lasted", bystanderAddr)
	lasted, fresh := n.establish(bystanderAddr), n.establish(hostileAddr)
	settle := func(now time.Time) {
		t.Helper()
		if err := n.speaker.settle(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	settle(time.Now())
	fresh.Close()
	eventually(t, "the session that did not last rests", func() error {
		if s := n.state(hostileAddr); s.State != "Idle" {
			return errors.New(s.State)
		}
		settle(time.Now())
		return nil
	})
	lasted.Close()
	eventually(t, "the one that lasted waits for its peer, and the other rests", func() error {
		settle(time.Now().Add(time.Hour))
		if rests, waits := n.state(hostileAddr).State, n.state(bystanderAddr).State; rests != "Idle" || waits != "Active" {
			return fmt.Errorf("%s, %s", rests, waits)
		}
		return nil
	})
	n.establish(bystanderAddr)
	if s := n.state(bystanderAddr); s.Flaps != 1 {
		t.Errorf("it has ended %d times", s.Flaps)
	}
	n.unaffected()
}
