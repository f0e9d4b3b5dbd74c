package kernel

import (
	"fmt"
	"testing"

	"github.com/seamark-lb/seamark/testlab/packet"
)

// What is left to kube-proxy passes as it is, with the errors about it. The rest of
// the address is the VIP's as ever.
func TestLeftToKubeProxy(t *testing.T) {
	atEachHookInEachFamily(t, func(n *node, f family) {
		const port = 94
		passes := func(name string, frame []byte) {
			n.sub(name, func(n *node) { n.expect(kindXDP, n.out, frame, xdpPass, "not_ours", frame) })
		}
		for _, proto := range tunnelled {
			n.putFrontend(f, f.vip, port, proto, bpfFrontend{Flags: uint32(bpfFrontendFlagsFRONTEND_INSIDE)})
			passes(fmt.Sprintf("protocol %d", proto), f.packet(fromRouter, f.client, f.vip, 63, transport(proto, 1025, port)))
		}
		n.sub("fragments", func(n *node) { // a later one has no port of its own
			for _, piece := range f.pieces(fromRouter, f.client, f.vip, 63, packet.UDP{SrcPort: 1025, DstPort: port}, large(3000)) {
				n.expect(kindXDP, n.out, piece, xdpPass, "not_ours", piece)
			}
		})
		tooBig := packet.ICMP{Type: 3, Code: 4, Seq: 1280}
		if f.v6 {
			tooBig = packet.ICMP{Type: 2, Seq: 1280}
		}
		answered := f.packet(fromRouter, f.vip, f.client, 60, packet.TCP{SrcPort: port, DstPort: 1025, Flags: packet.ACK})
		passes("an error about an answer", f.packet(fromRouter, f.router, f.vip, 60, tooBig, packet.Payload(answered[14:])))

		unserved := f.packet(fromRouter, f.client, f.vip, 63, packet.TCP{SrcPort: 1025, DstPort: port + 1, Flags: packet.SYN})
		n.expect(kindXDP, n.out, unserved, xdpDrop, "unserved_port", nil)
	})
}
