package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// A node that is asked to leave goes from last resort to nothing, and comes back
// at once.
func TestDrain(t *testing.T) {
	const delay = 5 * time.Second
	type step struct {
		asked bool
		after time.Duration
		want  Leave
		wait  time.Duration
	}
	for _, test := range []struct {
		name  string
		delay time.Duration
		steps []step
	}{
		{"drained and undrained", delay, []step{{want: Stays}, {asked: true, want: Leaving, wait: delay}, {asked: true, after: time.Second, want: Leaving, wait: delay - time.Second},
			{asked: true, after: delay - time.Second, want: HasLeft}, {asked: true, after: time.Hour, want: HasLeft}, {want: Stays},
			{asked: true, after: time.Hour, want: Leaving, wait: delay}}},
		{"undrained before it has left", delay, []step{{want: Stays}, {asked: true, want: Leaving, wait: delay}, {after: time.Second, want: Stays},
			{asked: true, after: time.Second, want: Leaving, wait: delay}}},
		{"drained before the daemon began", delay, []step{{asked: true, want: HasLeft}, {want: Stays}, {asked: true, want: Leaving, wait: delay}}},
		{"without a delay", 0, []step{{want: Stays}, {asked: true, want: HasLeft}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d Drain
			now := time.Unix(1000, 0)
			for n, s := range test.steps {
				now = now.Add(s.after)
				if got, wait := d.Step(s.asked, test.delay, now); got != s.want || wait != s.wait {
					t.Errorf("step %d: %q, wait %v; want %q, %v", n, got, wait, s.want, s.wait)
				}
			}
		})
	}
}

// Routes of a node that leaves say so, beside what else they say.
func TestLeave(t *testing.T) {
	in := world()
	in.Advertisements[0].Addresses[0].Attributes = state.BGPAttributes{Communities: []uint32{1, 0xffffff01}, LocalPref: number(300), MED: number(50)}
	stays := Decide(in)
	in.Leave = Leaving
	leaving := Decide(in)
	if routesOf(leaving) != routesOf(stays) {
		t.Fatalf("it advertises %s, and did %s", routesOf(leaving), routesOf(stays))
	}
	want := state.BGPAttributes{Communities: []uint32{1, gracefulShutdown, 0xffffff01}, LocalPref: number(0), MED: number(50)}
	for _, r := range leaving.Routes {
		for _, o := range r.Offers {
			if !o.BGPAttributes.Equal(want) {
				t.Errorf("%s with %+v", r.Prefix, o.BGPAttributes)
			}
		}
	}
	if again := Decide(in); routesOf(again) != routesOf(leaving) || !again.Routes[0].SameSpec(leaving.Routes[0]) {
		t.Errorf("decided again: %+v, and was %+v", again.Routes, leaving.Routes)
	}
	in.Leave = HasLeft
	if left := Decide(in); len(left.Routes) != 0 || len(left.Sessions) != len(stays.Sessions) {
		t.Errorf("it has left with %+v and %+v", left.Routes, left.Sessions)
	}
}

// A node that leaves keeps its pods, which the other nodes go on sending to.
func TestLeaveKeepsPods(t *testing.T) {
	in := world()
	in.Advertisements[0].Addresses = append(in.Advertisements[0].Addresses, state.BGPAddresses{})
	const pods = "tor/172.20.1.0/24 all→router"
	for how, want := range map[Leave]string{Stays: pods + "; " + both, Leaving: pods + "; " + both, HasLeft: pods} {
		in.Leave = how
		got := Decide(in)
		if routesOf(got) != want {
			t.Errorf("%q: got %s, want %s", how, routesOf(got), want)
		} else if o := got.Routes[0].Offers[0]; !o.BGPAttributes.Equal(state.BGPAttributes{}) {
			t.Errorf("%q: with %+v", how, o.BGPAttributes)
		}
	}
}

// The router sees that the node is about to go, then its routes go, and the
// session stays.
func TestDrainInterop(t *testing.T) {
	needRouters(t)
	for asn, want := range map[uint32]learned{
		65001: {NextHop: "10.9.0.2", ASPath: "65001", Communities: "graceful-shutdown"},
		65000: {NextHop: "10.9.0.2", Communities: "graceful-shutdown"},
	} {
		t.Run(fmt.Sprint("AS", asn), func(t *testing.T) {
			router := &frr{in: wire(t)}
			router.configure(t, frrNeighbor(plain, fmt.Sprint(asn)))
			speaker := speak(t, state.BGPIdentity{ASN: asn, RouterID: netip.MustParseAddr("10.9.0.2")})
			update(t, speaker.Sessions(), state.BGPSession{Instance: "tor", Peer: "router", Remote: netip.MustParseAddr("10.9.0.1"), RemotePort: 179,
				ASN: state.BGPPeerASN{Mode: "Any", Number: 65000}, IPv4: true, BGPSessionConfig: state.BGPSessionConfig{ConnectRetry: time.Second, Hold: 9 * time.Second}})
			route := func() []state.BGPRoute {
				return []state.BGPRoute{{Instance: "tor", Prefix: prefixOf("203.0.113.1/32"), Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, Offers: []state.BGPOffer{{Advertisement: "all", Peers: []string{"router"}}}}}
			}
			sees := func(what string, want learned) {
				t.Helper()
				eventually(t, what, func() error {
					got, err := router.learned("203.0.113.1/32")
					if err == nil && got != want {
						err = fmt.Errorf("%+v, want %+v", got, want)
					}
					return err
				})
			}
			stays := want
			stays.Communities = ""
			if asn == 65000 {
				stays.LocalPref = 100
			}
			update(t, speaker.Routes(), route()[0])
			sees("the router has the route", stays)
			update(t, speaker.Routes(), leave(Leaving, route())[0])
			sees("the route is the last resort", want)
			update(t, speaker.Routes(), route()[0])
			sees("the node has been undrained", stays)
			if err := speaker.Routes().Prune(t.Context(), leave(HasLeft, route())); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the route is withdrawn", func() error {
				if _, err := router.learned("203.0.113.1/32"); err == nil {
					return errors.New("it is there")
				}
				return nil
			})
			if err := router.established(plain); err != nil {
				t.Errorf("the session has not lasted: %v", err)
			}
		})
	}
}
