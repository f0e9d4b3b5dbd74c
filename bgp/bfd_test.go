package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

var fast = state.BFDConfig{MinTx: 100 * time.Millisecond, MinRx: 100 * time.Millisecond, Multiplier: 3, MinTTL: 60}

// bfdWorld is a node with two devices and a session that has been established and
// wants BFD beside it.
func bfdWorld() BFDInputs {
	return BFDInputs{
		Sessions: []state.BGPSession{{Instance: "tor", Peer: "router", Remote: router, ASN: state.BGPPeerASN{Number: 65000}, BFD: fast}},
		States:   standing("192.168.10.200", "192.168.10.101"),
		Speakers: []state.BGPSpeaker{{Instance: "tor", BGPIdentity: state.BGPIdentity{ASN: 65001}}},
		Devices: []state.Device{
			{Name: "eth1", Index: 3, Prefixes: []netip.Prefix{prefixOf("192.168.10.101/24"), prefixOf("fd00:10::101/64"), prefixOf("fe80::101/64")}},
			{Name: "eth2", Index: 4, Prefixes: []netip.Prefix{prefixOf("192.168.20.101/24"), prefixOf("fe80::201/64")}},
		},
	}
}

// standing is how the session stands between two addresses.
func standing(remote, local string) []state.BGPSessionState {
	return []state.BGPSessionState{{Instance: "tor", Peer: "router", WasEstablished: true,
		Remote: netip.MustParseAddr(remote), Local: netip.MustParseAddr(local)}}
}

// Where the peer keeps the routes of a daemon that restarts, the end of it is not said.
func TestSilent(t *testing.T) {
	in := bfdWorld()
	for _, restart := range []time.Duration{0, time.Minute} {
		in.Sessions[0].GracefulRestart = restart
		if rows, _ := BFDSessions(in); len(rows) != 1 || rows[0].Silent != (restart > 0) {
			t.Errorf("restart in %v: %+v", restart, rows)
		}
	}
}

func TestBFDSessions(t *testing.T) {
	ask := func(change func(*BFDInputs)) BFDInputs { in := bfdWorld(); change(&in); return in }
	between := func(remote, local string) BFDInputs {
		return ask(func(in *BFDInputs) { in.States = standing(remote, local) })
	}
	for _, test := range []struct {
		name string
		in   BFDInputs
		want string
	}{
		{"on a subnet", bfdWorld(), "192.168.10.101 192.168.10.200@eth1"},
		{"no profile", ask(func(in *BFDInputs) { in.Sessions[0].BFD = state.BFDConfig{} }), ""},
		{"session on its way out", ask(func(in *BFDInputs) { in.Sessions[0].Status.Phase = state.Deleting }), ""},
		{"not begun", ask(func(in *BFDInputs) { in.States = nil }), ""},
		{"not established yet", ask(func(in *BFDInputs) { in.States[0].WasEstablished = false }), ""},
		{"from a loopback", between("192.168.10.200", "10.0.0.1"), "10.0.0.1 192.168.10.200@eth1"},
		{"IPv6", between("fd00:10::1", "fd00:10::101"), "fd00:10::101 fd00:10::1@eth1"},
		{"link-local", between("fe80::1%eth2", "fe80::201%eth2"), "fe80::201 fe80::1@eth2"},
		{"internal link-local", ask(func(in *BFDInputs) {
			in.States, in.Sessions[0].ASN = standing("fe80::1%eth1", "fe80::101"), state.BGPPeerASN{Mode: "Internal"}
		}), "fe80::101 fe80::1@eth1"},
		{"interface that is gone", between("fe80::1%eth3", "fe80::101"), ""},
		{"on no subnet", between("10.0.0.9", "192.168.10.101"), ""},
		{"no source", ask(func(in *BFDInputs) { in.States[0].Local = netip.Addr{} }), ""},
		{"several hops", ask(func(in *BFDInputs) {
			in.States, in.Sessions[0].Multihop = standing("10.0.0.9", "192.168.10.101"), 3
		}), "192.168.10.101 10.0.0.9 ttl 60"},
		{"several hops by GTSM", ask(func(in *BFDInputs) {
			in.States, in.Sessions[0].TTLSecurity = standing("10.0.0.9", "10.0.0.1"), 2
		}), "10.0.0.1 10.0.0.9 ttl 60"},
		{"internal on a subnet", ask(func(in *BFDInputs) { in.Sessions[0].ASN.Number = 65001 }), "192.168.10.101 192.168.10.200@eth1"},
		{"internal on a subnet, as of several hops", ask(func(in *BFDInputs) {
			in.Sessions[0].ASN.Number, in.Sessions[0].Multihop = 65001, 255
		}), "192.168.10.101 192.168.10.200 ttl 60"},
		{"internal", ask(func(in *BFDInputs) {
			in.States, in.Sessions[0].ASN.Number = standing("10.0.0.9", "192.168.10.101"), 65001
		}), "192.168.10.101 10.0.0.9 ttl 60"},
		{"internal as it turns out", ask(func(in *BFDInputs) {
			in.States, in.Sessions[0].ASN = standing("10.0.0.9", "192.168.10.101"), state.BGPPeerASN{Mode: "Any"}
			in.States[0].ASN = 65001
		}), "192.168.10.101 10.0.0.9 ttl 60"},
		{"families that differ", between("192.168.10.200", "fd00:10::101"), ""},
		{"two instances, the faster timers", ask(func(in *BFDInputs) {
			slow, now := in.Sessions[0], in.States[0]
			slow.Instance, now.Instance, slow.BFD.MinTx = "other", "other", time.Second
			in.Sessions, in.States = append(in.Sessions, slow), append(in.States, now)
		}), "192.168.10.101 192.168.10.200@eth1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			rows, beside := BFDSessions(test.in)
			var got []string
			for _, r := range rows {
				line := r.RowKey()
				if r.Multihop {
					line += fmt.Sprintf(" ttl %d", r.MinTTL)
				}
				got = append(got, line)
				if r.MinTx != fast.MinTx || r.Multiplier != 3 || r.Owner != "bgp" || r.Multihop == (r.Interface != "") || r.Multihop != (r.MinTTL > 0) {
					t.Errorf("session %+v", r)
				}
			}
			if strings.Join(got, "; ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			for key, bfd := range beside {
				if len(rows) != 1 || bfd != rows[0].RowKey() {
					t.Errorf("beside %s is %q", key, bfd)
				}
			}
			if len(beside) == 0 != (test.want == "") {
				t.Errorf("beside: %v", beside)
			}
		})
	}
}

// A session is held while its path is down that was up, and by nothing else.
func TestHold(t *testing.T) {
	const retry = 8 * time.Second
	type step struct {
		phase, remote state.BFDPhase
		changed       time.Duration
		restarting    bool
		after         time.Duration // since the step before
		want          bool
		wait          time.Duration
	}
	up := func(changed, after time.Duration) step {
		return step{phase: state.BFDUp, remote: state.BFDUp, changed: changed, after: after}
	}
	down := func(changed time.Duration) step {
		return step{phase: state.BFDDown, remote: state.BFDUp, changed: changed, want: true, wait: blind}
	}
	with := func(s step, change func(*step)) step { change(&s); return s }
	held := func(wait time.Duration) func(*step) { return func(s *step) { s.want, s.wait = true, wait } }
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"down, and up again", []step{up(1, 0), down(2), up(3, 0)}},
		{"down while it comes up", []step{up(1, 0), down(2), with(down(2), func(s *step) { s.phase = state.BFDInit }), up(3, 0)}},
		{"the peer does not hear us", []step{up(1, 0), with(down(2), func(s *step) { s.remote = state.BFDDown })}},
		{"ended by the peer", []step{up(1, 0), with(down(2), func(s *step) { s.remote, s.want = state.BFDAdminDown, false })}},
		{"ended by the peer, which begins again", []step{up(1, 0),
			with(down(2), func(s *step) { s.remote, s.want = state.BFDAdminDown, false }),
			with(down(2), func(s *step) { s.phase, s.remote, s.want = state.BFDInit, state.BFDDown, false }), up(3, 0)}},
		{"lost, then ended by the peer", []step{up(1, 0), down(2), with(down(2), func(s *step) { s.remote, s.want = state.BFDAdminDown, false })}},
		{"the peer restarts", []step{up(1, 0), with(down(2), func(s *step) { s.restarting, s.want = true, false }),
			with(down(2), func(s *step) { s.want = false }), up(3, 0), down(4)}},
		{"it stays down", []step{up(1, 0), down(2), with(down(2), func(s *step) { s.after, s.wait = 3*time.Second, 2*time.Second }),
			with(down(2), func(s *step) { s.after, s.want = 2*time.Second, false }), with(down(2), func(s *step) { s.want = false }), up(3, 0), down(4)}},
		{"BFD is taken away", []step{up(1, 0), down(2), {}}},
		{"again and again", []step{up(1, 0), down(2), up(3, 0), down(4), with(up(5, 0), held(time.Second)), up(5, time.Second),
			down(6), with(up(7, 0), held(2*time.Second)), with(up(7, time.Second), held(time.Second)), up(7, time.Second),
			down(8), with(up(9, 0), held(4*time.Second)), with(down(10), held(retry)), with(up(11, 0), held(retry)), with(down(12), held(retry)), with(up(13, 0), held(retry)),
			up(13, retry)}},
		{"once, and within the time that is remembered", []step{up(1, 0), down(2), up(3, 0), with(down(4), func(s *step) { s.after = remembered }), with(up(5, 0), held(time.Second))}},
		{"once, much later again", []step{up(1, 0), down(2), up(3, 0), with(down(4), func(s *step) { s.after = remembered + 1 }), up(5, 0)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var h hold
			now := time.Unix(1000, 0)
			for n, s := range test.steps {
				now = now.Add(s.after)
				st := state.BFDState{Phase: s.phase, RemotePhase: s.remote, Changed: s.changed, WasUp: s.changed > 0}
				wait := h.judge(st, s.restarting, retry, now)
				if !s.want {
					s.wait = 0 // what is not held waits for nothing
				}
				if h.held != s.want || wait != s.wait {
					t.Fatalf("step %d: held %v, wait %v; want %v, %v", n, h.held, wait, s.want, s.wait)
				}
				if (h.why(st) == "") == s.want {
					t.Errorf("step %d: why %q", n, h.why(st))
				}
			}
		})
	}
}

// Before BFD was ever up, it holds nothing: the peer may have none.
func TestNeverUp(t *testing.T) {
	var h hold
	for _, phase := range []state.BFDPhase{state.BFDDown, state.BFDInit} {
		if h.judge(state.BFDState{Phase: phase, Changed: 5}, false, time.Second, time.Unix(1000, 0)); h.held {
			t.Errorf("held in %v", phase)
		}
	}
}

func TestProfile(t *testing.T) {
	in := world()
	in.Peers[0].BFDProfile = "fast"
	d := Decide(in)
	if len(d.Sessions) != 1 || d.Sessions[0].BFD != (state.BFDConfig{}) || len(d.Problems) != 1 || d.Problems[0].Field != "spec.bfdProfile" {
		t.Errorf("without the profile: %+v, %+v", d.Sessions, d.Problems)
	}
	in.Profiles = []state.BFDProfile{{Name: "fast", BFDConfig: fast}}
	d = Decide(in)
	if len(d.Sessions) != 1 || d.Sessions[0].BFD != fast || len(d.Problems) != 0 {
		t.Errorf("with the profile: %+v, %+v", d.Sessions, d.Problems)
	}
}
