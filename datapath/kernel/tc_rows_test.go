package kernel

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
	"github.com/vishvananda/netlink"
)

// atEachHook runs a test twice, on a node as new each time: with packets balanced
// in XDP, and with the same packets balanced in tc.
func atEachHook(t *testing.T, test func(n *node)) {
	for _, hook := range []string{kindXDP, "tc"} {
		t.Run(hook, func(t *testing.T) {
			n := newNode(t)
			n.inTC = hook == "tc"
			test(n)
		})
	}
}

// asInXDP gives what tc has made of a packet the action of XDP. What went into the
// pod is passed on there.
func asInXDP(r result) result {
	switch {
	case r.action == tcDrop:
		r.action = xdpDrop
	case r.action == tcRedirect && !slices.Equal(r.out[:6], podMAC[:]):
		r.action = xdpTX
	default:
		r.action = xdpPass
	}
	return r
}

// wantInTC is what tc makes of a packet that XDP does this with.
func (n *node) wantInTC(dev netlink.Link, action uint32, reason string, out []byte) (uint32, string, []byte) {
	n.t.Helper()
	switch {
	case action == xdpPass:
		return n.inPod(dev, reason, out)
	case action == xdpTX && binary.BigEndian.Uint16(out[12:]) == packet.TypeVLAN:
		out = slices.Concat(out[:12], out[16:]) // there the tag is beside the frame
	}
	return action, reason, out
}

// inPod is what tc makes in the same program of a packet that XDP passes on: what
// the program behind XDP makes of it.
func (n *node) inPod(dev netlink.Link, reason string, passed []byte) (action uint32, why string, out []byte) {
	n.t.Helper()
	r := asInXDP(n.run(kindTCOutside, dev, passed))
	if reason == "not_ours" || r.action == xdpDrop {
		reason = r.reason
	}
	return r.action, reason, r.out
}
