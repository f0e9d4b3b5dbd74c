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

// Claim is another machine's word, by ARP, that an announced address is its own.
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
// ends. Repeated claims of the same machine come at most every 100 ms.
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
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &raw); err != nil {
			return fmt.Errorf("watch claims: %w", err)
		}
		var addr [4]byte
		binary.NativeEndian.PutUint32(addr[:], raw.Addr)
		handle(Claim{
			At:      time.Duration(raw.At),
			Addr:    netip.AddrFrom4(addr),
			Ifindex: int(raw.Ifindex),
			MAC:     bytes.Clone(raw.Mac[:]),
			Muted:   raw.Muted != 0,
		})
	}
}
