// Package announce makes one node answer ARP or neighbour discovery for each
// address that a policy announces (DESIGN §6).
//
// Each node keeps one lease alive (leaseKeeper). One elected coordinator looks
// at the leases (Liveness) and chooses a node per address (Place). Every node
// turns the choices that name it into rows (Local) and brings them into the
// responder in the kernel and onto the wire (responderTarget, herald). Who else claims an
// address on the wire is settled by contests.
//
// Place, Local, Liveness, fence and contests are pure: time is an argument.
// All times that decide something are of CLOCK_BOOTTIME, which goes on while
// the machine sleeps and is never set; they are time.Durations since boot.
package announce
