package scenario

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/seamark-lb/seamark/testlab"
)

// announcements are all, as they are printed: for comparison byte by byte.
func (l lab) announcements(from string) string {
	l.t.Helper()
	return l.seamark(from, "get", "announcement", "-o", "json")
}

// TestRestart: no daemon's restart is noticed by 200 connections, nor moves the
// address.
func TestRestart(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	before := l.announcements(ctr)
	if a := l.announcement(ctr, vipText); a.Generation != 1 {
		t.Errorf("generation %d before anything happened", a.Generation)
	}
	holder := l.holder()
	streams := l.streams(200)
	arp := l.watchARP()
	unchanged := func(when string, hosts ...string) {
		t.Helper()
		for _, host := range hosts {
			if now := l.announcements(host); now != before {
				t.Errorf("%s, asked from %s:\n%swas\n%s", when, host, now, before)
			}
		}
	}
	for _, node := range nodes {
		l.daemon(node, testlab.Stop)
		if node == holder {
			l.watchQuiet(other(holder), holder) // for longer than its lease was, had it not stopped cleanly
		}
		unchanged("while "+node+"'s daemon is stopped", api)
		l.flowing(streams, podCtr, podW1, podW0)
		l.daemon(node, testlab.Start)
		l.leased(node)
		unchanged("after "+node+"'s daemon started again", ctr, w1, w0, api)
	}
	l.must(l.StopAPI(t.Context()))
	unchanged("while the store is stopped", nodes...)
	l.flowing(streams, podCtr, podW1, podW0)
	l.must(l.StartAPI(t.Context()))
	for _, node := range nodes {
		l.leased(node)
	}
	unchanged("after the store started again", ctr, w1, w0, api)
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, generously, podCtr, podW1, podW0)
	l.held(arp(), l.mac(holder))
}

// TestNewerLayout: a daemon that finds the maps of a newer one leaves them
// alone, and they go on serving.
func TestNewerLayout(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	holder := l.holder()
	before := l.announcements(holder)
	streams := l.streams(30)
	l.daemon(holder, testlab.Stop)

	layout, err := ebpf.LoadPinnedMap(filepath.Join(l.dir(holder), "bpf", "seamark", "layout"), nil)
	l.must(err)
	defer layout.Close()
	var version uint32
	l.must(layout.Lookup(uint32(0), &version))
	l.must(layout.Put(uint32(0), version+1))

	err = l.Daemon(t.Context(), holder, testlab.Start)
	if err == nil {
		t.Error("a daemon took maps of a newer layout over")
	} else {
		for _, want := range []string{"it has ended", "is newer than this seamarkd's", "seamarkd cleanup"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in: %v", want, err)
			}
		}
	}
	l.answers()
	l.flowing(streams, podCtr, podW1, podW0)

	l.must(layout.Put(uint32(0), version))
	l.daemon(holder, testlab.Start)
	l.leased(holder)
	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, generously, podCtr, podW1, podW0)
	if now := l.announcements(holder); now != before {
		t.Errorf("announcements\n%swere\n%s", now, before)
	}
}
