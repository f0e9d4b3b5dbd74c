package collect

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

func TestTimeouts(t *testing.T) {
	roomy := DefaultTimeouts()
	scarce := roomy.At(0.95)
	for _, tc := range []struct {
		name         string
		entry        Entry
		roomy, tight time.Duration
	}{
		{"TCP established", Entry{Protocol: state.TCP, Replied: true}, 6 * time.Hour, 6 * time.Hour},
		{"TCP half-open", Entry{Protocol: state.TCP}, time.Minute, 10 * time.Second},
		{"TCP closing", Entry{Protocol: state.TCP, Replied: true, Closing: true}, time.Minute, 10 * time.Second},
		{"reset before an answer", Entry{Protocol: state.TCP, Closing: true}, time.Minute, 10 * time.Second},
		{"SCTP established", Entry{Protocol: state.SCTP, Replied: true}, 6 * time.Hour, 6 * time.Hour},
		{"SCTP half-open", Entry{Protocol: state.SCTP}, time.Minute, 10 * time.Second},
		{"UDP", Entry{Protocol: state.UDP}, time.Minute, 10 * time.Second},
		{"UDP answered", Entry{Protocol: state.UDP, Replied: true}, 3 * time.Minute, 30 * time.Second},
		{"with a time of its own", Entry{Protocol: state.TCP, Replied: true, Keep: time.Hour}, time.Hour, time.Hour},
		{"spare", Entry{Protocol: state.TCP, Replied: true, Spare: true}, 6 * time.Hour, 5 * time.Minute},
		{"spare, closing", Entry{Protocol: state.TCP, Closing: true, Spare: true}, time.Minute, 10 * time.Second},
	} {
		if got := roomy.Of(tc.entry); got != tc.roomy {
			t.Errorf("%s stays %v with room, want %v", tc.name, got, tc.roomy)
		}
		if got := scarce.Of(tc.entry); got != tc.tight {
			t.Errorf("%s stays %v without, want %v", tc.name, got, tc.tight)
		}
	}
}

// Scarcity never keeps an entry longer, and never takes an answered connection.
func TestTimeoutsAreMonotonic(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		times := Timeouts{Established: duration(random), HalfOpen: duration(random), Closing: duration(random), UDP: duration(random), UDPReplied: duration(random)}
		e := Entry{Protocol: []state.Protocol{state.TCP, state.UDP, state.SCTP}[random.IntN(3)],
			Replied: random.IntN(2) == 0, Closing: random.IntN(2) == 0, Spare: random.IntN(2) == 0}
		a, b := random.Float64(), random.Float64()
		if times.At(max(a, b)).Of(e) > times.At(min(a, b)).Of(e) {
			t.Fatalf("%+v stays longer at fill %.2f than at %.2f", e, max(a, b), min(a, b))
		}
		if e.Replied && !e.Closing && !e.Spare && e.Protocol != state.UDP && times.At(1).Of(e) != times.Of(e) {
			t.Fatalf("%+v goes for want of room", e)
		}
	}
}

func duration(random *rand.Rand) time.Duration {
	return time.Duration(random.Int64N(int64(10 * time.Hour)))
}

func TestOver(t *testing.T) {
	times := Timeouts{HalfOpen: 10 * tick}
	for _, tc := range []struct {
		seen, now uint32
		want      bool
	}{
		{100, 110, false},
		{100, 111, true},
		{111, 100, false},              // a packet since the clock was read
		{math.MaxUint32 - 3, 6, false}, // the clock begins again
		{math.MaxUint32 - 3, 100, true},
		{5, math.MaxUint32 - 3, false},
	} {
		if got := times.Over(Entry{Protocol: state.TCP, Seen: tc.seen}, tc.now); got != tc.want {
			t.Errorf("seen at %d, at %d: over %v", tc.seen, tc.now, got)
		}
	}
}

// The fuller the tables, the harder the work, within its bounds.
func TestPace(t *testing.T) {
	if Pause(0) != 30*time.Second || Pause(0.5) != 30*time.Second || Pause(0.9) != time.Second || Pause(1) != time.Second || Pause(7) != time.Second {
		t.Errorf("pauses %v %v %v %v %v", Pause(0), Pause(0.5), Pause(0.9), Pause(1), Pause(7))
	}
	const step = time.Millisecond
	if got := Rest(0, step); got.Round(step) != 19*step {
		t.Errorf("rests %v after %v with room, want 95 %%", got, step)
	}
	if got := Rest(1, step); got.Round(step) != step {
		t.Errorf("rests %v after %v without, want half", got, step)
	}
	if got := Rest(0, time.Hour); got != time.Second {
		t.Errorf("rests %v after a step that was kept waiting", got)
	}
	for fill := 0.0; fill < 1; fill += 0.01 {
		if Pause(fill+0.01) > Pause(fill) || Rest(fill+0.01, step) > Rest(fill, step) {
			t.Errorf("slower at fill %.2f than at %.2f", fill+0.01, fill)
		}
	}
}
