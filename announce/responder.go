package announce

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// LeaseWriter writes this node's lease.
type LeaseWriter interface {
	// RenewLease returns once the store has the lease.
	RenewLease(ctx context.Context, lease state.NodeLease) error
}

// Responder answers ARP and Neighbor Solicitations in the kernel. It outlives the daemon.
type Responder interface {
	// Set makes the kernel answer for the address on the interface with that
	// hardware address. An entry that is there at the same generation stays
	// as mute as it is; one of another generation begins anew, not muted.
	Set(addr netip.Addr, ifindex int, mac net.HardwareAddr, generation int64) error
	// Probe makes an entry that answers nothing and hears claims, anew, until Set.
	Probe(addr netip.Addr, ifindex int, mac net.HardwareAddr, generation int64) error
	// Delete of what is absent is no error.
	Delete(addr netip.Addr, ifindex int) error
	// Unmute makes an entry that heard a claim answer again.
	Unmute(addr netip.Addr, ifindex int) error
	// Held is what the kernel has.
	Held() ([]Held, error)
	// Renew lets all entries answer until then; ValidUntil is the last such
	// time, 0 when there was none. Both of CLOCK_BOOTTIME.
	Renew(validUntil time.Duration) error
	ValidUntil() (time.Duration, error)
	// SetClusterMACs says whose claims mute an entry.
	SetClusterMACs(macs []net.HardwareAddr) error
}

// Held is an entry of the responder.
type Held struct {
	Addr       netip.Addr
	Ifindex    int
	MAC        net.HardwareAddr
	Generation int64
	// Muted: another cluster node claims the address, last at ClaimedAt (CLOCK_BOOTTIME).
	Muted     bool
	ClaimedAt time.Duration
	ClaimMAC  net.HardwareAddr
	// Probing: it is not announced yet, but asked for.
	Probing bool
}

// Claim is another machine's packet that says an address of ours is its own.
type Claim struct {
	Addr    netip.Addr
	Ifindex int
	MAC     net.HardwareAddr
	// At is CLOCK_BOOTTIME.
	At time.Duration
	// Muted: it is a cluster node, and our entry is mute.
	Muted bool
}

// entryKey is an address on an interface.
type entryKey struct {
	addr    netip.Addr
	ifindex int
}
