package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/state"
)

// What keeps a session with a router from being is said in its state, with what can
// be done.
func TestRefused(t *testing.T) {
	needRouters(t)
	inRouter := wire(t)
	router := &frr{in: inRouter}
	router.configure(t, frrNeighbor(plain, "65001", "password secret"))
	for _, test := range []struct {
		name     string
		identity uint32
		session  func(*state.BGPSession)
		says     string
	}{
		{"another password", 65001, func(s *state.BGPSession) { s.Password = "Secret" }, "whether the passwords of both ends are the same"},
		{"no password", 65001, func(*state.BGPSession) {}, "whether the passwords of both ends are the same"},
		{"another AS of the router", 65001, func(s *state.BGPSession) { s.Password, s.ASN.Number = "secret", 65099 }, "correct spec.peerASN"},
		{"another AS of the node", 65099, func(s *state.BGPSession) { s.Password = "secret" }, "(spec.localASN of the BGPInstance)"},
		{"nobody listens", 65001, func(s *state.BGPSession) { s.RemotePort = 1790 }, "nobody listens there"},
		{"nobody is there", 65001, func(s *state.BGPSession) { s.Remote = netip.MustParseAddr("10.9.0.77") }, "look at the "},
	} {
		t.Run(test.name, func(t *testing.T) {
			speaker := speak(t, state.BGPIdentity{ASN: test.identity, RouterID: netip.MustParseAddr(plain)})
			s := sessionWithRouter()
			test.session(&s)
			update(t, speaker.Sessions(), s)
			eventually(t, "the state says why", func() error {
				states, err := speaker.States(t.Context())
				if err == nil && (len(states) != 1 || !strings.Contains(states[0].LastError, test.says)) {
					err = fmt.Errorf("%+v, want %q", states, test.says)
				}
				return err
			})
		})
	}
}
