package announce

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

var eth1 = state.Device{Name: "eth1", Index: 2, MAC: mac1.String(), Up: true}

func announcement(i int, generation int64) state.Announcement {
	return state.Announcement{Addr: addr(i), Interface: "eth1", Generation: generation}
}

// rig is a responderTarget over fakes, on a node with eth1.
type rig struct {
	db        *state.DB
	writer    *state.Writer
	clock     *fakeClock
	responder *fakeResponder
	herald    *herald
	groups    fakeGroups
	wire      *wireLog
	target    *responderTarget
}

// fakeGroups are the addresses whose groups are joined, each with its interface.
type fakeGroups map[entryKey]bool

func (g fakeGroups) Join(ifindex int, addr netip.Addr) error {
	if ifindex == 66 {
		return errors.New("IPv6 is disabled")
	}
	g[entryKey{addr, ifindex}] = true
	return nil
}

func (g fakeGroups) Leave(ifindex int, addr netip.Addr) { delete(g, entryKey{addr, ifindex}) }

func newRig() *rig {
	r := &rig{clock: newFakeClock(), responder: newFakeResponder(), groups: fakeGroups{}, wire: &wireLog{}}
	r.db, r.writer = state.New()
	r.herald = newHerald(DefaultGratuitous, r.clock, &wireLog{}, func() bool { return true }, quiet, &Counts{})
	r.target = &responderTarget{node: "a", db: r.db, responder: r.responder, herald: r.herald, groups: r.groups,
		held: map[string]Held{}, left: map[string]Held{}, mayTake: func() bool { return true },
		detector: newDetector(Detection{}, 5000, r.clock, r.wire, r.responder, ownMAC(r.db), quiet)}
	r.device(eth1)
	return r
}

func (r *rig) device(d state.Device) {
	r.writer.Update(func(tx *state.Tx) { r.db.Devices.Put(tx, d) })
}

// announced is what is sent within the next second.
func (r *rig) announced() string { return drain(r.herald, r.clock, time.Second) }

func TestResponderTarget(t *testing.T) {
	burst := func(ip string) string { return ip + "@0s " + ip + "@150ms " + ip + "@500ms" }
	const ip = "192.168.10.1"
	for _, tc := range []struct {
		name, held, sent string
		do               func(t *testing.T, r *rig)
	}{
		{"new", ip + "@2#1\n", burst(ip), func(t *testing.T, r *rig) { r.update(t, announcement(1, 1)) }},
		{"again", ip + "@2#1\n", "", func(t *testing.T, r *rig) {
			r.update(t, announcement(1, 1))
			r.announced()
			r.update(t, announcement(1, 1))
		}},
		{"taken back", ip + "@2#3\n", burst(ip), func(t *testing.T, r *rig) {
			r.update(t, announcement(1, 1))
			r.announced()
			r.update(t, announcement(1, 3))
		}},
		{"new hardware address", ip + "@2#1\n", burst(ip), func(t *testing.T, r *rig) {
			r.update(t, announcement(1, 1))
			r.announced()
			dev := eth1
			dev.MAC = "02:00:00:00:00:07"
			r.device(dev)
			r.update(t, announcement(1, 1))
		}},
		{"interface made anew", ip + "@9#1\n", burst(ip), func(t *testing.T, r *rig) {
			r.update(t, announcement(1, 1))
			r.announced()
			dev := eth1
			dev.Index = 9
			r.device(dev)
			r.update(t, announcement(1, 1))
		}},
		{"deleted in the burst", "", "", func(t *testing.T, r *rig) {
			r.update(t, announcement(1, 1))
			r.delete(t, announcement(1, 1))
			r.delete(t, announcement(1, 1))
		}},
		{"never set", "", "", func(t *testing.T, r *rig) { r.delete(t, announcement(1, 1)) }},
		{"daemon restarted", ip + "@2#4\n", "", func(t *testing.T, r *rig) {
			r.set(t, addr(1), 2, 4)
			r.prune(t, announcement(1, 4))
			r.update(t, announcement(1, 4))
		}},
		{"moved away and back while the daemon was down", ip + "@2#6\n", burst(ip), func(t *testing.T, r *rig) {
			r.set(t, addr(1), 2, 4)
			r.prune(t, announcement(1, 6))
			r.update(t, announcement(1, 6))
		}},
		{"IPv6", "fd00::1@2#1\n", burst("fd00::1"), func(t *testing.T, r *rig) {
			row := announcement(1, 1)
			row.Addr = netip.MustParseAddr("fd00::1")
			r.update(t, row)
			if !r.groups[entryKey{row.Addr, 2}] {
				t.Error("does not listen to the questions for it")
			}
		}},
		{"another's", ip + "@2#4\n", "", func(t *testing.T, r *rig) {
			r.set(t, addr(1), 2, 4)
			r.set(t, addr(2), 2, 1)
			r.set(t, addr(1), 77, 1)
			r.prune(t, announcement(1, 4))
		}},
		{"lost by the kernel", ip + "@2#1\n", burst(ip), func(t *testing.T, r *rig) {
			r.update(t, announcement(1, 1))
			r.announced()
			_ = r.responder.Delete(addr(1), 2)
			r.prune(t, announcement(1, 1))
			r.update(t, announcement(1, 1))
		}},
		{"disowned", ip + "@2#4\n", "", func(t *testing.T, r *rig) {
			r.set(t, addr(1), 2, 4)
			r.set(t, addr(2), 2, 1)
			r.set(t, addr(3), 2, 1)
			r.writer.Update(func(tx *state.Tx) {
				r.db.Assigned.Put(tx, state.Assignment{Addr: addr(1), Node: "a"})
				r.db.Assigned.Put(tx, state.Assignment{Addr: addr(2), Node: "b"})
			})
			if err := r.target.disown(r.db.Snapshot()); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig()
			tc.do(t, r)
			if got := r.responder.text(); got != tc.held {
				t.Errorf("kernel holds %q, want %q", got, tc.held)
			}
			if got := r.announced(); got != tc.sent {
				t.Errorf("sent %q, want %q", got, tc.sent)
			}
			held, _ := r.responder.Held()
			for _, h := range held {
				delete(r.groups, entryKey{h.Addr, h.Ifindex})
			}
			if len(r.groups) > 0 {
				t.Errorf("still listens to %v", r.groups)
			}
		})
	}
}

func (r *rig) update(t *testing.T, row state.Announcement) {
	t.Helper()
	if err := r.target.Update(t.Context(), row); err != nil {
		t.Errorf("update: %v", err)
	}
}

func (r *rig) delete(t *testing.T, row state.Announcement) {
	t.Helper()
	if err := r.target.Delete(t.Context(), row); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func (r *rig) prune(t *testing.T, wanted ...state.Announcement) {
	t.Helper()
	if err := r.target.Prune(t.Context(), wanted); err != nil {
		t.Errorf("prune: %v", err)
	}
}

// set is what an earlier daemon left in the kernel.
func (r *rig) set(t *testing.T, addr netip.Addr, ifindex int, generation int64) {
	t.Helper()
	if err := r.responder.Set(addr, ifindex, mac1, generation); err != nil {
		t.Fatal(err)
	}
}

func TestResponderTargetRefuses(t *testing.T) {
	r := newRig()
	r.device(state.Device{Name: "off6", Index: 66, MAC: mac1.String(), Up: true})
	for _, tc := range []struct {
		row  state.Announcement
		want string
	}{
		{state.Announcement{Addr: netip.MustParseAddr("fd00::1"), Interface: "off6"}, "announce fd00::1 on off6: IPv6 is disabled"},
		{state.Announcement{Addr: addr(1), Interface: "eth9"}, "announce 192.168.10.1: no interface eth9"},
	} {
		if err := r.target.Update(t.Context(), tc.row); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("update: %v, want %s…", err, tc.want)
		}
	}
	r.responder.fail = errors.New("map is full")
	if err := r.target.Update(t.Context(), announcement(1, 1)); err == nil || r.announced() != "" {
		t.Errorf("update with a full map: %v, and announced", err)
	}
	r.responder.fail = nil
	r.update(t, announcement(1, 1))
	if r.announced() == "" {
		t.Error("not announced once the map takes it")
	}
}

func TestHold(t *testing.T) {
	frontend := func(port uint16, phase state.Phase) state.Frontend {
		return state.Frontend{Addr: addr(1), Port: port, Protocol: state.TCP, Status: state.Status{Phase: phase}}
	}
	for _, tc := range []struct {
		name      string
		phase     state.Phase
		frontends []state.Frontend
		valid     bool
		want      state.Reason
	}{
		{"served", state.Pending, []state.Frontend{frontend(80, state.Done), frontend(443, state.Done)}, true, ""},
		{"one port is not", state.Pending, []state.Frontend{frontend(80, state.Done), frontend(443, state.Failed)}, true, state.ReasonWaitingForDatapath},
		{"no port", state.Pending, nil, true, state.ReasonWaitingForDatapath},
		{"last port is leaving", state.Pending, []state.Frontend{frontend(80, state.Deleting)}, true, state.ReasonWaitingForDatapath},
		{"one port is leaving", state.Pending, []state.Frontend{frontend(80, state.Deleting), frontend(81, state.Done)}, true, ""},
		{"stale lease", state.Pending, []state.Frontend{frontend(80, state.Done)}, false, state.ReasonLeaseInvalid},
		{"failed before, stale lease", state.Failed, []state.Frontend{frontend(80, state.Done)}, false, state.ReasonLeaseInvalid},
		{"announced already, stale lease", state.Done, []state.Frontend{frontend(80, state.Done)}, false, ""},
		{"announced already, port changing", state.Done, []state.Frontend{frontend(80, state.Pending)}, true, ""},
		{"on its way out", state.Deleting, nil, false, ""},
	} {
		db, w := state.New()
		w.Update(func(tx *state.Tx) {
			for _, f := range tc.frontends {
				db.Frontends.Put(tx, f)
			}
		})
		row := announcement(1, 1).WithStatus(state.Status{Phase: tc.phase})
		if got := hold(db, db.Snapshot(), row, tc.valid); got != tc.want {
			t.Errorf("%s: held for %q, want %q", tc.name, got, tc.want)
		}
	}
}

// The referee, with a kernel that mutes.
func TestReferee(t *testing.T) {
	k := entryKey{addr(1), 2}
	theirs := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for _, tc := range []struct {
		name               string
		holder             string        // that the store says
		read               time.Duration // of the store, after the claim
		valid              bool
		stranger, told     bool
		held, sent, status string
	}{
		{name: "still ours", holder: "a", read: sec, valid: true, told: true,
			held: "192.168.10.1@2#5\n", sent: "192.168.10.1@0s 192.168.10.1@150ms 192.168.10.1@500ms"},
		{name: "still ours, found in the kernel", holder: "a", read: sec, valid: true,
			held: "192.168.10.1@2#5\n", sent: "192.168.10.1@0s 192.168.10.1@150ms 192.168.10.1@500ms"},
		{name: "theirs", holder: "b", read: sec, valid: true, told: true, held: "192.168.10.1@2#5 muted\n", status: "Muted"},
		{name: "not read since", holder: "a", read: -sec, valid: true, told: true, held: "192.168.10.1@2#5 muted\n", status: "Muted"},
		{name: "stale lease yields", holder: "a", read: sec, told: true, held: "192.168.10.1@2#5 muted\n", status: "Muted"},
		{name: "a stranger", holder: "a", read: sec, valid: true, stranger: true, told: true, held: "192.168.10.1@2#5\n", sent: "192.168.10.1@0s"},
		{name: "a stranger, stale lease", holder: "a", read: sec, stranger: true, told: true, held: "192.168.10.1@2#5\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig()
			r.update(t, announcement(1, 5))
			drain(r.herald, r.clock, 2*sec)
			r.writer.Update(func(tx *state.Tx) {
				r.db.Announcements.Put(tx, announcement(1, 5).WithStatus(state.Status{Phase: state.Done}))
				r.db.Assigned.Put(tx, state.Assignment{Addr: addr(1), Node: tc.holder, Generation: 6})
			})
			claimed := r.clock.Boottime()
			lastRead := func() time.Duration { return claimed + tc.read }
			lease := &leaseKeeper{clock: r.clock, lastRead: lastRead}
			if tc.valid {
				lease.term = term{until: claimed + time.Hour}
			}
			handover := newHandover(quick)
			referee := &referee{node: "a", db: r.db, writer: r.writer, clock: r.clock, log: quiet, lease: lease, lastRead: lastRead,
				responder: r.responder, herald: r.herald, detector: r.target.detector, handover: handover, counts: &Counts{}, contests: newContests()}
			if !tc.stranger {
				r.responder.change(k, func(e *Held) { e.Muted, e.ClaimedAt, e.ClaimMAC = true, claimed, theirs })
			}
			if tc.told {
				referee.hear(Claim{addr(1), 2, theirs, claimed, !tc.stranger})
			} else {
				referee.look()
			}
			row, _ := r.db.Announcements.Get(r.db.Snapshot(), announcement(1, 5).RowKey())
			if want := state.ReasonMuted; !tc.stranger && row.Status.Reason != want {
				t.Errorf("while contested the row's reason is %q, want %q", row.Status.Reason, want)
			}
			referee.settle()
			if mute := strings.Contains(tc.held, "muted"); handover.muted[k] != mute {
				t.Errorf("to the handover it is mute: %v, want %v", handover.muted[k], mute)
			}
			if got := r.responder.text(); got != tc.held {
				t.Errorf("kernel holds %q, want %q", got, tc.held)
			}
			if got := r.announced(); got != tc.sent {
				t.Errorf("sent %q, want %q", got, tc.sent)
			}
			row, _ = r.db.Announcements.Get(r.db.Snapshot(), announcement(1, 5).RowKey())
			if string(row.Status.Reason) != tc.status || row.Status.Phase != state.Done {
				t.Errorf("row is %+v, want reason %q", row.Status, tc.status)
			}
		})
	}
}
