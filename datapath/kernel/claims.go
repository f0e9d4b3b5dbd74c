package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// Claim is another machine's word, by ARP or neighbour discovery, that an
// announced address is its own.
type Claim struct {
	// At is when, by CLOCK_BOOTTIME, since boot.
	At      time.Duration
	Addr    netip.Addr
	Ifindex int
	MAC     net.HardwareAddr
	// Muted: we answer no more for the address, because a cluster node claims it.
	Muted bool
}

// WatchClaims calls handle for each claim heard, one after another, until ctx
// ends. Repeated claims of the same machine come at most every 100 ms, and of a flood
// of claims only some.
func (k *Kernel) WatchClaims(ctx context.Context, handle func(Claim)) error {
	reader, err := ringbuf.NewReader(k.maps[bpfMapClaims])
	if err != nil {
		return fmt.Errorf("watch claims: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { reader.Close() }) // wakes Read
	defer reader.Close()
	defer stop()
	var record ringbuf.Record
	for {
		if err := reader.ReadInto(&record); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch claims: %w", err)
		}
		var raw bpfClaim
		if len(record.RawSample) < binary.Size(raw) {
			continue // of an older daemon's programs; the entry says it, too
		}
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &raw); err != nil {
			return fmt.Errorf("watch claims: %w", err)
		}
		handle(Claim{
			At:      time.Duration(raw.At),
			Addr:    raw.addr(),
			Ifindex: int(raw.Ifindex),
			MAC:     bytes.Clone(raw.Mac[:]),
			Muted:   raw.Muted != 0,
		})
	}
}

func (c bpfClaim) addr() netip.Addr {
	var b [16]byte
	for i, word := range c.Addr {
		binary.NativeEndian.PutUint32(b[4*i:], word)
	}
	if c.V6 != 0 {
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}
