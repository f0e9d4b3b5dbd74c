package kubescenario

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// generously is longer than any pause that an event which must not be noticed
// may cause, scheduling of a busy machine included.
const generously = 5 * time.Second

// fewGratuitous are as many announcements without a question as may be heard of
// one address in a minute or so in which nothing moved: what refreshes the
// neighbours, once a minute and in two forms.
const fewGratuitous = 8

// TestOutage: whatever happens to the API server, and to daemons while it is
// away, no connection notices, and nothing moves.
func TestOutage(t *testing.T) {
	t.Parallel()
	// A daemon that is killed must be back before its lease is over: also on a
	// busy machine.
	l := up(t, testlab.Config{DaemonArgs: []string{"--lease-duration", "6s", "--restart-grace", "10s"}})
	const beyondGrace = 15 * time.Second
	l.applyDemo()
	l.reaches(pods...)
	l.coordinate(w0) // it never holds the VIP
	o := &outages{lab: l, holder: l.holder(), old: l.streams(20)}
	o.mac, o.announced = l.mac(o.holder), l.announcements(ctr)

	o.live("API server stopped for 60 s", func() {
		l.must(l.StopAPI(t.Context()))
		l.pass(55 * time.Second)
		for _, node := range nodes {
			if s := l.status(node); s.Store.Err == "" {
				t.Errorf("%s does not know that the API server is gone", node)
			}
		}
		o.unmoved(nodes...)
		l.reaches(pods...)
		l.pass(5 * time.Second)
		l.must(l.StartAPI(t.Context()))
	})
	o.live("5 s each way for 30 s", func() {
		l.must(l.DelayAPI(t.Context(), 5*time.Second))
		l.pass(30 * time.Second)
		o.unmoved(nodes...)
		l.reaches(pods...)
		l.must(l.DelayAPI(t.Context(), 0))
	})
	o.live("stopped, holder restarted", func() {
		l.must(l.StopAPI(t.Context()))
		l.daemon(o.holder, testlab.Stop)
		o.startsUnready(o.holder)
		l.pass(beyondGrace)
		o.unmoved(other(o.holder), w0)
		l.reaches(pods...)
		l.must(l.StartAPI(t.Context()))
	})
	o.live("stopped, holder killed", func() {
		l.must(l.StopAPI(t.Context()))
		l.daemon(o.holder, testlab.Kill)
		o.startsUnready(o.holder)
		l.pass(beyondGrace)
		o.unmoved(other(o.holder), w0)
		l.reaches(pods...)
		l.must(l.StartAPI(t.Context()))
	})
	l.coordinate(w0)
	o.live("stopped, coordinator killed", func() {
		l.must(l.StopAPI(t.Context()))
		l.daemon(w0, testlab.Kill)
		l.pass(5 * time.Second)
		o.unmoved(ctr, w1)
		l.reaches(pods...)
		l.must(l.StartAPI(t.Context()))
		l.eventually("another is the coordinator", func() error {
			if now := l.status(ctr).Coordinator.Identity; now == w0 || now == "" {
				return fmt.Errorf("%q is", now)
			}
			return nil
		})
		l.daemon(w0, testlab.Start)
	})
	t.Logf("outages\n%s", o.table())
	l.flowing(o.old, pods...)
	l.unbroken(o.old, pods...)

	// All goes on as if nothing had been.
	l.apply(balanced("after", "", ""))
	l.given("after", "192.168.10.212")
	l.answersAt("192.168.10.212")
	l.kubectl("wait", "--for=condition=seamark.dev/IPAMRequestSatisfied", "service/webpod", "service/after", "--timeout=60s")
}

// outages are what happened so far to a lab in which nothing may move.
type outages struct {
	lab
	holder, mac string
	announced   string
	old         *traffic.Streams // that live through them all
	rows        []string
}

// live has something happen under connections old and new, waits until all is
// well, and looks what was noticed of it.
func (o *outages) live(name string, happen func()) {
	o.t.Helper()
	begin := time.Now()
	streams := o.streams(60)
	before := o.resent() // of the streams alone: the probe's connections come and go
	if ends := 2 * 80; len(before) < ends {
		o.t.Fatalf("%s: %d ends of open connections, want %d", name, len(before), ends)
	}
	arp, probe := o.watchARP(), o.probe()
	happen()
	for _, node := range nodes {
		o.leased(node)
		o.settled(node)
	}
	o.flowing(streams, pods...)
	o.flowing(o.old, pods...)
	lost := o.lostSince(before)
	r, answers, opened := streams.Result(), arp(), probe()
	gratuitous := 0
	for _, n := range answers.Gratuitous {
		gratuitous += n
	}
	o.rows = append(o.rows, fmt.Sprintf("%-28s %6.0f s %12d %10d %9s %10s %6d/%-6d %9s %10d", name, time.Since(begin).Seconds(), lost,
		len(r.Broken()), ms(r.LongestGap()), ms(opened.Outage), opened.Sent-opened.Answered, opened.Sent, ms(answers.Silence), gratuitous))
	o.t.Logf("%s\n%s", name, o.table())

	o.unmoved(nodes...)
	o.unbroken(streams, pods...)
	o.held(answers, o.mac)
	if lost > 0 {
		o.t.Errorf("%s: %d packets of connections were lost", name, lost)
	}
	for what, pause := range map[string]time.Duration{
		"a stream stood still": r.LongestGap(), "no connection was made": opened.Outage, "nobody answered ARP": answers.Silence,
	} {
		if pause > generously {
			o.t.Errorf("%s: %s for %s", name, what, ms(pause))
		}
	}
	if gratuitous > fewGratuitous {
		o.t.Errorf("%s: %d gratuitous announcements of an address that did not move", name, gratuitous)
	}
	streams.Close()
}

func (o *outages) table() string {
	return fmt.Sprintf("%-28s %8s %12s %10s %9s %10s %13s %9s %10s\n", "outage", "in all", "packets lost", "conns reset", "stalled",
		"no connect", "failed", "ARP quiet", "gratuitous") + strings.Join(o.rows, "\n")
}

// unmoved wants these nodes to know of the announcements as they were.
func (o *outages) unmoved(from ...string) {
	o.t.Helper()
	for _, node := range from {
		if now := o.announcements(node); now != o.announced {
			o.t.Errorf("asked from %s:\n%swas\n%s", node, now, o.announced)
		}
	}
}

// startsUnready starts a daemon while there is no API server.
func (o *outages) startsUnready(node string) {
	o.t.Helper()
	patience, cancel := context.WithTimeout(o.t.Context(), 3*time.Second)
	defer cancel()
	if err := o.Daemon(patience, node, testlab.Start); err == nil {
		o.t.Error("a daemon that has not read anything is ready")
	}
}

// settled waits until the daemon has nothing left to do.
func (o *outages) settled(node string) {
	o.t.Helper()
	o.eventually(node+" is settled", func() error {
		var s struct {
			Ready  bool
			Tables []struct {
				Name                      string
				Pending, Failed, Deleting int
			}
		}
		if err := o.tryJSON(&s, node, "status"); err != nil {
			return err
		}
		for _, table := range s.Tables {
			if table.Pending+table.Failed+table.Deleting > 0 {
				return fmt.Errorf("%+v", table)
			}
		}
		return nil
	})
}

// connection is one end of a connection that is open.
type connection struct {
	host   string
	cookie [2]uint32 // the kernel's, never used twice
}

// resent is how many packets each end of the open connections between the
// router and the pods has sent again, without those of which the other end said
// that it had them already (RFC 2883), as a busy machine brings about.
func (l lab) resent() map[connection]int {
	l.t.Helper()
	all := map[connection]int{}
	for _, host := range append([]string{router}, pods...) {
		l.must(l.host(host).Do(func() error {
			// A server that listens on all addresses has IPv6 sockets, also of IPv4.
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				sockets, err := netlink.SocketDiagTCPInfo(family)
				if err != nil {
					return fmt.Errorf("list connections of %s: %w", host, err)
				}
				for _, s := range sockets {
					if s.TCPInfo != nil && s.InetDiagMsg.State == netlink.TCP_ESTABLISHED {
						all[connection{host, s.InetDiagMsg.ID.Cookie}] = int(s.TCPInfo.Total_retrans) - int(s.TCPInfo.Dsack_dups)
					}
				}
			}
			return nil
		}))
	}
	return all
}

// lostSince is how many packets of the connections that were open before, and
// still are, were lost.
func (l lab) lostSince(before map[connection]int) (n int) {
	l.t.Helper()
	now := l.resent()
	for c, resent := range before {
		if _, open := now[c]; open {
			n += now[c] - resent
		}
	}
	return n
}

// pass lets time go by, over which nothing may happen.
func (l lab) pass(d time.Duration) {
	l.t.Helper()
	select {
	case <-time.After(d):
	case <-l.t.Context().Done():
	}
}
