package collect

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// memory is a Map in memory. before, if there is one, is called ahead of each
// operation and may change it or make it fail.
type memory[K comparable, V any] struct {
	entries map[K]V
	before  func(verb string, k K) error
}

func newMemory[K comparable, V any]() *memory[K, V] { return &memory[K, V]{entries: map[K]V{}} }

func (m *memory[K, V]) do(verb string, k K) error {
	if m.before == nil {
		return nil
	}
	return m.before(verb, k)
}

func (m *memory[K, V]) Each(f func(K, V) bool) error {
	for k, v := range maps.Clone(m.entries) { // a batch that was read some time ago
		if !f(k, v) {
			return nil
		}
	}
	return m.do("each", *new(K))
}

func (m *memory[K, V]) Lookup(k K) (V, bool, error) {
	err := m.do("lookup", k)
	v, ok := m.entries[k]
	return v, ok, err
}

func (m *memory[K, V]) Delete(k K) error {
	if err := m.do("delete", k); err != nil {
		return err
	}
	delete(m.entries, k)
	return nil
}

// value is the value of the tables here, and their keys are numbers.
type value struct {
	Entry
	to int // of a translated flow: its key in the other table
}

func entryOf(_ int, v value) Entry { return v.Entry }

func newCollector(now uint32, tables ...Table) *Collector {
	return &Collector{Tables: tables, Timeouts: DefaultTimeouts(), Now: func() uint32 { return now }, Log: slog.New(slog.DiscardHandler)}
}

func TestPass(t *testing.T) {
	const now = 1000
	vip, pod := netip.MustParseAddrPort("192.168.10.211:80"), netip.MustParseAddrPort("172.20.0.5:8080")
	vip6, pod6 := netip.MustParseAddrPort("[2001:db8::211]:80"), netip.MustParseAddrPort("[2001:db8::5]:8080")
	flows := newMemory[int, value]()
	flows.entries = map[int]value{
		1: {Entry: Entry{Protocol: state.TCP, Replied: true, Seen: now - 600, Frontend: vip, Backend: pod}},
		2: {Entry: Entry{Protocol: state.TCP, Replied: true, Seen: now, Frontend: vip, Backend: pod}},
		3: {Entry: Entry{Protocol: state.TCP, Replied: true, Closing: true, Seen: now - 50, Frontend: vip, Backend: pod}},
		4: {Entry: Entry{Protocol: state.TCP, Replied: true, Closing: true, Seen: now - 60, Frontend: vip, Backend: pod}},
		5: {Entry: Entry{Protocol: state.UDP, Seen: now - 80, Frontend: vip, Backend: pod}},
		6: {Entry: Entry{IPv6: true, Protocol: state.UDP, Replied: true, Seen: now - 80, Frontend: vip6, Backend: pod6}},
	}
	c := newCollector(now, NewTable("flows", Size{10, 4}, flows, entryOf))
	c.Pass(t.Context(), false)
	for key, stays := range map[int]bool{1: true, 2: true, 3: true, 4: false, 5: false, 6: true} {
		if _, ok := flows.entries[key]; ok != stays {
			t.Errorf("entry %d: there %v, want %v", key, ok, stays)
		}
	}
	got := c.Report()
	if got.At.IsZero() || got.Passes != 1 {
		t.Errorf("report %+v", got)
	}
	got.Tables[0].Took = 0
	if want := (TableReport{Name: "flows", Entries: Size{3, 1}, Size: Size{10, 4}, Removed: 2}); got.Tables[0] != want || want.Fill() != 0.3 {
		t.Errorf("table %+v, want %+v, filled %v", got.Tables[0], want, want.Fill())
	}
	if want := (Flows{map[Place]uint64{{vip, state.TCP}: 2, {vip6, state.UDP}: 1}, map[Place]uint64{{pod, state.TCP}: 2, {pod6, state.UDP}: 1}}); !reflect.DeepEqual(got.Flows, want) {
		t.Errorf("flows %v, want %v", got.Flows, want)
	}
}

// What gets a packet after its batch was read stays; what fails stays for the
// next pass, and does not keep other tables.
func TestPassLooksAgain(t *testing.T) {
	idle := value{Entry: Entry{Protocol: state.UDP, Seen: 1}}
	busy, failing, other := newMemory[int, value](), newMemory[int, value](), newMemory[int, value]()
	busy.entries[1], failing.entries[1], other.entries[1] = idle, idle, idle
	busy.before = func(verb string, k int) error {
		if verb == "lookup" {
			busy.entries[k] = value{Entry: Entry{Protocol: state.UDP, Seen: 999}}
		}
		return nil
	}
	broken := errors.New("broken")
	failing.before = func(verb string, _ int) error {
		if verb == "delete" {
			return broken
		}
		return nil
	}
	var log strings.Builder
	c := newCollector(1000, NewTable("busy", Size{10, 10}, busy, entryOf), NewTable("failing", Size{10, 10}, failing, entryOf), NewTable("other", Size{10, 10}, other, entryOf))
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	c.Pass(t.Context(), false)
	if len(busy.entries) != 1 || len(failing.entries) != 1 || len(other.entries) != 0 {
		t.Errorf("left %d, %d and %d entries, want 1, 1 and 0", len(busy.entries), len(failing.entries), len(other.entries))
	}
	if r := c.Report(); r.Tables[1].Removed != 0 || r.Tables[2].Removed != 1 {
		t.Errorf("removed %d and %d, want 0 and 1", r.Tables[1].Removed, r.Tables[2].Removed)
	}
	if !strings.Contains(log.String(), "table=failing err=broken") {
		t.Errorf("log: %s", &log)
	}
	failing.before = nil
	c.Pass(t.Context(), false)
	if len(failing.entries) != 0 {
		t.Error("the next pass has not tried again")
	}
}

// A table without room gives up sooner what was never answered; one that
// evicts needs not.
func TestPassUnderPressure(t *testing.T) {
	const size = 100
	fill := func(answered int) *memory[int, value] {
		m := newMemory[int, value]()
		for i := range 95 {
			m.entries[i] = value{Entry: Entry{Protocol: state.TCP, Replied: i < answered, Seen: 1000 - 30}}
		}
		return m
	}
	refuses, evicts := fill(50), fill(50)
	c := newCollector(1000, NewTable("refuses", Size{IPv4: size}, refuses, entryOf), NewLRU("evicts", Size{IPv4: size}, evicts, entryOf))
	c.Pass(t.Context(), false) // learns how full they are
	if len(refuses.entries) != 95 {
		t.Fatalf("%d entries are left before it is known that room is scarce", len(refuses.entries))
	}
	c.Pass(t.Context(), false)
	if len(refuses.entries) != 50 || len(evicts.entries) != 95 {
		t.Errorf("%d and %d are left, want 50, and 95 of the one that evicts", len(refuses.entries), len(evicts.entries))
	}
}

// natTables are empty. The flow i of them is to have the key i in one and -i in the other.
func natTables() (outs, ins *memory[int, value], tables []Table) {
	outs, ins = newMemory[int, value](), newMemory[int, value]()
	return outs, ins, NewNAT("out", "in", Size{100, 100}, outs, ins, entryOf, entryOf, func(_ int, v value) int { return v.to })
}

func TestNAT(t *testing.T) {
	const old, late = 1, 990
	entry := func(seen uint32, to int, replied, closing bool) value {
		return value{Entry: Entry{Protocol: state.TCP, Seen: seen, Replied: replied, Closing: closing}, to: to}
	}
	for _, tc := range []struct {
		name    string
		out, in *value // of the keys 1 and -1
		stays   string
	}{
		{"busy both ways", new(entry(late, -1, true, false)), new(entry(late, 1, true, false)), "out in"},
		{"client is quiet", new(entry(old, -1, false, false)), new(entry(late, 1, true, false)), "out in"},
		{"backend is quiet", new(entry(late, -1, false, false)), new(entry(old, 1, false, false)), "out in"},
		{"idle, but both have spoken", new(entry(900, -1, true, false)), new(entry(900, 1, true, false)), "out in"},
		{"answered, and no more of the client", new(entry(900, -1, false, false)), new(entry(900, 1, true, false)), ""},
		{"never answered", new(entry(900, -1, false, false)), new(entry(900, 1, false, false)), ""},
		{"closed by the client", new(entry(930, -1, false, true)), new(entry(930, 1, true, false)), ""},
		{"closed by the backend", new(entry(930, -1, false, false)), new(entry(930, 1, true, true)), ""},
		{"closed by both", new(entry(930, -1, false, true)), new(entry(930, 1, true, true)), ""},
		{"closed a moment ago", new(entry(960, -1, false, true)), new(entry(960, 1, true, true)), "out in"},
		{"answers of none", nil, new(entry(900, 1, false, false)), ""},
		{"answers of none yet", nil, new(entry(late, 1, false, false)), "in"},
		{"no answers", new(entry(900, -1, false, false)), nil, ""},
		{"the port is another's", new(entry(900, -1, false, false)), new(entry(late, 7, true, false)), "in"},
		{"the port is another's, which is over", new(entry(late, -1, false, false)), new(entry(old, 7, false, false)), "out"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			outs, ins, tables := natTables()
			if tc.out != nil {
				outs.entries[1] = *tc.out
			}
			if tc.in != nil {
				ins.entries[-1] = *tc.in
			}
			newCollector(1000, tables...).Pass(t.Context(), false)
			var stays []string
			if _, ok := outs.entries[1]; ok {
				stays = append(stays, "out")
			}
			if _, ok := ins.entries[-1]; ok {
				stays = append(stays, "in")
			}
			if got := strings.Join(stays, " "); got != tc.stays {
				t.Errorf("left %q, want %q", got, tc.stays)
			}
		})
	}
}

// When flows are refused, those that close are over sooner, whatever room there
// is: it may be ports that are short.
func TestNATWhenPortsAreShort(t *testing.T) {
	outs, ins, tables := natTables()
	for i := 1; i <= 3; i++ {
		e := Entry{Protocol: state.TCP, Seen: 970, Replied: true, Closing: i > 1}
		outs.entries[i], ins.entries[-i] = value{Entry: e, to: -i}, value{Entry: e, to: i}
	}
	c := newCollector(1000, tables...)
	c.Pass(t.Context(), false)
	if len(outs.entries) != 3 || len(ins.entries) != 3 {
		t.Errorf("%d and %d are left of flows that closed 32 s ago", len(outs.entries), len(ins.entries))
	}
	c.Pass(t.Context(), true)
	if len(outs.entries) != 1 || len(ins.entries) != 1 || outs.entries[1].Closing {
		t.Errorf("%v and %v are left, want the open one", outs.entries, ins.entries)
	}
}

// At no moment is a port free whose flow would still be sent from it, whatever
// fails; and once nothing does, no half of a flow is left.
func TestNATPortIsFreeLast(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		outs, ins, tables := natTables()
		for i := 1; i <= 20; i++ {
			e := Entry{Protocol: state.TCP, Seen: []uint32{900, 995}[random.IntN(2)]}
			outs.entries[i], ins.entries[-i] = value{Entry: e, to: -i}, value{Entry: e, to: i}
		}
		broken := errors.New("broken")
		check := func(string, int) error {
			for i, out := range outs.entries {
				if _, ok := ins.entries[out.to]; !ok {
					t.Fatalf("flow %d goes out of a port that is free", i)
				}
			}
			if random.IntN(10) == 0 {
				return broken
			}
			return nil
		}
		outs.before, ins.before = check, check
		c := newCollector(1000, tables...)
		for range 5 {
			c.Pass(t.Context(), false)
		}
		outs.before, ins.before = nil, nil
		c.Pass(t.Context(), false)
		if len(outs.entries) != len(ins.entries) {
			t.Fatalf("%d flows have %d answers", len(outs.entries), len(ins.entries))
		}
		for i, out := range outs.entries {
			if out.Seen != 995 {
				t.Fatalf("flow %d is over, and there", i)
			}
		}
	}
}

// Passes come every 30 s in quiet times, faster when it is tight, and at once
// when something was refused.
func TestRun(t *testing.T) {
	for _, tc := range []struct {
		name    string
		fill    int
		refused func(since time.Duration) uint64
		want    time.Duration // between two passes
	}{
		{"quiet", 10, func(time.Duration) uint64 { return 5 }, 30 * time.Second},
		{"70 % full", 70, nil, 15500 * time.Millisecond},
		{"full", 95, nil, time.Second},
		{"refuses", 10, func(since time.Duration) uint64 { return uint64(since / time.Second) }, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				m := newMemory[int, value]()
				for i := range tc.fill {
					m.entries[i] = value{Entry: Entry{Protocol: state.TCP, Replied: true, Seen: 1000}}
				}
				c := newCollector(1000, NewTable("t", Size{IPv4: 100}, m, entryOf))
				if tc.refused != nil {
					c.Refused = func() (uint64, error) { return tc.refused(time.Since(began)), nil }
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- c.Run(ctx) }()
				synctest.Wait()
				first := c.Report().Passes
				time.Sleep(10 * tc.want)
				synctest.Wait()
				if passes := c.Report().Passes - first; passes < 9 || passes > 10 {
					t.Errorf("%d passes in %v, want one every %v", passes, 10*tc.want, tc.want)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A long table is walked in steps, and an end of the daemon in the middle of it
// does not wait for the rest.
func TestWalkRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory[int, value]()
		for i := range 10 * stepEntries {
			m.entries[i] = value{Entry: Entry{Protocol: state.TCP, Replied: true, Seen: 1000}}
		}
		walked := 0
		entry := func(k int, v value) Entry {
			if walked++; walked%64 == 0 {
				time.Sleep(time.Microsecond) // what looking costs
			}
			return v.Entry
		}
		c := newCollector(1000, NewTable("t", Size{IPv4: 100 * stepEntries}, m, entry))
		began := time.Now()
		c.Pass(t.Context(), false)
		const work = 10 * stepEntries / 64 * time.Microsecond
		if took := time.Since(began); took < 5*work || took > 30*work {
			t.Errorf("a pass with %v of work took %v, want it to rest in between", work, took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		walked = 0
		c.Pass(ctx, false)
		if walked > stepEntries {
			t.Errorf("looked at %d entries after the end", walked)
		}
		if c.Report().Passes != 1 {
			t.Error("half a pass is reported")
		}
	})
}
