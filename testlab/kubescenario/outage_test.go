package kubescenario

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
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
	lostBefore := o.lost()
	streams, arp, probe := o.streams(60), o.watchARP(), o.probe()
	happen()
	for _, node := range nodes {
		o.leased(node)
		o.settled(node)
	}
	o.flowing(streams, pods...)
	o.flowing(o.old, pods...)
	lost := o.lost() - lostBefore
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
	if lost > strays {
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

// strays are what a busy machine adds to lost: a packet that was sent again for
// nothing, on a connection of the probe's that was closed before the other end
// said so. A cable that is pulled counts dozens.
const strays = 3

// lost is how many packets of connections were lost so far between the router
// and the pods: those that were sent again, without those of which the other
// end said that it had them already (RFC 2883), as a busy machine brings about.
func (l lab) lost() (n int) {
	l.t.Helper()
	for _, host := range append([]string{router}, pods...) {
		l.must(l.host(host).Do(func() error {
			retransmitted, err := netstat("snmp", "Tcp", "RetransSegs")
			if err != nil {
				return err
			}
			needless, err := netstat("netstat", "TcpExt", "TCPDSACKRecv")
			n += retransmitted - needless
			return err
		}))
	}
	return n
}

// netstat reads a counter of this thread's network namespace.
func netstat(file, group, name string) (int, error) {
	data, err := os.ReadFile("/proc/thread-self/net/" + file)
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if fields[0] != group+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, name); i > 0 {
			return strconv.Atoi(fields[i])
		}
	}
	return 0, fmt.Errorf("no %s of %s in /proc/net/%s", name, group, file)
}

// pass lets time go by, over which nothing may happen.
func (l lab) pass(d time.Duration) {
	l.t.Helper()
	select {
	case <-time.After(d):
	case <-l.t.Context().Done():
	}
}
