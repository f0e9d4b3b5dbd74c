package bgp

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/seamark-lb/seamark/state"
)

// told are the prefixes that a peer has, as it was told of them byte by byte.
type told struct {
	mu       sync.Mutex
	prefixes map[netip.Prefix]bool
}

// listen takes what the node says until the session ends.
func (p *told) listen(c net.Conn) {
	for {
		b, err := readMessage(c)
		if err != nil {
			return
		}
		m, err := packet.ParseBGPMessage(b)
		if err != nil {
			return
		}
		if u, ok := m.Body.(*packet.BGPUpdate); ok {
			p.mu.Lock()
			for _, nlri := range u.WithdrawnRoutes {
				delete(p.prefixes, nlri.NLRI.(*packet.IPAddrPrefix).Prefix)
			}
			for _, nlri := range u.NLRI {
				p.prefixes[nlri.NLRI.(*packet.IPAddrPrefix).Prefix] = true
			}
			p.mu.Unlock()
		}
	}
}

// has fails when it was told of others.
func (p *told) has(want []netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, prefix := range want {
		if !p.prefixes[prefix] {
			return fmt.Errorf("it has not heard of %s", prefix)
		}
	}
	if len(p.prefixes) != len(want) {
		return fmt.Errorf("it has %d prefixes, and there are %d", len(p.prefixes), len(want))
	}
	return nil
}

// Whatever comes and goes while sessions begin, each peer ends with what there is.
func TestChangesWhileSessionsBegin(t *testing.T) {
	const peers, prefixes = 50, 40
	n := newHostileNode(t)
	names := make([]string, peers)
	for p := range peers {
		names[p] = fmt.Sprint("peer-", p)
		n.expect(names[p], fmt.Sprintf("127.0.1.%d", p+1))
	}
	row := func(k int) state.BGPRoute {
		return state.BGPRoute{Instance: "tor", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(k)}), 32),
			Offers: []state.BGPOffer{{Advertisement: "all", Peers: names}}}
	}
	for k := range prefixes { // those that peers may have been told of, and are not to keep
		update(t, n.speaker.Routes(), row(k))
	}

	heard := make([]told, peers)
	var begun sync.WaitGroup
	for p := range peers {
		heard[p].prefixes = map[netip.Prefix]bool{}
		c := n.connect(fmt.Sprintf("127.0.1.%d", p+1))
		c.SetDeadline(time.Time{})
		begun.Go(func() {
			if _, err := c.Write(append(open(), keepalive...)); err != nil {
				t.Error(err)
			}
			go heard[p].listen(c)
		})
	}
	there := map[int]bool{}
	change := func(k int) {
		var err error
		if there[k] = rand.IntN(2) == 0; there[k] {
			err = n.speaker.Routes().Update(t.Context(), row(k))
		} else {
			err = n.speaker.Routes().Delete(t.Context(), row(k))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all sessions are established", func() error {
		for range 200 {
			change(rand.IntN(prefixes))
		}
		states, err := n.speaker.States(t.Context())
		i := slices.IndexFunc(states, func(s state.BGPSessionState) bool {
			return s.State != state.BGPEstablished && s.Remote.String() != hostileAddr
		})
		if err == nil && i >= 0 {
			err = errors.New(states[i].Peer)
		}
		return err
	})
	begun.Wait()
	var want []netip.Prefix
	for k := range prefixes {
		if change(k); there[k] {
			want = append(want, row(k).Prefix)
		}
	}
	if err := n.speaker.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for p := range heard {
		eventually(t, names[p]+" has what there is", func() error { return heard[p].has(want) })
	}
}
