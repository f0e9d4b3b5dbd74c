package bgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/seamark-lb/seamark/state"
)

// The routers of these tests are the test itself: it speaks BGP, byte by byte, from
// addresses of the loopback network, to a Speaker that listens on another.
const (
	nodeAddr    = "127.0.0.1"
	hostileAddr = "127.0.0.2"
	goodAddr    = "127.0.0.3"
	hostileASN  = 65000
	prefixLimit = 3
)

// hostileNode is a Speaker with a session for a hostile peer, and one for a good one
// that is established.
type hostileNode struct {
	t       *testing.T
	speaker *Speaker
	listens string
}

func newHostileNode(t *testing.T) *hostileNode {
	t.Helper()
	if os.Getenv(isolated) != "" {
		run(t, "ip link set lo up")
	}
	l, err := net.Listen("tcp", nodeAddr+":0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	n := &hostileNode{t, speak(t, state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr(nodeAddr), ListenPort: port}), fmt.Sprintf("%s:%d", nodeAddr, port)}
	n.expect("hostile", hostileAddr)
	n.expect("good", goodAddr)
	n.establish(goodAddr)
	return n
}

// expect has the node take sessions of a peer.
func (n *hostileNode) expect(peer, remote string) {
	n.t.Helper()
	update(n.t, n.speaker.Sessions(), passiveSession(peer, remote))
}

func passiveSession(peer, remote string) state.BGPSession {
	return state.BGPSession{Instance: "tor", Peer: peer, Remote: netip.MustParseAddr(remote), RemotePort: 179,
		ASN: state.BGPPeerASN{Number: hostileASN}, IPv4: true, IPv6: true, NextHop6: netip.IPv6Loopback(), MaxPrefixes4: prefixLimit,
		BGPSessionConfig: state.BGPSessionConfig{Passive: true, ConnectRetry: time.Second, Hold: 90 * time.Second}}
}

// connect dials the node until it takes the connection: after an error it rests.
func (n *hostileNode) connect(from string) net.Conn {
	n.t.Helper()
	var conn net.Conn
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	eventually(n.t, "the node takes a connection of "+from, func() error {
		c, err := dialer.Dial("tcp", n.listens)
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if m, err := readMessage(c); err != nil || m[18] != packet.BGP_MSG_OPEN {
			c.Close()
			return fmt.Errorf("no OPEN: %v %x", err, m)
		}
		conn = c
		return nil
	})
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// readMessage reads one message, with its header.
func readMessage(c net.Conn) ([]byte, error) {
	header := make([]byte, packet.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(c, header); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(header[16:]))
	if length < len(header) {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	message := append(header, make([]byte, length-len(header))...)
	_, err := io.ReadFull(c, message[len(header):])
	return message, err
}

// message is one with a header that fits.
func message(kind byte, body ...byte) []byte {
	m := slices.Concat(slices.Repeat([]byte{0xff}, 16), []byte{0, 0, kind}, body)
	binary.BigEndian.PutUint16(m[16:], uint16(len(m)))
	return m
}

// open is a good OPEN: IPv4 and IPv6 unicast (RFC 4760), four-octet AS numbers (RFC 6793).
func open() []byte { return openOf(hostileASN, 1, 2) }

// openOf is a good OPEN with an AS number and families.
func openOf(asn uint16, families ...byte) []byte {
	high, low := byte(asn>>8), byte(asn)
	capabilities := []byte{2, 6, 65, 4, 0, 0, high, low}
	for i := range families {
		capabilities = slices.Insert(capabilities, 8*i, 2, 6, 1, 4, 0, families[i], 0, 1)
	}
	body := []byte{4, high, low, 0, 90, 192, 0, 2, 1, byte(len(capabilities))}
	return message(packet.BGP_MSG_OPEN, append(body, capabilities...)...)
}

var keepalive = message(packet.BGP_MSG_KEEPALIVE)

// updateWith is an UPDATE with these attributes and prefixes.
func updateWith(attributes []byte, nlri ...byte) []byte {
	body := append([]byte{0, 0, byte(len(attributes) >> 8), byte(len(attributes))}, attributes...)
	return message(packet.BGP_MSG_UPDATE, append(body, nlri...)...)
}

// Attributes that are well-formed.
var (
	origin  = []byte{0x40, 1, 1, 0}
	asPath  = []byte{0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe8}
	nextHop = []byte{0x40, 3, 4, 127, 0, 0, 2}
	sound   = slices.Concat(origin, asPath, nextHop)
)

// establish has a session with the node that lives until the test ends.
func (n *hostileNode) establish(from string) net.Conn {
	n.t.Helper()
	return n.establishWith(from, open())
}

// establishWith does so by that OPEN.
func (n *hostileNode) establishWith(from string, open []byte) net.Conn {
	n.t.Helper()
	c := n.connect(from)
	if _, err := c.Write(append(open, keepalive...)); err != nil {
		n.t.Fatal(err)
	}
	for {
		m, err := readMessage(c)
		if err != nil {
			n.t.Fatal(err)
		}
		if m[18] == packet.BGP_MSG_KEEPALIVE {
			break
		}
	}
	c.SetDeadline(time.Time{})
	eventually(n.t, "the session with "+from+" is established", func() error {
		if s := n.state(from); s.State != state.BGPEstablished {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return c
}

func (n *hostileNode) state(remote string) state.BGPSessionState {
	n.t.Helper()
	states, err := n.speaker.States(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	i := slices.IndexFunc(states, func(s state.BGPSessionState) bool { return s.Remote.String() == remote })
	if i < 0 {
		n.t.Fatalf("no session with %s", remote)
	}
	return states[i]
}

// unaffected fails when the good peer's session is not as it was.
func (n *hostileNode) unaffected() {
	n.t.Helper()
	if s := n.state(goodAddr); s.State != state.BGPEstablished || s.Flaps != 0 {
		n.t.Fatalf("the other peer's session is affected: %+v", s)
	}
}

// notified reads until the node says why it ends the session.
func notified(c net.Conn) (code, subcode byte, err error) {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		m, err := readMessage(c)
		if err != nil {
			return 0, 0, err
		}
		if m[18] == packet.BGP_MSG_NOTIFICATION && len(m) >= 21 {
			return m[19], m[20], nil
		}
	}
}

// Before a session is established, whatever is no good OPEN ends it with the error
// that RFC 4271 §6 has for it; the status names it, and a cure.
func TestHostileOpen(t *testing.T) {
	changed := func(at int, to ...byte) []byte { m := open(); copy(m[at:], to); return m }
	for _, test := range []struct {
		name          string
		send          []byte
		code, subcode byte
		says          string
	}{
		{"too short", changed(16, 0, 18), 1, 2, "no valid BGP"},
		{"no such type", changed(18, 9), 1, 3, "no valid BGP"},
		{"version", changed(19, 3), 2, 1, "version"},
		{"AS number", changed(20, 0xfd, 0xe7, 0, 90, 192, 0, 2, 1, 24, 2, 6, 1, 4, 0, 1, 0, 1, 2, 6, 1, 4, 0, 2, 0, 1, 2, 6, 65, 4, 0, 0, 0xfd, 0xe7), 2, 2, "spec.peerASN"},
		{"hold time", changed(22, 0, 1), 2, 6, "hold time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newHostileNode(t)
			c := n.connect(hostileAddr)
			if _, err := c.Write(test.send); err != nil {
				t.Fatal(err)
			}
			code, subcode, err := notified(c)
			if err != nil || code != test.code || subcode != test.subcode {
				t.Errorf("the node answers error %d/%d, %v, want %d/%d", code, subcode, err, test.code, test.subcode)
			}
			c.Close()
			eventually(t, "the status says why", func() error {
				if s := n.state(hostileAddr); !strings.Contains(s.LastError, test.says) {
					return fmt.Errorf("%q, want %q", s.LastError, test.says)
				}
				return nil
			})
			n.unaffected()
		})
	}
}

// An UPDATE that is wrong costs its routes and not the session, as far as RFC 7606
// can tell where it ends; else the session.
func TestHostileUpdate(t *testing.T) {
	route := []byte{32, 203, 0, 113, 1}
	for _, test := range []struct {
		name string
		send []byte
		ends bool
	}{
		{"no such ORIGIN", updateWith(slices.Concat([]byte{0x40, 1, 1, 9}, asPath, nextHop), route...), false},
		{"ORIGIN of two bytes", updateWith(slices.Concat([]byte{0x40, 1, 2, 0, 0}, asPath, nextHop), route...), false},
		{"flags of ORIGIN", updateWith(slices.Concat([]byte{0xc0, 1, 1, 0}, asPath, nextHop), route...), false},
		{"no next hop", updateWith(slices.Concat(origin, asPath), route...), false},
		{"AS_PATH that is cut", updateWith(slices.Concat(origin, []byte{0x40, 2, 3, 2, 9, 0}, nextHop), route...), false},
		{"community of three bytes", updateWith(slices.Concat(sound, []byte{0xc0, 8, 3, 1, 2, 3}), route...), false},
		{"unknown and well-known", updateWith(slices.Concat(sound, []byte{0x40, 250, 0}), route...), true},
		{"prefix of 33 bits", updateWith(sound, 33, 203, 0, 113, 1, 0), true},
		{"prefix that is cut", updateWith(sound, 32, 203, 0), true},
		{"attribute beyond the attributes", updateWith(slices.Concat(sound, []byte{0xc0, 8, 8, 1, 2, 3, 4}), route...), false},
		{"attribute without its length", updateWith(slices.Concat(sound, []byte{0xc0, 8}), route...), false},
		{"attributes beyond the end", message(packet.BGP_MSG_UPDATE, 0, 0, 0xff, 0xff), true},
		{"withdrawn routes beyond the end", message(packet.BGP_MSG_UPDATE, 0xff, 0xff, 0, 0), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			n := newHostileNode(t)
			c := n.establish(hostileAddr)
			defer c.Close()
			if _, err := c.Write(test.send); err != nil {
				t.Fatal(err)
			}
			if test.ends {
				if code, _, err := notified(c); err != nil || code != packet.BGP_ERROR_UPDATE_MESSAGE_ERROR {
					t.Errorf("the node answers error %d, %v, want that of an UPDATE", code, err)
				}
				eventually(t, "the status says why", func() error {
					if s := n.state(hostileAddr); !strings.Contains(s.LastError, "no valid BGP") {
						return fmt.Errorf("%q", s.LastError)
					}
					return nil
				})
				n.unaffected()
				return
			}
			n.readsOn(c)
			n.unaffected()
		})
	}
}

// readsOn sends another route, which shows that the session of the hostile peer is read
// on, and that nothing came of what was sent before.
func (n *hostileNode) readsOn(c net.Conn) {
	n.t.Helper()
	if _, err := c.Write(updateWith(sound, 32, 203, 0, 113, 2)); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "the next UPDATE is read", func() error {
		paths, err := n.speaker.Paths(n.t.Context(), Received, "hostile")
		if err != nil {
			return err
		}
		for _, p := range paths {
			if p.Prefix.String() == "203.0.113.1/32" {
				n.t.Fatal("the route of the wrong UPDATE is taken")
			}
		}
		if s := n.state(hostileAddr); len(paths) != 1 || s.State != state.BGPEstablished {
			return fmt.Errorf("%v, %+v", paths, s)
		}
		return nil
	})
}

// In an established session a message of a type that there is none of ends it (RFC 4271
// §6.1). A second OPEN would have to (§8.2.2): GoBGP passes over it.
func TestHostileEstablished(t *testing.T) {
	t.Run("no such type", func(t *testing.T) {
		t.Parallel()
		n := newHostileNode(t)
		c := n.establish(hostileAddr)
		defer c.Close()
		if _, err := c.Write(message(9)); err != nil {
			t.Fatal(err)
		}
		if code, subcode, err := notified(c); err != nil || code != packet.BGP_ERROR_MESSAGE_HEADER_ERROR || subcode != packet.BGP_ERROR_SUB_BAD_MESSAGE_TYPE {
			t.Errorf("the node answers error %d/%d, %v, want that of a message's type", code, subcode, err)
		}
		eventually(t, "the status says why", func() error {
			if s := n.state(hostileAddr); !strings.Contains(s.LastError, "no valid BGP") {
				return fmt.Errorf("%q", s.LastError)
			}
			return nil
		})
		n.unaffected()
	})
	t.Run("second OPEN", func(t *testing.T) {
		t.Parallel()
		n := newHostileNode(t)
		c := n.establish(hostileAddr)
		defer c.Close()
		if _, err := c.Write(open()); err != nil {
			t.Fatal(err)
		}
		n.readsOn(c)
		n.unaffected()
	})
}

// A peer that sends more prefixes than it may is shut out, and the status says so. It
// may come back when its limit is another, and after a while.
func TestHostilePrefixes(t *testing.T) {
	t.Parallel()
	n := newHostileNode(t)
	send := func(prefixes int) net.Conn {
		c := n.establish(hostileAddr)
		for i := range byte(prefixes) {
			if _, err := c.Write(updateWith(sound, 32, 203, 0, 113, i)); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	breach := func(prefixes int) {
		code, subcode, err := notified(send(prefixes))
		if err != nil || code != packet.BGP_ERROR_CEASE || subcode != packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED {
			t.Errorf("the node answers error %d/%d, %v, want that of too many prefixes", code, subcode, err)
		}
		eventually(t, "the status says why", func() error {
			if s := n.state(hostileAddr); s.State != "Idle" || !strings.Contains(s.LastError, "maxPrefixes") {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	settle := func(after time.Duration) {
		if err := n.speaker.settle(t.Context(), time.Now().Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	shutOut := func() bool {
		n.speaker.mu.Lock()
		defer n.speaker.mu.Unlock()
		i := n.speaker.instances["tor"]
		return isShutOut(i.inServer(t.Context(), i.sessions["hostile"]))
	}

	breach(prefixLimit + 1)
	row := passiveSession("hostile", hostileAddr)
	row.MaxPrefixes4++
	update(t, n.speaker.Sessions(), row)
	breach(prefixLimit + 2)

	settle(0)
	settle(shutOutPause - time.Second)
	if !shutOut() {
		t.Error("the session begins again before the pause is over")
	}
	settle(shutOutPause)
	send(prefixLimit + 1)
	eventually(t, "as many prefixes as may be are taken", func() error {
		if s := n.state(hostileAddr); s.Received != prefixLimit+1 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	n.unaffected()
}

// Messages that were good once, changed at random, their frames too: the node lives, and
// so does the session beside. The peers are many, since each rests after an error.
func TestHostileFuzz(t *testing.T) {
	t.Parallel()
	n := newHostileNode(t)
	random := rand.New(rand.NewPCG(1, 7606))
	good := [][]byte{open(), keepalive, updateWith(sound, 32, 203, 0, 113, 1, 24, 198, 51, 100),
		updateWith(slices.Concat(sound, []byte{0xc0, 8, 4, 1, 2, 3, 4, 0xc0, 32, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3}), 32, 203, 0, 113, 2),
		updateWith(slices.Concat(origin, asPath, []byte{0x80, 14, 38, 0, 2, 1, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0,
			128, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9})),
		message(packet.BGP_MSG_NOTIFICATION, 6, 4), message(packet.BGP_MSG_ROUTE_REFRESH, 0, 1, 0, 1)}
	peers := make([]net.Dialer, 100)
	for i := range peers {
		from := netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
		n.expect(fmt.Sprint("hostile-", i), from.String())
		peers[i] = net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: 20 * time.Second}
	}
	sent, sessions := 0, 0
	for begin := time.Now(); time.Since(begin) < 3*time.Second || sent < 100 && time.Since(begin) < time.Minute; {
		c, err := peers[random.IntN(len(peers))].Dial("tcp", n.listens)
		if err != nil {
			t.Fatalf("after %d messages: %v", sent, err)
		}
		c.SetDeadline(time.Now().Add(time.Second))
		if _, err := readMessage(c); err != nil { // it rests
			c.Close()
			continue
		}
		sessions++
		change := func(m []byte) {
			if random.IntN(8) > 0 { // mostly bodies alone, lest few of them are read
				m = m[packet.BGP_HEADER_LENGTH:]
			}
			for range random.IntN(4) {
				if len(m) > 0 {
					m[random.IntN(len(m))] = byte(random.Uint32())
				}
			}
		}
		first := open()
		if random.IntN(4) == 0 {
			change(first)
		}
		c.Write(append(first, keepalive...))
		for range 50 {
			m := slices.Clone(good[random.IntN(len(good))])
			change(m)
			cut := random.IntN(32) == 0
			if cut {
				m = m[:random.IntN(len(m))]
			}
			if _, err := c.Write(m); err != nil || cut {
				break
			}
			sent++
		}
		c.Close()
		n.unaffected()
	}
	if sent < 100 {
		t.Errorf("only %d messages were taken", sent)
	}
	t.Logf("%d messages in %d sessions", sent, sessions)
}

// One that connects and says nothing, and one whom nobody has asked for, hold nobody up.
func TestHostileSilence(t *testing.T) {
	t.Parallel()
	n := newHostileNode(t)
	n.connect(hostileAddr)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.9")}, Timeout: 20 * time.Second}
	stranger, err := dialer.Dial("tcp", n.listens)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	stranger.SetDeadline(time.Now().Add(10 * time.Second))
	if m, err := readMessage(stranger); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("a stranger is told %x, %v", m, err)
	}
	n.unaffected()
}
