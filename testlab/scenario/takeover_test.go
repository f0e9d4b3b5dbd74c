package scenario

import (
	"fmt"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
)

// quiet is for how long something must not happen, once all that could make it
// happen is in place: longer than a lease, and the coordinator looks several
// times a second.
const quiet = 5 * time.Second

// TestDaemonKilled: a daemon that is SIGKILLed loses its address when its lease
// ends, and its datapath serves on.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	old := l.holder()
	oldMAC := l.mac(old)
	t.Logf("holder %s, coordinator %s", old, l.status(old).Coordinator.Identity)
	streams, arp, probe := l.streams(60), l.watchARP(), l.probe()
	l.daemon(old, testlab.Kill)
	now := l.movedFrom(old)
	l.flowing(streams, podCtr, podW1, podW0)
	a := l.announcement(now, vipText)
	if a.Generation != 2 || a.Previous != old || a.Reason != "LeaseExpired" {
		t.Errorf("announcement after the takeover: %+v", a)
	}

	l.daemon(old, testlab.Start)
	l.leased(old)
	l.watchQuiet(now, now)
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, within, podCtr, podW1, podW0)
	t.Logf("new connections: %s", probe())
	l.movedOnce(arp(), oldMAC, l.mac(now))
}

// TestAllDaemonsKilled: their lease ends, and with it the answers; who has
// connections does not notice. The daemons find everything where it was.
func TestAllDaemonsKilled(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	holder := l.holder()
	before := l.announcements(ctr)
	streams := l.streams(30)
	for _, node := range nodes {
		l.daemon(node, testlab.Kill)
	}
	l.silent()
	l.flowing(streams, podCtr, podW1, podW0)
	for _, node := range nodes {
		l.daemon(node, testlab.Start)
	}
	l.eventually("it is answered again", func() error {
		if r := l.watchARPFor(200 * time.Millisecond); len(r.Holders) == 0 {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	l.held(l.watchARPFor(quiet), l.mac(holder))
	if now := l.announcements(ctr); now != before {
		t.Errorf("announcements\n%swere\n%s", now, before)
	}
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, generously, podCtr, podW1, podW0)
}

// watchQuiet wants the holder to stay the same for a while, asked from a host.
func (l lab) watchQuiet(from, holder string) {
	l.t.Helper()
	for end := time.After(quiet); ; {
		if now, err := l.tryHolder(from, vipText); err != nil || now != holder {
			l.t.Fatalf("%s announces the VIP, %v; want it to stay with %s", now, err, holder)
		}
		select {
		case <-end:
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// TestPowerCut: the holder, which is also the coordinator, loses its power. It
// comes back as a node like any other.
//
// Its pod stays an endpoint until the connections have been judged: a change of
// backends also moves a few Maglev slots between those that stay.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	old := l.holder()
	l.coordinate(old)
	if now := l.holder(); now != old {
		t.Fatalf("restarts moved the VIP from %s to %s", old, now)
	}
	dead, living := podOf[old], []string{podOf[other(old)], podW0}
	oldMAC := l.mac(old)
	streams, arp, probe := l.streams(60), l.watchARP(), l.probe()
	l.must(l.PowerOff(old))
	now := l.movedFrom(old)
	l.flowing(streams, living...)
	l.unbroken(streams, within, living...)
	streams.Close()
	l.must(l.SetReady(t.Context(), false, dead)) // as the node controller does
	l.eventually("new connections lead to living pods alone", func() error {
		if n := l.slots(now)[old]; n > 0 {
			return fmt.Errorf("%s has %d slots", dead, n)
		}
		return nil
	})
	for range 30 {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		l.must(err)
		if pod == dead {
			t.Fatalf("%s answered, which has no power", pod)
		}
	}
	t.Logf("new connections, a third of them to the dead pod: %s", probe())

	l.must(l.PowerOn(t.Context(), old))
	l.leased(old)
	l.reaches(podCtr, podW1, podW0)
	l.watchQuiet(now, now)
	l.movedOnce(arp(), oldMAC, l.mac(now))
}

// slots are how many of the VIP's Maglev slots lead to each node's pods, as a
// node's kernel has it.
func (l lab) slots(on string) map[string]int {
	l.t.Helper()
	var table struct {
		Backends []struct{ Node string }
		Slots    []int
	}
	l.must(l.tryJSON(&table, on, "bpf", "maglev", "get", web.String()))
	slots := map[string]int{}
	for _, i := range table.Slots {
		slots[table.Backends[i].Node]++
	}
	return slots
}

// TestDaemonPaused: a daemon that hangs, and is the coordinator, loses its
// address; when it goes on, it knows better than to answer.
func TestDaemonPaused(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	old := l.holder()
	l.coordinate(old)
	oldMAC := l.mac(old)
	streams, arp, probe := l.streams(60), l.watchARP(), l.probe()
	l.daemon(old, testlab.Pause)
	now := l.movedFrom(old)
	l.flowing(streams, podCtr, podW1, podW0)

	l.daemon(old, testlab.Resume)
	l.leased(old)
	l.eventually(old+" knows the new holder", func() error {
		_, err := l.tryHolder(old, vipText)
		return err
	})
	l.watchQuiet(now, now)
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, within, podCtr, podW1, podW0)
	t.Logf("new connections: %s", probe())
	l.movedOnce(arp(), oldMAC, l.mac(now))
}

// TestCableCut: the holder's cable to the segment is pulled while its lease is
// renewed over another network.
func TestCableCut(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	old := l.holder()
	living := []string{podOf[other(old)], podW0}
	oldMAC := l.mac(old)
	streams, arp, probe := l.streams(60), l.watchARP(), l.probe()
	l.must(l.SetLink(old, "eth1", false))
	now := l.movedFrom(old)
	if s := l.status(old); s.Lease.State != "valid" {
		t.Errorf("lease of the node without a segment is %s: this shows nothing", s.Lease.State)
	}
	l.flowing(streams, living...)
	if a := l.announcement(now, vipText); a.Reason != "NotCandidate" {
		t.Errorf("announcement after the takeover: %+v", a)
	}

	l.must(l.SetLink(old, "eth1", true))
	l.reaches(podCtr, podW1, podW0)
	l.watchQuiet(now, now)
	l.flowing(streams, living...)
	l.unbroken(streams, within, living...)
	t.Logf("new connections: %s", probe())
	l.movedOnce(arp(), oldMAC, l.mac(now))
}
