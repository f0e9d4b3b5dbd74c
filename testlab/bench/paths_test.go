package bench

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// A figure means nothing when the packets do not go where they should: as many come
// out of every path as went in, in the shape that it gives them, of connections
// that it knows.
func TestPathsDeliver(t *testing.T) {
	const made, node, other, routed = "10.0.0.0/12", "192.168.10.1/32", "192.168.10.2/32", "192.168.21.1/32"
	want := map[string]struct {
		src, dst string
		proto    byte
		port     uint16 // of the destination; 0: it is within
	}{
		"XDP_DROP":                    {made, "10.96.0.0/16", packet.ProtoTCP, 80},
		"XDP_TX":                      {made, "10.96.0.0/16", packet.ProtoTCP, 80},
		"Seamark, DSR, IPIP":          {node, "172.16.0.0/16", packet.ProtoIPIP, 0},
		"Seamark, DSR, Geneve":        {node, other, packet.ProtoUDP, 0},
		"Seamark, SNAT":               {node, "172.18.0.0/16", packet.ProtoTCP, 8080},
		"Seamark, to a local pod":     {made, "172.19.0.0/16", packet.ProtoTCP, 8080},
		"Seamark, tc: DSR, IPIP":      {node, "172.20.0.0/16", packet.ProtoIPIP, 0},
		"Seamark, tc: SNAT":           {node, "172.21.0.0/16", packet.ProtoTCP, 8080},
		"Seamark, tc: to a local pod": {made, "172.22.0.0/16", packet.ProtoTCP, 8080},
		forRouter.name:                {routed, "172.31.0.0/16", packet.ProtoTCP, 8080},
	}
	g := newTraffic(t)
	all, noRouter := paths(t, g)
	if noRouter != "" {
		t.Log("not tested:", forRouter.name+":", noRouter)
	}
	g.runAlone()
	must(t, g.objects.Look.Set(uint8(1)))
	tested := 0
	for _, p := range all {
		const flows, count = 1 << 10, 1 << 12
		if p.connections != nil {
			g.establish(p.target, flows)
			if got := p.connections(); got != flows {
				t.Errorf("%s: %d connections are there for both ends, want %d", p.name, got, flows)
			}
		}
		g.set(p.target, flows)
		if received, _ := g.send(p.target, ack, 0, count); received != count {
			t.Errorf("%s: %d packets came out of %d", p.name, received, count)
		}
		w, ok := want[p.name]
		if !ok {
			continue // nothing is sent
		}
		tested++
		var last [frameSize]byte
		must(t, g.objects.Last.Get(&last))
		src, dst := netip.AddrFrom4([4]byte(last[26:30])), netip.AddrFrom4([4]byte(last[30:34]))
		text := packet.String(last[:])
		if !netip.MustParsePrefix(w.src).Contains(src) || !netip.MustParsePrefix(w.dst).Contains(dst) || last[23] != w.proto ||
			w.port != 0 && !(strings.Contains(text, fmt.Sprintf("tcp.dst          %d\n", w.port)) && strings.Count(text, " right") == 2) {
			t.Errorf("%s made this, want protocol %d from %s to %s, port %d:\n%s", p.name, w.proto, w.src, w.dst, w.port, text)
		}
	}
	if noRouter == "" && tested != len(want) {
		t.Errorf("%d paths were looked at, want %d", tested, len(want))
	}
}
