package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
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
	return row
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
	if err := t.maps.Dump(&out); err != nil {
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
	if !strings.Contains(dumps[1], "local-target 192.168.10.212:80/TCP 172.20.1.2:8080\n") {
		t.Errorf("no local target in\n%s", dumps[1])
	}
	if n := strings.Count(dumps[1], "\nset "); n != 3-1 { // a set without backends is all zeros
		t.Errorf("%d sets, want one for each service port with backends:\n%s", n, dumps[1])
	}
}

// Every single operation fails once, in a run of its own: before it does
// anything, or after it did.
func TestFrontendTargetSurvivesEveryFailure(t *testing.T) {
	for _, restart := range []bool{false, true} {
		clean := NewFakeMaps()
		want, err := live(clean, restart)
		if err != nil {
			t.Fatal(err)
		}
		injected := errors.New("injected failure")
		for n := range clean.Ops() {
			for _, when := range []string{"before", "after"} {
				fake := NewFakeMaps()
				fail := func(op Op) error {
					if op.N == n {
						return injected
					}
					return nil
				}
				if when == "before" {
					fake.Before = fail
				} else {
					fake.After = fail
				}
				got, err := live(fake, restart)
				if err != nil {
					t.Fatalf("restart %t, operation %d fails %s it is done: %v", restart, n, when, err)
				}
				for i := range want {
					if withoutNumbers(got[i]) != withoutNumbers(want[i]) {
						t.Fatalf("restart %t, operation %d fails %s it is done: state %d is\n%s\nwant\n%s", restart, n, when, i, got[i], want[i])
					}
				}
			}
		}
	}
}

// withoutNumbers drops from a dump what may differ after a failure: indexes,
// and which of the two tables is looked up.
func withoutNumbers(dump string) string {
	var lines []string
	for line := range strings.Lines(dump) {
		f := strings.Fields(line)
		switch f[0] {
		case "set":
			continue
		case "maglev", "backend":
			f[1] = "#"
		case "frontend":
			f[2] = "#"
		}
		lines = append(lines, strings.Join(f, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

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
	local := LocalKey{VIP: IPv4{192, 168, 10, 211}, Pod: IPv4{172, 20, 1, 1}, Port: NewPort(80), Proto: state.TCP}

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
		if err := checkServed(fake.Maps, before, after); err != nil {
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
	for _, failing := range []string{"update sets", "write maglev", "update backends", "delete frontends"} {
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
				if got, _, err := lookUp(fake.Maps, key); err != nil || !slices.Equal(got, []string{want}) {
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
	announced := AnnouncedKey{Addr: IPv4{192, 168, 10, 213}, Ifindex: 1}
	if err := fake.Announced.Update(announced, AnnouncedEntry{Generation: 1}); err != nil {
		t.Fatal(err)
	}
	target := newTestTarget(fake.Maps)
	rows := history[1][:1]
	if err := target.Prune(context.Background(), rows); err != nil {
		t.Fatal(err)
	}
	slots, err := fake.MaglevSlots(FrontendKey{Addr: IPv4{192, 168, 10, 211}, Port: NewPort(80), Proto: state.TCP})
	if err != nil || len(slots) != 1021 {
		t.Errorf("%d slots, %v; want 1021", len(slots), err)
	}
	for slot, addr := range slots {
		if !slices.ContainsFunc(rows[0].Backends, func(b state.Backend) bool { return netip.AddrPortFrom(b.Addr, b.Port) == addr }) {
			t.Fatalf("slot %d leads to %s", slot, addr)
		}
	}
	if _, err := fake.MaglevSlots(FrontendKey{Addr: IPv4{192, 168, 10, 211}, Port: NewPort(53), Proto: state.UDP}); err == nil {
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
	want := target.dump()
	key, _ := keyOf(rows[0])
	entry, _, _ := fake.Frontends.Lookup(key)
	set, _, _ := fake.Sets.Lookup(entry.Set)
	slots, _ := fake.Maglev.Read(tableIndex(entry.Set, set.Active))
	slots[17]++
	err := errors.Join(
		fake.Frontends.Delete(FrontendKey{Addr: key.Addr}),
		fake.Frontends.Update(FrontendKey{Addr: IPv4{1, 2, 3, 4}, Port: NewPort(5), Proto: state.TCP}, FrontendEntry{Set: 7}),
		fake.Backends.Delete(backendID(t, fake.Maps, "172.20.0.9:53")),
		fake.Maglev.Write(map[uint32][]uint32{tableIndex(entry.Set, set.Active): slots}),
	)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := target.Prune(context.Background(), rows); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(target.UpdateAll(context.Background(), rows)...); err != nil {
			t.Fatal(err)
		}
		target.now = target.now.Add(target.Grace)
	}
	if got := target.dump(); withoutNumbers(got) != withoutNumbers(want) {
		t.Errorf("after a resync\n%s\nwant\n%s", got, want)
	}
}

func TestFullMapsAreErrorsOfTheRow(t *testing.T) {
	target := newTestTarget(NewFakeMaps().Maps)
	target.freeID = newIndexPool[bool](3, nil) // two ids
	good := frontend("a/good", "192.168.10.211:80/TCP", "172.20.0.1:80@w0", "172.20.0.2:80@w0")
	bad := frontend("a/bad", "192.168.10.212:80/TCP", "172.20.0.3:80@w0")
	v6 := frontend("a/v6", "[fd00::1]:80/TCP")
	errs := target.UpdateAll(context.Background(), []state.Frontend{good, bad, v6})
	for i, want := range []string{"<nil>", "all 2 are in use or draining", "only IPv4"} {
		if !strings.Contains(fmt.Sprint(errs[i]), want) {
			t.Errorf("row %d: %v, want %q", i, errs[i], want)
		}
	}
	if got, _, err := lookUp(target.maps, FrontendKey{Addr: good.Addr.As4(), Port: NewPort(80), Proto: state.TCP}); err != nil || len(got) != 2 {
		t.Errorf("good row reaches %v, %v", got, err)
	}
	if _, ok, _ := lookUp(target.maps, FrontendKey{Addr: bad.Addr.As4(), Port: NewPort(80), Proto: state.TCP}); ok {
		t.Error("the row that failed is half made")
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
		if b.addrPort() == addrPort {
			return id
		}
	}
	return 0
}
