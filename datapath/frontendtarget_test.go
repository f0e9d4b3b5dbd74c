package datapath

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

var discard = slog.New(slog.DiscardHandler)

// frontend parses "namespace/name addr:port/protocol" with backends "addr:port@node".
func frontend(service, vip string, backends ...string) state.Frontend {
	namespace, name, _ := strings.Cut(service, "/")
	addr, protocol, _ := strings.Cut(vip, "/")
	ap := netip.MustParseAddrPort(addr)
	row := state.Frontend{Addr: ap.Addr(), Port: ap.Port(), Protocol: state.TCP,
		Service: state.ObjectName{Namespace: namespace, Name: name}, Kind: state.KindLoadBalancer}
	if protocol == "UDP" {
		row.Protocol = state.UDP
	}
	for _, b := range backends {
		addr, node, _ := strings.Cut(b, "@")
		ap := netip.MustParseAddrPort(addr)
		row.Backends = append(row.Backends, state.Backend{Addr: ap.Addr(), Port: ap.Port(), Node: node, Ready: true})
	}
	row.Inside = row.Backends
	return row
}

// testHash spreads flows as the kernel's flow hash does, if not the same.
func testHash(client, frontend netip.AddrPort, proto uint8) uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, client, frontend, proto)
	return h.Sum32() * 0x9e3779b1
}

// testTarget is a FrontendTarget for node w1 over maps, with a clock.
type testTarget struct {
	*FrontendTarget
	now  time.Time
	maps Maps
}

func newTestTarget(maps Maps) *testTarget {
	t := &testTarget{FrontendTarget: NewFrontendTarget(maps, nil, "w1", discard), maps: maps, now: time.Unix(1e9, 0)}
	t.Now = func() time.Time { return t.now }
	t.Hash = testHash
	return t
}

// converge makes rows the content of the maps as a Reconciler would: deletes,
// updates, again until nothing fails, and then a resync.
func (t *testTarget) converge(old, rows []state.Frontend) error {
	var deletes []state.Frontend
	for _, o := range old {
		if !slices.ContainsFunc(rows, func(r state.Frontend) bool { return r.RowKey() == o.RowKey() }) {
			deletes = append(deletes, o)
		}
	}
	updates := rows
	var err error
	for range 20 {
		deletes, err = failed(deletes, t.DeleteAll)
		var errUpdate error
		updates, errUpdate = failed(updates, t.UpdateAll)
		err = errors.Join(err, errUpdate)
		if err == nil {
			if err = t.Prune(context.Background(), rows); err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("still failing after 20 tries: %w", err)
}

func failed(rows []state.Frontend, do func(context.Context, []state.Frontend) []error) (again []state.Frontend, err error) {
	for i, e := range do(context.Background(), rows) {
		if e != nil {
			again, err = append(again, rows[i]), errors.Join(err, e)
		}
	}
	return again, err
}

func (t *testTarget) dump() string {
	var out strings.Builder
	if err := t.maps.Dump(&out, nil); err != nil {
		return err.Error()
	}
	return out.String()
}

func TestFrontendTargetNeverBreaksALookup(t *testing.T) {
	dumps, err := live(NewFakeMaps(), false)
	if err != nil {
		t.Fatal(err)
	}
	if last := dumps[len(dumps)-1]; last != "" {
		t.Errorf("after everything is deleted the maps hold\n%s", last)
	}
	if !strings.Contains(dumps[2], "local-target 192.168.10.211:80/TCP 172.20.1.2:8080\n") {
		t.Errorf("no local target in\n%s", dumps[2])
	}
	if n := strings.Count(dumps[2], "\nset "); n != 4 {
		t.Errorf("%d sets, want one for each service port:\n%s", n, dumps[2])
	}
	for i, want := range []string{"draining\n", "moving\n", " moved=", "\nprevious "} {
		if !strings.Contains(dumps[4], want) || i > 0 && i < 3 && strings.Contains(dumps[5], want) {
			t.Errorf("%q is not where it belongs: at once in\n%s\nnot after the window in\n%s", want, dumps[4], dumps[5])
		}
	}
}

// Every single operation fails once, in a run of its own: before it does anything, or
// after it did.
func TestFrontendTargetSurvivesEveryFailure(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("restart=%t/done=%t", restart, after), func(t *testing.T) {
				t.Parallel()
				surviveEveryFailure(t, restart, after)
			})
		}
	}
}

func surviveEveryFailure(t *testing.T, restart, after bool) {
	clean := NewFakeMaps()
	operations := 0
	clean.Before = func(Op) error {
		operations++
		return nil
	}
	want, err := live(clean, restart)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i] = withoutNumbers(want[i])
	}
	for n := range operations {
		if testing.Short() && n%17 != 0 {
			continue
		}
		fake := NewFakeMaps()
		fail := func(op Op) error {
			if op.N == n {
				return errors.New("injected failure")
			}
			return nil
		}
		if fake.Before = fail; after {
			fake.Before, fake.After = nil, fail
		}
		got, err := liveFrom(n, fake, restart)
		if err != nil {
			t.Fatalf("operation %d fails: %v", n, err)
		}
		for i := range want {
			if i%2 == 0 {
				continue // at once: what failed half way has not gone yet
			}
			if withoutNumbers(got[i]) != want[i] {
				t.Fatalf("operation %d fails: dump %d is\n%s\nwant\n%s", n, i, got[i], want[i])
			}
		}
	}
}

// withoutNumbers drops from a dump what may differ after a failure: which
// number, id or index something has.
func withoutNumbers(dump string) string {
	dump = numbers.ReplaceAllString(dump, "${1}#")
	lines := slices.Sorted(strings.Lines(dump))
	return strings.Join(lines, "")
}

var numbers = regexp.MustCompile(`(?m)(^(?:set|maglev|previous|backend) |\b(?:set|inside|service)=)\d+`)

// A restart, and a resync, of what has not changed writes nothing.
func TestFrontendTargetRestartWritesNothing(t *testing.T) {
	fake := NewFakeMaps()
	if err := newTestTarget(fake.Maps).converge(nil, history[1]); err != nil {
		t.Fatal(err)
	}
	fake.Before = func(op Op) error {
		if op.Verb == "update" || op.Verb == "delete" || op.Verb == "write" {
			t.Errorf("restart: %s", op)
		}
		return nil
	}
	rows := slices.Clone(history[1])
	slices.Reverse(rows)
	restarted := newTestTarget(fake.Maps)
	if err := restarted.converge(rows, rows); err != nil {
		t.Error(err)
	}
	restarted.now = restarted.now.Add(time.Hour)
	if err := restarted.converge(rows, rows); err != nil {
		t.Error(err)
	}
}

// Flows keep the way of forwarding that they began with: the frontend says that
// there was another, also after a restart.
func TestForwardingSwitches(t *testing.T) {
	fake := NewFakeMaps()
	rows := func(way state.Forwarding) []state.Frontend {
		row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.1:80@w2")
		row.Forwarding = way
		return []state.Frontend{row}
	}
	key := FrontendKey{Addr: netip.MustParseAddr("192.168.10.211"), Port: 80, Proto: state.TCP}
	var before []state.Frontend
	for i, step := range []struct {
		way  state.Forwarding
		want FrontendFlags
	}{
		{state.ForwardDSR, 0},
		{state.ForwardDSR, 0},
		{state.ForwardSNAT, FrontendSNAT | FrontendSwitched},
		{state.ForwardSNAT, FrontendSNAT | FrontendSwitched},
		{state.ForwardDSR, FrontendSwitched},
	} {
		if err := newTestTarget(fake.Maps).converge(before, rows(step.way)); err != nil {
			t.Fatal(err)
		}
		before = rows(step.way)
		if e, _, err := fake.Frontends.Lookup(key); err != nil || e.Flags != step.want {
			t.Errorf("step %d: flags are %q, want %q (%v)", i, e.Flags, step.want, err)
		}
	}
	target := newTestTarget(fake.Maps)
	if err := target.converge(before, nil); err != nil {
		t.Fatal(err)
	}
	if err := target.converge(nil, rows(state.ForwardSNAT)); err != nil {
		t.Fatal(err)
	}
	if e, _, _ := fake.Frontends.Lookup(key); e.Flags != FrontendSNAT {
		t.Errorf("made anew: flags are %q", e.Flags)
	}
}

// That a frontend had another way of forwarding is forgotten when no flow that began with
// it can be left, and not before: the daemon may be another by then.
func TestFormerWaysAreForgotten(t *testing.T) {
	const timeout = 100 * tick
	fake := NewFakeMaps()
	key := FrontendKey{Addr: netip.MustParseAddr("192.168.10.211"), Port: 80, Proto: state.TCP}
	clock := uint32(math.MaxUint32 - 50) // it goes round
	var rows []state.Frontend
	pass := func(way state.Forwarding, after uint32) FrontendFlags {
		t.Helper()
		clock += after
		row := frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.1:80@w2")
		row.Forwarding = way
		before := rows
		rows = []state.Frontend{row}
		target := newTestTarget(fake.Maps) // restarted
		target.Ticks, target.FlowTimeout = func() uint32 { return clock }, timeout
		if err := target.converge(before, rows); err != nil {
			t.Fatal(err)
		}
		e, _, err := fake.Frontends.Lookup(key)
		if err != nil {
			t.Fatal(err)
		}
		return e.Flags
	}
	packet := func() { // of a flow of the former way
		t.Helper()
		e, _, err := fake.Frontends.Lookup(key)
		if err := errors.Join(err, fake.FormerWays.Update(e.Service, clock)); err != nil {
			t.Fatal(err)
		}
	}
	for i, step := range []struct {
		way    state.Forwarding
		after  uint32 // ticks
		packet bool
		want   FrontendFlags
	}{
		{way: state.ForwardDSR},
		{way: state.ForwardSNAT, after: 1000, want: FrontendSNAT | FrontendSwitched},
		{way: state.ForwardSNAT, after: 100, packet: true, want: FrontendSNAT | FrontendSwitched},
		{way: state.ForwardSNAT, after: 100, want: FrontendSNAT | FrontendSwitched},
		{way: state.ForwardSNAT, after: 1, want: FrontendSNAT},
		{way: state.ForwardDSR, after: 1000, want: FrontendSwitched},
		{way: state.ForwardSNAT, after: 90, want: FrontendSNAT | FrontendSwitched}, // begins anew
		{way: state.ForwardSNAT, after: 90, want: FrontendSNAT | FrontendSwitched},
		{way: state.ForwardSNAT, after: 11, want: FrontendSNAT},
	} {
		if got := pass(step.way, step.after); got != step.want {
			t.Errorf("step %d: flags are %q, want %q", i, got, step.want)
		}
		if step.packet {
			packet()
		}
	}
	// A packet that is younger than the clock of the pass.
	pass(state.ForwardDSR, 1)
	clock += 2
	packet()
	clock--
	if got := pass(state.ForwardDSR, 0); got != FrontendSwitched {
		t.Errorf("a packet of this moment: flags are %q", got)
	}
	// One that switched under a daemon that knew no such map.
	e, _, err := fake.Frontends.Lookup(key)
	if err := errors.Join(err, fake.FormerWays.Delete(e.Service)); err != nil {
		t.Fatal(err)
	}
	if got := pass(state.ForwardDSR, 1000); got != FrontendSwitched {
		t.Errorf("of an older daemon: flags are %q", got)
	}
	if got := pass(state.ForwardDSR, 101); got != 0 {
		t.Errorf("of an older daemon, and forgotten: flags are %q", got)
	}
}

// A removed backend drains before it is forgotten: until its grace is over it
// keeps its row and its local target, and its id is given to nobody else.
func TestRemovedBackendDrains(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	first := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.1:80@w1", "172.20.1.2:80@w1")}
	if err := target.converge(nil, first); err != nil {
		t.Fatal(err)
	}
	const gone, next = "172.20.1.1:80", "172.20.1.9:80"
	id := backendID(t, fake.Maps, gone)
	second := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.2:80@w1", "172.20.1.8:80@w1")}
	third := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.2:80@w1", "172.20.1.9:80@w1")}
	local := LocalKey{VIP: netip.MustParseAddr("192.168.10.211"), Pod: netip.MustParseAddr("172.20.1.1"), Port: 80, Proto: state.TCP}

	if err := target.converge(first, second); err != nil {
		t.Fatal(err)
	}
	target.now = target.now.Add(target.Grace - time.Second)
	if err := target.converge(second, third); err != nil {
		t.Fatal(err)
	}
	if got := backendID(t, fake.Maps, gone); got != id {
		t.Errorf("removed backend has id %d while it drains, want %d as before", got, id)
	}
	if _, ok, _ := fake.LocalTargets.Lookup(local); !ok {
		t.Error("removed backend lost its local target while it drains")
	}
	if got := backendID(t, fake.Maps, next); got == id || got == 0 {
		t.Errorf("new backend has id %d, and %d is draining", got, id)
	}

	target.now = target.now.Add(time.Second)
	if err := target.Prune(context.Background(), third); err != nil {
		t.Fatal(err)
	}
	if got := backendID(t, fake.Maps, gone); got != 0 {
		t.Errorf("removed backend still has id %d after its grace", got)
	}
	if _, ok, _ := fake.LocalTargets.Lookup(local); ok {
		t.Error("removed backend still has its local target after its grace")
	}
	// One that comes back while it drains is itself again.
	id = backendID(t, fake.Maps, "172.20.1.8:80")
	if err := target.converge(third, second); err != nil {
		t.Fatal(err)
	}
	target.now = target.now.Add(time.Hour)
	if err := target.converge(second, second); err != nil {
		t.Fatal(err)
	}
	if got := backendID(t, fake.Maps, "172.20.1.8:80"); got != id {
		t.Errorf("backend that came back has id %d, had %d", got, id)
	}
}

// The drain lasts its whole time when the daemon restarts in the middle.
func TestDrainStartsAnewAfterRestart(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	first := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.1:80@w1", "172.20.1.2:80@w1")}
	second := []state.Frontend{frontend("a/web", "192.168.10.211:80/TCP", "172.20.1.2:80@w1")}
	if err := errors.Join(target.converge(nil, first), target.converge(first, second)); err != nil {
		t.Fatal(err)
	}
	restarted := newTestTarget(fake.Maps)
	if err := restarted.converge(second, second); err != nil {
		t.Fatal(err)
	}
	if backendID(t, fake.Maps, "172.20.1.1:80") == 0 {
		t.Error("the restart forgot a draining backend at once")
	}
	restarted.now = restarted.now.Add(restarted.Grace)
	if err := restarted.converge(second, second); err != nil {
		t.Fatal(err)
	}
	if backendID(t, fake.Maps, "172.20.1.1:80") != 0 {
		t.Error("the backend never went")
	}
}

// Across a restart an address went to another Service. The set it shared with
// the first Service's other address stays the first Service's.
func TestRestartDoesNotTakeASharedSet(t *testing.T) {
	fake := NewFakeMaps()
	before := []state.Frontend{
		frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0"),
		frontend("a/web", "192.168.10.212:80/TCP", "172.20.0.1:80@w0"),
	}
	if err := newTestTarget(fake.Maps).converge(nil, before); err != nil {
		t.Fatal(err)
	}
	after := []state.Frontend{frontend("b/new", "192.168.10.211:80/TCP", "172.20.0.7:80@w0"), before[1]}
	fake.After = func(op Op) error {
		if err := checkServed(fake.Maps, before, after, map[string]bool{"172.20.0.1:80": true}); err != nil {
			t.Errorf("after %s: %v", op, err)
		}
		return nil
	}
	if err := newTestTarget(fake.Maps).converge(before, after); err != nil {
		t.Error(err)
	}
}

// An operation was done and said to have failed, and then something else is
// wanted: what the target believes of the maps is read back first.
func TestDoneAndSaidToHaveFailed(t *testing.T) {
	a := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.1:80@w0")
	b := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.2:80@w0")
	c := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.3:80@w0")
	d := frontend("a/web", "192.168.10.211:80/TCP", "172.20.0.4:80@w0")
	key, _ := keyOf(a)
	for _, failing := range []string{"update sets", "write tables", "update backends", "delete frontends"} {
		for _, then := range []state.Frontend{a, b, d} {
			for nth := range 2 {
				what := fmt.Sprintf("%d of %s fails, then %s", nth, failing, then.Backends[0].Addr)
				fake := NewFakeMaps()
				target := newTestTarget(fake.Maps)
				if err := errors.Join(target.Update(context.Background(), a), target.Update(context.Background(), b)); err != nil {
					t.Fatal(err)
				}
				seen := 0
				fake.After = func(op Op) error {
					if index, ok := op.Key.(uint32); ok && op.Verb == "write" && isLive(fake.Maps, index) {
						t.Errorf("%s: the live table %d is written", what, index)
					}
					if op.Verb+" "+op.Map == failing {
						if seen++; seen == nth+1 {
							return errors.New("injected failure")
						}
					}
					return nil
				}
				if failing == "delete frontends" {
					_ = target.Delete(context.Background(), b)
				} else {
					_ = target.Update(context.Background(), c)
				}
				if target.Update(context.Background(), then) != nil {
					if err := target.Update(context.Background(), then); err != nil {
						t.Fatal(err)
					}
				}
				want := netip.AddrPortFrom(then.Backends[0].Addr, then.Backends[0].Port).String()
				if got, err := lookUp(fake.Maps, key, false); err != nil || !slices.Equal(got.active, []string{want}) {
					t.Errorf("%s: packets reach %v, %v", what, got, err)
				}
				if _, ok, _ := fake.Frontends.Lookup(vipKey(key.Addr)); !ok {
					t.Errorf("%s: the address is gone", what)
				}
			}
		}
	}
}

func TestPruneRemovesStrangers(t *testing.T) {
	fake := NewFakeMaps()
	old := newTestTarget(fake.Maps)
	if err := old.converge(nil, history[1]); err != nil {
		t.Fatal(err)
	}
	// The responder still answers for one of the addresses.
	announced := AnnouncedKey{Addr: netip.AddrFrom4([4]byte{192, 168, 10, 213}), Ifindex: 1}
	if err := fake.Announced.Update(announced, AnnouncedEntry{Generation: 1}); err != nil {
		t.Fatal(err)
	}
	target := newTestTarget(fake.Maps)
	rows := history[1][:1]
	if err := target.Prune(context.Background(), rows); err != nil {
		t.Fatal(err)
	}
	slots, err := fake.MaglevSlots(FrontendKey{Addr: netip.MustParseAddr("192.168.10.211"), Port: 80, Proto: state.TCP})
	if err != nil || len(slots) != 251 {
		t.Errorf("%d slots, %v; want 251", len(slots), err)
	}
	for slot, addr := range slots {
		if !slices.ContainsFunc(rows[0].Backends, func(b state.Backend) bool { return netip.AddrPortFrom(b.Addr, b.Port) == addr.Backend }) {
			t.Fatalf("slot %d leads to %s", slot, addr.Backend)
		}
	}
	if _, err := fake.MaglevSlots(FrontendKey{Addr: netip.MustParseAddr("192.168.10.211"), Port: 53, Proto: state.UDP}); err == nil {
		t.Error("a frontend that was pruned has slots")
	}
	got := frontendLines(target.dump())
	want := []string{"192.168.10.211", "192.168.10.211:80/TCP", "192.168.10.213", "192.168.10.213:80/TCP"}
	if !slices.Equal(got, want) {
		t.Errorf("after prune: %v, want %v", got, want)
	}
	if err := errors.Join(fake.Announced.Delete(announced), target.Prune(context.Background(), rows)); err != nil {
		t.Fatal(err)
	}
	if got := frontendLines(target.dump()); !slices.Equal(got, want[:2]) {
		t.Errorf("after the address is withdrawn: %v, want %v", got, want[:2])
	}
}

// A resync mends what something else changed in the maps.
func TestResyncMendsTheMaps(t *testing.T) {
	fake := NewFakeMaps()
	target := newTestTarget(fake.Maps)
	rows := history[1]
	if err := target.converge(nil, rows); err != nil {
		t.Fatal(err)
	}
	// What the mended slot led to before the mending is in the previous table.
	present := func() string {
		return regexp.MustCompile(`(?m)^previous .*\n`).ReplaceAllString(withoutNumbers(target.dump()), "")
	}
	want := present()
	key, _ := keyOf(rows[0])
	entry, _, _ := fake.Frontends.Lookup(key)
	set, _, _ := fake.Sets.Lookup(entry.Set)
	slots, _ := fake.Tables.Read(tableIndex(entry.Set, set.Look.Active()), set.Size[set.Look.Active()])
	slots[17]++
	err := errors.Join(
		fake.Frontends.Delete(FrontendKey{Addr: key.Addr}),
		fake.Frontends.Update(FrontendKey{Addr: netip.MustParseAddr("1.2.3.4"), Port: 5, Proto: state.TCP}, FrontendEntry{Set: 7}),
		fake.Backends.Delete(backendID(t, fake.Maps, "172.20.0.9:53")),
		fake.Tables.Write(map[uint32][]uint32{tableIndex(entry.Set, set.Look.Active()): slots}),
	)
	if err != nil {
		t.Fatal(err)
	}
	for range comparedEvery + 2 { // the mended slot was a change, too
		if err := target.Prune(context.Background(), rows); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(target.UpdateAll(context.Background(), rows)...); err != nil {
			t.Fatal(err)
		}
		target.now = target.now.Add(target.Window)
	}
	if got := present(); got != want {
		t.Errorf("after a resync\n%s\nwant\n%s", got, want)
	}
}

func TestFullMapsAreErrorsOfTheRow(t *testing.T) {
	target := newTestTarget(NewFakeMaps().Maps)
	target.freeID = newIndexPool[bool](3, nil) // two ids
	good := frontend("a/good", "192.168.10.211:80/TCP", "172.20.0.1:80@w0", "172.20.0.2:80@w0")
	bad := frontend("a/bad", "192.168.10.212:80/TCP", "172.20.0.3:80@w0")
	mixed := frontend("a/mixed", "[fd00::1]:80/TCP", "172.20.0.1:80@w0")
	odd := with(frontend("a/odd", "192.168.10.213:80/TCP", "172.20.0.1:80@w0"), func(row *state.Frontend) { row.TableSize = 1000 })
	errs := target.UpdateAll(context.Background(), []state.Frontend{good, bad, mixed, odd})
	for i, want := range []string{"<nil>", "all 2 are in use or draining", "backend 172.20.0.1: of another family", "table of 1000 slots"} {
		if !strings.Contains(fmt.Sprint(errs[i]), want) {
			t.Errorf("row %d: %v, want %q", i, errs[i], want)
		}
	}
	for i, row := range []state.Frontend{good, bad, mixed, odd} {
		key, _ := keyOf(row)
		if got, err := lookUp(target.maps, key, false); err != nil || got.served != (i == 0) {
			t.Errorf("row %d reaches %v, %v", i, got, err)
		}
	}
}

func frontendLines(dump string) (all []string) {
	for line := range strings.Lines(dump) {
		if f := strings.Fields(line); f[0] == "frontend" {
			all = append(all, f[1])
		}
	}
	return all
}

func backendID(t *testing.T, m Maps, addrPort string) uint32 {
	t.Helper()
	all, err := m.Backends.All()
	if err != nil {
		t.Fatal(err)
	}
	for id, b := range all {
		if b.addrPort().String() == addrPort {
			return id
		}
	}
	return 0
}
