package bgp

import (
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// ownerBFD is the Owner of the BFD sessions beside BGP sessions.
const ownerBFD = "bgp"

// BFDInputs is all that BFD sessions are decided by.
type BFDInputs struct {
	Sessions []state.BGPSession
	// States are how the Sessions stand: they know addresses that no object has.
	States   []state.BGPSessionState
	Speakers []state.BGPSpeaker
	Devices  []state.Device
}

// BFDSessions returns the BFD sessions beside the BGP sessions that want one, and
// by the key of each of these the key of the one beside it. BGP sessions between
// the same addresses share one. It begins when the BGP session was established
// once: by then the router has made its own (FRR makes it anew then), and the path
// is known to work. A BGP session with no device that its peer is a hop away on has none.
func BFDSessions(in BFDInputs) (rows []state.BFDSession, beside map[string]string) {
	beside = map[string]string{}
	states := map[string]state.BGPSessionState{}
	for _, s := range in.States {
		states[s.RowKey()] = s
	}
	asns := map[string]uint32{}
	for _, s := range in.Speakers {
		asns[s.Instance] = s.ASN
	}
	for _, s := range in.Sessions {
		now := states[s.RowKey()]
		if s.BFD.Multiplier == 0 || !s.Status.Wanted() || !now.WasEstablished {
			continue
		}
		if row, ok := bfdBeside(s, now, asns[s.Instance], in.Devices); ok {
			beside[s.RowKey()] = row.RowKey()
			rows = append(rows, row)
		}
	}
	return state.MergeBFD(rows), beside
}

func bfdBeside(s state.BGPSession, now state.BGPSessionState, asn uint32, devices []state.Device) (state.BFDSession, bool) {
	row := state.BFDSession{Local: now.Local.WithZone(""), Remote: now.Remote, MinTx: s.BFD.MinTx, MinRx: s.BFD.MinRx, Multiplier: s.BFD.Multiplier,
		Passive: s.BFD.Passive, Owner: ownerBFD,
		// Routers end the BGP session for an AdminDown, and forget what a graceful
		// restart would keep. When the process has ended, they have begun to keep it.
		Silent: s.GracefulRestart > 0}
	device, on := deviceOf(row.Remote, devices)
	row.Remote = row.Remote.WithZone("")
	switch {
	case s.Multihop > 1 || s.TTLSecurity > 1 || !on && internal(s, now, asn):
		row.Multihop, row.MinTTL = true, s.BFD.MinTTL
	case on:
		row.Interface, row.Ifindex = device.Name, device.Index
	default:
		return row, false
	}
	return row, row.Local.IsValid() && row.Local.Is4() == row.Remote.Is4()
}

// deviceOf is the device that addr is a hop away on: that of its zone, or the
// first with a subnet of it.
func deviceOf(addr netip.Addr, devices []state.Device) (device state.Device, ok bool) {
	for _, d := range devices {
		on := slices.ContainsFunc(d.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) && !p.IsSingleIP() })
		if zone := addr.Zone(); (zone == d.Name || zone == "" && on) && (!ok || d.Index < device.Index) {
			device, ok = d, true
		}
	}
	return device, ok
}

// internal says whether the session is one inside the AS, as far as is known.
func internal(s state.BGPSession, now state.BGPSessionState, asn uint32) bool {
	return s.ASN.Number == asn || s.ASN.Number == 0 && (s.ASN.Mode == "Internal" || now.ASN == asn)
}

// hold is whether a BGP session is kept down for its BFD session. It is pure: the
// time is an argument.
type hold struct {
	held bool
	// changed is the BFDState's when it was last judged.
	changed time.Duration
	// losses are those since the path was last up for long enough (remembered); lostAt
	// is the last one.
	losses int
	lostAt time.Time
}

// firstPause is how long a session waits that went down twice in a row, when its
// path is up again; it doubles with each further time, up to the ConnectRetry.
const firstPause = 1 * time.Second

// remembered is how long a path has to stay up until its losses count no more.
const remembered = 2 * time.Minute

// blind is how long a session is kept down whose path stays so. Then TCP says whether
// there is one: a router that takes whoever connects for a neighbor (FRR: bgp listen
// range) has forgotten the node with the session, and its BFD with it, which comes
// back only beside a session.
const blind = 5 * time.Second

// judge takes in how the BFD session stands. It returns how long until it is to
// be asked again, 0: not before the state changes.
//
// A path that was up and is down takes the BGP session down and keeps it down
// (RFC 5882 §4.1: both systems are known to speak BFD): until the path is up, the
// other system says that its end is shut down, or blind is over. Not so when the peer is
// restarting gracefully at that moment: its BFD goes down with its BGP, since
// neither of these here is independent of the control plane (§4.3.2).
func (h *hold) judge(st state.BFDState, restarting bool, retry time.Duration, now time.Time) time.Duration {
	news := st.Changed != h.changed
	h.changed = st.Changed
	switch {
	case st.Up():
		if !h.held {
			return 0
		}
		if wait := h.lostAt.Add(h.pause(retry)).Sub(now); wait > 0 {
			return wait
		}
		h.held = false
	case !st.PathDown():
		h.held = false
	case news && !restarting:
		if now.Sub(h.lostAt) > remembered {
			h.losses = 0
		}
		h.held, h.lostAt = true, now
		h.losses++
		return max(h.pause(retry), blind)
	case h.held:
		if wait := h.lostAt.Add(max(h.pause(retry), blind)).Sub(now); wait > 0 {
			return wait
		}
		h.held = false
	}
	return 0
}

// pause is from when the path was lost until the session may begin again: nothing
// the first time, so that one failure costs no more than it lasts.
func (h *hold) pause(retry time.Duration) time.Duration {
	if h.losses < 2 {
		return 0
	}
	return min(firstPause<<min(h.losses-2, 20), retry)
}
