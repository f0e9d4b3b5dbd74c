package announce

import (
	"bytes"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// flood is a referee over addresses that are all this node's, and hears what is forged.
type flood struct {
	*rig
	referee *referee
	wire    *wireLog
	log     bytes.Buffer
}

func newFlood(t *testing.T, addrs int) *flood {
	f := &flood{rig: newRig(), wire: &wireLog{}}
	lease := &leaseKeeper{clock: f.clock, lastRead: f.clock.Boottime}
	lease.term = term{until: f.clock.Boottime() + time.Hour}
	f.referee = &referee{node: "a", db: f.db, writer: f.writer, clock: f.clock, log: slog.New(slog.NewTextHandler(&f.log, nil)), lease: lease,
		lastRead: f.clock.Boottime, responder: f.responder, herald: f.herald, detector: f.target.detector, handover: newHandover(quick), counts: &Counts{}, contests: newContests()}
	for i := range addrs {
		f.update(t, announcement(i, 1))
		f.writer.Update(func(tx *state.Tx) {
			f.db.Assigned.Put(tx, state.Assignment{Addr: addr(i), Node: "a", Generation: 1})
		})
	}
	f.sent(10 * sec)
	return f
}

// sent counts what is announced in that time.
func (f *flood) sent(within time.Duration) int {
	return len(bytes.Fields([]byte(drain(f.herald, f.clock, within))))
}

// Forged claims to all addresses, from ever other machines and without pause: each
// address is defended once in 10 s, and a handful of claims is logged.
func TestFloodOfStrangersClaims(t *testing.T) {
	const addrs, seconds = 100, 20
	f := newFlood(t, addrs)
	sent := 0
	for s := range seconds {
		for i := range 10 * addrs {
			f.referee.hear(Claim{Addr: addr(i % addrs), Ifindex: 2, MAC: net.HardwareAddr{6, 0, 0, byte(s), byte(i >> 8), byte(i)}, At: f.clock.Boottime()})
		}
		f.referee.settle()
		sent += f.sent(sec)
	}
	if got := f.referee.counts.StrangerClaims.Load(); got != 10*addrs*seconds {
		t.Errorf("counted %d claims of %d", got, 10*addrs*seconds)
	}
	// The refresh of 60 s may fall into the time.
	if want := addrs * seconds / 10; sent < want || sent > want+addrs {
		t.Errorf("%d announcements in %d s, want %d, and at most %d refreshes", sent, seconds, want, addrs)
	}
	if lines := bytes.Count(f.log.Bytes(), []byte("\n")); lines != 2*mostTold {
		t.Errorf("%d lines are logged, want %d:\n%s", lines, 2*mostTold, f.log.String())
	}
	if !bytes.Contains(f.log.Bytes(), []byte("untold=90")) {
		t.Errorf("the log does not say how many claims it left out:\n%s", f.log.String())
	}
}

// Claims forged in the name of a cluster node mute, are settled by the store each
// time, and cause one burst in 10 s.
func TestFloodOfClusterClaims(t *testing.T) {
	const seconds = 20
	f := newFlood(t, 1)
	sent := 0
	for range seconds {
		f.responder.change(entryKey{addr(0), 2}, func(h *Held) { h.Muted = true })
		f.referee.hear(Claim{Addr: addr(0), Ifindex: 2, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, At: f.clock.Boottime(), Muted: true})
		f.clock.Advance(time.Millisecond) // and a read after it
		f.referee.settle()
		if held := f.responder.text(); held != "192.168.10.0@2#1\n" {
			t.Fatalf("held %q, want it unmuted", held)
		}
		sent += f.sent(sec)
	}
	if burst := len(DefaultGratuitous.Burst); sent > seconds/10*(burst-1)+seconds+1 || sent < burst {
		t.Errorf("%d announcements in %d s", sent, seconds)
	}
	if got := f.referee.counts.Kept.Load(); got != seconds {
		t.Errorf("kept %d times, want %d", got, seconds)
	}
}

// Another interface of this node on the same segment is no stranger.
func TestOwnClaims(t *testing.T) {
	f := newFlood(t, 1)
	f.device(state.Device{Name: "eth2", Index: 3, MAC: "02:00:00:00:00:07", Up: true})
	f.referee.hear(Claim{Addr: addr(0), Ifindex: 2, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}, At: f.clock.Boottime()})
	if f.referee.counts.StrangerClaims.Load() != 0 || f.sent(sec) != 0 {
		t.Errorf("taken for a stranger's: %s", f.log.String())
	}
}
