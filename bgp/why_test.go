package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// Why a session is not established is said in words, with what can be done.
func TestWhy(t *testing.T) {
	const peer = "192.0.2.1"
	said := func(msg string, fields gobgplog.Fields) gobgplog.Fields {
		fields["Key"], fields["msg"] = peer, msg
		return fields
	}
	for _, test := range []struct {
		said []gobgplog.Fields
		want string
	}{
		{[]gobgplog.Fields{said("failed to connect", gobgplog.Fields{"Error": fmt.Errorf("dial: %w", syscall.ECONNREFUSED)})}, "nobody listens there"},
		{[]gobgplog.Fields{said("failed to connect", gobgplog.Fields{"Error": timeout{errors.New("i/o timeout")}})}, "the passwords of both ends"},
		{[]gobgplog.Fields{said("failed to connect", gobgplog.Fields{"Error": syscall.ENETUNREACH})}, "look at the routes"},
		{[]gobgplog.Fields{said("sent notification", gobgplog.Fields{"Code": uint8(2), "Subcode": uint8(2)})}, "correct spec.peerASN"},
		{[]gobgplog.Fields{said("sent notification", gobgplog.Fields{"Data": packet.NewMessageError(2, 2, nil, "").(*packet.MessageError)})}, "correct spec.peerASN"},
		{[]gobgplog.Fields{said("received notification", gobgplog.Fields{"Code": uint8(2), "Subcode": uint8(2)})}, "spec.localASN of the BGPInstance"},
		{[]gobgplog.Fields{said("received notification", gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(5)})}, "takes no session from this address"},
		{[]gobgplog.Fields{said("received notification", gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(4)})}, "the peer ended the session: code 6"},
		{[]gobgplog.Fields{said("received notification", gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(2)}),
			said("Peer Down", gobgplog.Fields{"Reason": "notification-received code 6"})}, "the neighbor is shut down there"},
		{[]gobgplog.Fields{said("received notification", gobgplog.Fields{"Code": uint8(6), "Subcode": uint8(2)}),
			said("Peer Down", gobgplog.Fields{"Reason": "read-failed"})}, "session ended: read-failed"},
	} {
		l := newLogger(slog.New(slog.DiscardHandler))
		for _, fields := range test.said {
			l.Warn(fields["msg"].(string), fields)
		}
		if got := l.lastError(peer); !strings.Contains(got, test.want) {
			t.Errorf("%v: %q, want %q", test.said, got, test.want)
		}
	}
}
