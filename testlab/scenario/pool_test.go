package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// services is a manifest of Services of type LoadBalancer.
func services(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: default}\nspec:\n  type: LoadBalancer\n  ports: [{name: http, port: 80}]\n", name)
	}
	return b.String()
}

// service is a Service's address ("": none) and the reason of its condition.
func (l lab) service(name string) (address, reason string) {
	l.t.Helper()
	var s struct {
		Status struct {
			LoadBalancer struct{ Ingress []struct{ IP string } }
			Conditions   []struct{ Type, Status, Reason string }
		}
	}
	l.must(l.tryJSON(&s, api, "get", "service", name))
	if in := s.Status.LoadBalancer.Ingress; len(in) > 0 {
		address = in[0].IP
	}
	for _, c := range s.Status.Conditions {
		if c.Type == "seamark.dev/IPAMRequestSatisfied" {
			reason = c.Reason
		}
	}
	return address, reason
}

// available waits until the demo's pool has that many addresses left.
func (l lab) available(want string) {
	l.t.Helper()
	l.eventually("the pool has "+want+" addresses left", func() error {
		var pool struct{ Status struct{ Available string } }
		if err := l.tryJSON(&pool, api, "get", "ippool", "lab"); err != nil {
			return err
		}
		if pool.Status.Available != want {
			return fmt.Errorf("it has %s", pool.Status.Available)
		}
		return nil
	})
}

// rows are the lines of `seamark bpf lb list` of the given kinds.
func (l lab) rows(node string, kinds ...string) []string {
	l.t.Helper()
	return slices.DeleteFunc(strings.Split(l.seamark(node, "bpf", "lb", "list"), "\n"), func(line string) bool {
		kind, _, _ := strings.Cut(line, " ")
		return !slices.Contains(kinds, kind)
	})
}

// TestPool: six Services for five addresses, and what becomes of the sixth.
func TestPool(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	l.apply(services("s2", "s3", "s4", "s5", "s6"))
	addressOf := map[string]string{}
	var pool []string
	for i, name := range []string{"webpod", "s2", "s3", "s4", "s5"} {
		want := netip.AddrFrom4([4]byte{192, 168, 10, byte(211 + i)}).String() // the lowest free first
		pool = append(pool, want)
		l.eventually(name+" has its address, and it is announced", func() error {
			address, reason := l.service(name)
			addressOf[name] = address
			if address != want || reason != "Satisfied" {
				return fmt.Errorf("address %q, %s; want %s", address, reason, want)
			}
			_, err := l.tryHolder(api, address)
			return err
		})
	}
	l.available("0")
	l.eventually("the sixth is told why it has none", func() error {
		if address, reason := l.service("s6"); address != "" || reason != "PoolExhausted" {
			return fmt.Errorf("address %q, %s", address, reason)
		}
		return nil
	})
	if out := l.seamark(ctr, "describe", "service", "s6"); !strings.Contains(out, "PoolExhausted") || !strings.Contains(out, "add a block, or release an address") {
		t.Errorf("the sixth:\n%s", out)
	}
	held := map[string]int{}
	for _, address := range pool {
		node, err := l.tryHolder(api, address)
		l.must(err)
		held[node]++
	}
	t.Logf("addresses by node: %v", held)
	if held[ctr] < 2 || held[w1] < 2 {
		t.Errorf("five addresses are spread %v", held)
	}
	l.answers()

	l.seamark(api, "delete", "service", "s3")
	l.eventually("the sixth has the address that became free", func() error {
		address, reason := l.service("s6")
		if address != addressOf["s3"] || reason != "Satisfied" {
			return fmt.Errorf("address %q, %s; want %s", address, reason, addressOf["s3"])
		}
		_, err := l.tryHolder(api, address)
		return err
	})
	for _, name := range []string{"webpod", "s2", "s4", "s5"} {
		if address, _ := l.service(name); address != addressOf[name] {
			t.Errorf("%s moved from %s to %s", name, addressOf[name], address)
		}
	}

	// An address is withdrawn before its rows go. The coordinator, who has to
	// withdraw it, hangs, so that there is time to see that they stay. (A dump
	// reads frontends before what is announced: also in it the one outlives the
	// other.)
	l.coordinate(w0) // it holds no address
	gone := addressOf["s4"]
	holder, err := l.tryHolder(api, gone)
	l.must(err)
	l.eventually("the holder announces it", func() error {
		if !slices.ContainsFunc(l.rows(holder, "announced"), func(row string) bool { return strings.HasPrefix(row, "announced "+gone+" ") }) {
			return fmt.Errorf("%q", l.rows(holder, "announced"))
		}
		return nil
	})
	l.daemon(w0, testlab.Pause)
	l.seamark(api, "delete", "service", "s4")
	l.eventually("the holder neither announces nor serves the deleted Service", func() error {
		rows := l.rows(holder, "frontend", "announced")
		announced := slices.ContainsFunc(rows, func(row string) bool { return strings.HasPrefix(row, "announced "+gone+" ") })
		served := slices.ContainsFunc(rows, func(row string) bool { return strings.HasPrefix(row, "frontend "+gone+":80/") })
		if announced && !served {
			t.Fatalf("announced without a frontend: %q", rows)
		}
		if announced || slices.ContainsFunc(rows, func(row string) bool { return strings.Contains(row, " "+gone) }) {
			return fmt.Errorf("%q", rows)
		}
		return nil
	})
	l.daemon(w0, testlab.Resume)
	l.leased(w0)
	l.available("1")

	l.seamark(api, "delete", "service", "webpod", "s2", "s5", "s6")
	l.available("5")
	for _, node := range nodes {
		l.eventually(node+" serves nothing", func() error { // what connections use drains for longer
			if rows := l.rows(node, "frontend", "announced"); len(rows) > 0 {
				return fmt.Errorf("%q", rows)
			}
			return nil
		})
	}
	l.eventually("no announcement is left", func() error {
		if out := l.announcements(ctr); strings.Contains(out, `"address"`) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if r := l.watchARPFor(quiet); len(r.Holders) > 0 {
		t.Errorf("somebody answers for an address that is no one's: %s", r)
	}
}
