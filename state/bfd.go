package state

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// BFDConfig is how a BFD session is kept; with a Multiplier of 0 there is none.
type BFDConfig struct {
	// MinTx and MinRx, Multiplier and Passive are as of a BFDSession. MinTTL is of
	// sessions over several hops.
	MinTx, MinRx time.Duration
	Multiplier   uint8
	Passive      bool
	MinTTL       uint8
}

// BFDProfile is a BFDProfile as written.
type BFDProfile struct {
	Name   string
	Origin ObjectRef
	BFDConfig
}

// RowKey of a BFDProfile is its name.
func (p BFDProfile) RowKey() string { return p.Name }

// BFDSession is a BFD session (RFC 5880, asynchronous mode) that this node is to
// keep with another system.
type BFDSession struct {
	// Local and Remote are the addresses that it runs between.
	Local, Remote netip.Addr
	// Interface that a session of a single hop (RFC 5881) runs over, and its
	// index: an interface made anew has another. "" and 0 for Multihop.
	Interface string
	Ifindex   int
	// Multihop (RFC 5883): there may be routers between the two.
	Multihop bool
	// MinTTL of the packets that a Multihop session takes, at least 1. (Those of a
	// single hop have 255, RFC 5881 §5.)
	MinTTL uint8
	// MinTx and MinRx are Desired Min TX and Required Min RX Interval, in use
	// while the session is up: at least MinBFDInterval.
	MinTx, MinRx time.Duration
	// Multiplier is how many packets in a row the remote system may miss before
	// it takes the session for down: at least 1.
	Multiplier uint8
	// Passive: nothing is sent before the remote system has (RFC 5880 §6.1).
	Passive bool
	// Silent: the remote system is not told when this daemon ends, since it would end
	// more than this session for it.
	Silent bool
	// Owner is who wants it, for people; several have commas between.
	Owner  string
	Status Status
}

// MinBFDInterval is the shortest interval of a BFDSession.
const MinBFDInterval = 50 * time.Millisecond

// bfdKey: between two systems there is one session per interface (RFC 5881 §3).
func bfdKey(local, remote netip.Addr, iface string) string {
	key := local.String() + " " + remote.String()
	if iface != "" {
		key += "@" + iface
	}
	return key
}

// RowKey of a BFDSession is its addresses and the interface.
func (b BFDSession) RowKey() string { return bfdKey(b.Local, b.Remote, b.Interface) }

// Compare orders sessions by interface, remote and local address.
func (b BFDSession) Compare(c BFDSession) int {
	return cmp.Or(cmp.Compare(b.Interface, c.Interface), b.Remote.Compare(c.Remote), b.Local.Compare(c.Local))
}

// RowStatus and WithStatus make a BFDSession reconcilable.
func (b BFDSession) RowStatus() Status { return b.Status }

// WithStatus returns b with its status replaced.
func (b BFDSession) WithStatus(s Status) BFDSession { b.Status = s; return b }

// SameSpec compares everything but the status.
func (b BFDSession) SameSpec(c BFDSession) bool {
	b.Status, c.Status = Status{}, Status{}
	return b == c
}

// detection is after how long a silence of this end the remote system takes the
// session for down, if it takes what it is asked.
func (b BFDSession) detection() time.Duration {
	return max(b.MinTx, b.MinRx) * time.Duration(b.Multiplier)
}

// MergeBFD returns the sessions that several owners want, sorted, with one for each
// key: that with the shortest detection time, which is the owners' of all. It is
// passive where all want it so, silent where one does, and takes packets from as far
// away as any of them does.
func MergeBFD(wanted ...[]BFDSession) []BFDSession {
	rows := slices.Concat(wanted...)
	slices.SortFunc(rows, func(a, b BFDSession) int {
		return cmp.Or(a.Compare(b), cmp.Compare(a.detection(), b.detection()), cmp.Compare(a.MinTx, b.MinTx), cmp.Compare(a.MinRx, b.MinRx))
	})
	var merged []BFDSession
	for _, row := range rows {
		last := len(merged) - 1
		if last < 0 || merged[last].RowKey() != row.RowKey() {
			merged = append(merged, row)
			continue
		}
		m := &merged[last]
		m.Passive, m.MinTTL, m.Silent = m.Passive && row.Passive, min(m.MinTTL, row.MinTTL), m.Silent || row.Silent
		owners := append(strings.Split(m.Owner, ","), row.Owner)
		slices.Sort(owners)
		m.Owner = strings.Join(slices.Compact(owners), ",")
	}
	return merged
}

// BFDPhase is the state of a session's state machine (RFC 5880 §4.1), with the
// number that it has on the wire.
type BFDPhase uint8

// The states.
const (
	BFDAdminDown BFDPhase = iota // ended on purpose: says nothing of the path
	BFDDown
	BFDInit // the remote system is heard, and has not heard this one yet
	BFDUp
)

func (p BFDPhase) String() string {
	if int(p) < 4 {
		return [...]string{"AdminDown", "Down", "Init", "Up"}[p]
	}
	return "?"
}

// BFDDiag is why a session was last down (RFC 5880 §4.1).
type BFDDiag uint8

// The diagnostics that Seamark gives; others are only received.
const (
	BFDNoDiag          BFDDiag = 0
	BFDTimeExpired     BFDDiag = 1 // nothing was heard for the detection time
	BFDNeighborDown    BFDDiag = 3 // the remote system said so
	BFDPathDown        BFDDiag = 5
	BFDByAdministrator BFDDiag = 7
)

func (d BFDDiag) String() string {
	words := [...]string{"", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down"}
	if int(d) < len(words) {
		return words[d]
	}
	return "unknown"
}

// BFDState is how a BFDSession stands, written by its target. A session that
// was not up yet has one, too.
type BFDState struct {
	// The key of the BFDSession.
	Local, Remote netip.Addr
	Interface     string
	Multihop      bool

	Phase BFDPhase
	// Since is when the session came to be up, or not up any more (wall clock; for
	// people), and Changed the same in CLOCK_BOOTTIME.
	Since   time.Time
	Changed time.Duration
	// WasUp: the session has been up since it was made.
	WasUp bool
	// Diag is why it was last down, as seen from here. RemotePhase and RemoteDiag
	// are as the remote system last said.
	Diag        BFDDiag
	RemotePhase BFDPhase
	RemoteDiag  BFDDiag
	// Discr and RemoteDiscr are the discriminators, RemoteDiscr 0 while nothing is heard.
	Discr, RemoteDiscr uint32
	// Tx is how often packets are sent now, and Detect after which silence the
	// session is down, 0 while nothing is heard.
	Tx, Detect time.Duration
	// Flaps is how many times it went from up to down.
	Flaps int
	Owner string
}

// RowKey of a BFDState is its BFDSession's.
func (b BFDState) RowKey() string { return bfdKey(b.Local, b.Remote, b.Interface) }

// Up says whether the session is.
func (b BFDState) Up() bool { return b.Phase == BFDUp }

// Lost says whether the remote system went silent: the session was up, its
// detection time ran out, and nothing was heard since. It is not lost when the
// remote system ended the session (AdminDown, as a daemon that stops cleanly
// does) or says itself that it does not hear us.
func (b BFDState) Lost() bool {
	return b.WasUp && b.Phase == BFDDown && b.Diag == BFDTimeExpired && b.RemoteDiscr == 0
}

// PathDown says whether the way to the remote system is known to be down: the
// session was up and is not, and the remote system did not end it itself (an
// AdminDown says nothing of the path, RFC 5882 §3.2).
func (b BFDState) PathDown() bool {
	return b.WasUp && (b.Phase == BFDDown || b.Phase == BFDInit) && b.RemotePhase != BFDAdminDown
}
