package bgp

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// notification is the error of a NOTIFICATION (RFC 4271 §4.5).
type notification struct{ code, subcode uint8 }

// cures are what can be done of an error that this node has sent, and of one that it
// has received: by code and subcode, or by the code alone where the subcode is 0.
var cures = map[notification]struct{ sent, received string }{
	{code: packet.BGP_ERROR_MESSAGE_HEADER_ERROR}: {invalid, invalidHere},
	{code: packet.BGP_ERROR_UPDATE_MESSAGE_ERROR}: {invalid, invalidHere},
	{code: packet.BGP_ERROR_FSM_ERROR}:            {invalid, invalidHere},
	{code: packet.BGP_ERROR_HOLD_TIMER_EXPIRED}: {"nothing was heard of the peer for the hold time: look at the way to it, and at its load",
		"the peer has not heard this node for the hold time: look at the way to it, and at this node's load"},
	{packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_PEER_AS}: {"the peer has another AS number: correct spec.peerASN",
		"the peer knows this node by another AS number: correct spec.localASN of the BGPInstance, or the neighbor's there"},
	{packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER}: {"the peer's router ID is this node's, or none: give one of them another",
		"this node's router ID is the peer's: set spec.routerID of the BGPInstance"},
	{packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_UNACCEPTABLE_HOLD_TIME}: {"the peer's hold time is not possible: it must be 3 s or more",
		"the peer does not take this hold time: raise spec.timers.holdTimeSeconds"},
	{packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_UNSUPPORTED_CAPABILITY}: {"the peer asks for what is not known here",
		"the peer lacks what is asked of it: look at spec.families"},
	{packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED}: {"the peer sent more prefixes than spec.families[].maxPrefixes: raise it, " +
		"or have the peer send fewer; the session begins again after " + shutOutWords,
		"the peer takes fewer prefixes than it was sent: raise its limit"},
	{packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN}: {"", "the neighbor is shut down there"},
	{packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_CONNECTION_REJECTED}:     {"", "the peer takes no session from this address: configure the neighbor there"},
}

const (
	invalid     = "what the peer sends is no valid BGP: look for a fault of its software"
	invalidHere = "the peer takes what it was sent for no valid BGP: its log says what"
)

// why is the error in words, with what can be done.
func (n notification) why(sent bool) string {
	text := packet.NewNotificationErrorCode(n.code, n.subcode).String()
	cure, known := cures[n]
	if !known {
		cure = cures[notification{code: n.code}]
	}
	what, advice := "the peer ended the session: ", cure.received
	if sent {
		what, advice = "ended the session: ", cure.sent
	}
	if advice == "" {
		return what + text
	}
	return what + text + ": " + advice
}

// refusedEarly is why a connection came to nothing of which GoBGP does not tell what
// the peer said.
const refusedEarly = "the peer ended the session before it was established: it may know this node by another AS number (spec.localASN of the BGPInstance), " +
	"or not at all: its log says why"

// unexpectedInOpenSent is what GoBGP answers to whatever is no OPEN in its place
// (RFC 6608 §3): in practice, to the NOTIFICATION of a peer that wants no session.
var unexpectedInOpenSent = notification{packet.BGP_ERROR_FSM_ERROR, packet.BGP_ERROR_SUB_RECEIVE_UNEXPECTED_MESSAGE_IN_OPENSENT_STATE}

// whyNotEstablished is why a connection came to nothing that nobody has told of; "":
// the state that it ended in is another's.
func whyNotEstablished(state string) string {
	switch state {
	case "BGP_FSM_OPENSENT", "BGP_FSM_OPENCONFIRM":
		return refusedEarly
	}
	return ""
}

// whyUnreachable is the error of a connection that could not be made, with what can be
// done. GoBGP gives its text alone.
func whyUnreachable(err string) string {
	cure := "look at the routes to it"
	switch {
	case strings.Contains(err, syscall.ECONNREFUSED.Error()):
		cure = "nobody listens there: start BGP on the peer, or correct the address or port"
	case strings.Contains(err, syscall.ETIMEDOUT.Error()), strings.Contains(err, os.ErrDeadlineExceeded.Error()):
		cure = "look at the way to it, and whether the passwords of both ends are the same"
	}
	return fmt.Sprintf("cannot connect: %s: %s", err, cure)
}

// whyDown is why an established session ended of which there was no NOTIFICATION; "":
// there was, or it was this node's own configuration, for which GoBGP has no name.
func whyDown(reason string) string {
	if strings.HasPrefix(reason, "notification") || reason == "unknown" {
		return ""
	}
	return "session ended: " + reason
}
