package bgp

import (
	"log/slog"
	"strings"
	"testing"
)

// Why a session is not established is said in words, with what can be done.
func TestWhy(t *testing.T) {
	const peer = "192.0.2.1"
	type said struct {
		msg  string
		args []any
	}
	notified := func(who string, code, subcode int) said {
		return said{who + " notification", []any{"Code", code, "Subcode", subcode}}
	}
	changed := func(from, to string) said { return said{"state changed", []any{"old", from, "new", to}} }
	unexpected := notified("sent", 5, 1)
	const refused = "dial tcp 192.0.2.1:179: connect: connection refused"
	for _, test := range []struct {
		said []said
		want string // "": nothing
	}{
		{[]said{{"failed to connect", []any{"Error", refused}}}, "nobody listens there"},
		{[]said{{"failed to connect", []any{"Error", "dial tcp 192.0.2.1:179: i/o timeout"}}}, "the passwords of both ends"},
		{[]said{{"failed to connect", []any{"Error", "dial tcp 192.0.2.1:179: connect: network is unreachable"}}}, "look at the routes"},
		{[]said{notified("sent", 2, 2)}, "correct spec.peerASN"},
		{[]said{notified("received", 2, 2)}, "spec.localASN of the BGPInstance"},
		{[]said{notified("received", 6, 5)}, "takes no session from this address"},
		{[]said{notified("received", 6, 4)}, "the peer ended the session: code 6"},
		{[]said{notified("received", 6, 2), {"Peer Down", []any{"Reason", "notification-received code 6"}}}, "the neighbor is shut down there"},
		{[]said{notified("sent", 6, 1), {"Peer Down", []any{"Reason", "read-failed"}}}, "maxPrefixes"},
		{[]said{notified("received", 6, 2), changed("BGP_FSM_OPENCONFIRM", "BGP_FSM_ESTABLISHED"), {"Peer Down", []any{"Reason", "read-failed"}}},
			"session ended: read-failed"},
		{[]said{notified("sent", 6, 3), {"Peer Down", []any{"Reason", "unknown"}}}, "ended the session: code 6"},
		{[]said{unexpected}, "before it was established"},
		{[]said{{"outgoing connection IO error", []any{"reason", "read-failed"}}}, "before it was established"},
		{[]said{changed("BGP_FSM_OPENSENT", "BGP_FSM_IDLE")}, "before it was established"},
		{[]said{notified("sent", 2, 2), changed("BGP_FSM_OPENSENT", "BGP_FSM_IDLE")}, "correct spec.peerASN"},
		{[]said{changed("BGP_FSM_ACTIVE", "BGP_FSM_IDLE")}, ""},
		{[]said{unexpected, {"Peer Up", nil}}, ""},
		{[]said{{"failed to connect", []any{"Error", refused}}, {"Peer Up", nil}}, "nobody listens there"},
		{[]said{{unexpected.msg, append([]any{"State", "BGP_FSM_ESTABLISHED"}, unexpected.args...)}}, ""},
	} {
		l := newLogger(slog.New(slog.DiscardHandler))
		to := l.server().With("Topic", "Peer", "Key", peer)
		for _, s := range test.said {
			to.Debug(s.msg, s.args...)
		}
		if got, _ := l.lastError(peer); !strings.Contains(got, test.want) || test.want == "" && got != "" {
			t.Errorf("%v: %q, want %q", test.said, got, test.want)
		}
	}
}
