package bgp

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/seamark-lb/seamark/state"
)

// offered is a route for peers, with the own AS number twice more in its path.
func offered(prefix string, peers ...string) state.BGPRoute {
	return state.BGPRoute{Instance: "tor", Prefix: prefixOf(prefix),
		Offers: []state.BGPOffer{{Advertisement: "all", Peers: peers, BGPAttributes: state.BGPAttributes{Prepend: 2}}}}
}

// What is said of a session is of the families that the peer has, too.
func TestFamiliesOfPeer(t *testing.T) {
	t.Parallel()
	n := newHostileNode(t)
	for _, prefix := range []string{"203.0.113.1/32", "2001:db8::1/128"} {
		update(t, n.speaker.Routes(), offered(prefix, "good", "hostile"))
	}
	c := n.establishWith(hostileAddr, openOf(hostileASN, 1))
	if s := n.state(hostileAddr); !s.IPv4 || s.IPv6 || s.Advertised != 1 || s.Told {
		t.Errorf("IPv4 alone: %+v", s)
	}
	if s := n.state(goodAddr); !s.IPv4 || !s.IPv6 || s.Advertised != 2 {
		t.Errorf("both: %+v", s)
	}
	if _, err := c.Write(message(packet.BGP_MSG_UPDATE, 0, 0, 0, 0)); err != nil { // End-of-RIB of IPv4 (RFC 4724 §2)
		t.Fatal(err)
	}
	eventually(t, "the peer has told all", func() error {
		if s := n.state(hostileAddr); !s.Told || s.UpdatesReceived != 1 || s.UpdatesSent == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// A passive session says what it waits for; one that is down carries nothing.
func TestWaitsForPeer(t *testing.T) {
	t.Parallel()
	n := newHostileNode(t)
	if s := n.state(hostileAddr); s.LastError != waitsForPeer || !s.ErrorAt.IsZero() {
		t.Errorf("before anybody connects: %+v", s)
	}
	update(t, n.speaker.Routes(), offered("203.0.113.1/32", "good", "hostile"))
	advertised := func(peer string, want int) {
		eventually(t, fmt.Sprintf("%d routes are advertised to %q", want, peer), func() error {
			paths, err := n.speaker.Paths(t.Context(), Advertised, peer)
			if err == nil && len(paths) != want {
				err = fmt.Errorf("%+v", paths)
			}
			return err
		})
	}
	c := n.establish(hostileAddr)
	advertised("", 2)
	advertised(hostileAddr, 1)
	c.Close()
	eventually(t, "the session is down", func() error {
		if s := n.state(hostileAddr); s.State == state.BGPEstablished || s.LastError == "" || time.Since(s.ErrorAt) > time.Minute {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	advertised("hostile", 0)
	advertised("good", 1)
}

// Of a peer whose AS number the node does not have to know, it shows whether it is
// internal: External refuses it then, and Any leaves its paths as they are.
func TestPeerASNMode(t *testing.T) {
	const own = 65001
	expect := func(n *hostileNode, mode string) {
		row := passiveSession("hostile", hostileAddr)
		row.ASN = state.BGPPeerASN{Mode: mode}
		update(t, n.speaker.Sessions(), row)
	}
	settle := func(n *hostileNode, after time.Duration) {
		t.Helper()
		if err := n.speaker.settle(t.Context(), time.Now().Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("External", func(t *testing.T) {
		t.Parallel()
		n := newHostileNode(t)
		expect(n, "External")
		c := n.establishWith(hostileAddr, openOf(own, 1, 2))
		settle(n, 0)
		if code, _, err := notified(c); err != nil || code != packet.BGP_ERROR_CEASE {
			t.Errorf("the node answers error %d, %v, want Cease", code, err)
		}
		settle(n, shutOutPause/2)
		if s := n.state(hostileAddr); s.State != "Idle" || !strings.Contains(s.LastError, "spec.peerASNMode is External") {
			t.Errorf("%+v", s)
		}
		settle(n, shutOutPause)
		n.establish(hostileAddr)
		settle(n, shutOutPause)
		if s := n.state(hostileAddr); s.State != state.BGPEstablished || strings.Contains(s.LastError, "peerASNMode") {
			t.Errorf("an external peer: %+v", s)
		}
		n.unaffected()
	})
	t.Run("Any", func(t *testing.T) {
		t.Parallel()
		n := newHostileNode(t)
		expect(n, "Any")
		update(t, n.speaker.Routes(), offered("203.0.113.1/32", "hostile"))
		c := n.establishWith(hostileAddr, openOf(own, 1, 2))
		var length atomic.Int32
		length.Store(-1)
		go pathLengths(c, &length)
		eventually(t, "the route has no AS number of its own in its path", func() error {
			settle(n, 0)
			if got := length.Load(); got != 0 {
				return fmt.Errorf("%d", got)
			}
			return nil
		})
		if s := n.state(hostileAddr); s.Flaps != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// pathLengths keeps the length of the AS_PATH of what the node sent last, until the
// session ends.
func pathLengths(c net.Conn, length *atomic.Int32) error {
	for {
		b, err := readMessage(c)
		if err != nil {
			return err
		}
		m, err := packet.ParseBGPMessage(b)
		if err != nil {
			return err
		}
		update, ok := m.Body.(*packet.BGPUpdate)
		if !ok || len(update.NLRI) == 0 {
			continue
		}
		of := int32(0)
		for _, attribute := range update.PathAttributes {
			path, ok := attribute.(*packet.PathAttributeAsPath)
			if !ok {
				continue
			}
			for _, segment := range path.Value {
				of += int32(len(segment.GetAS()))
			}
		}
		length.Store(of)
	}
}
