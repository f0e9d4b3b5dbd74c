package main

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/kernel"
)

// All frontends of a Service are traced, and no other's; what an earlier daemon
// has traced is not.
func TestTracer(t *testing.T) {
	l, fake := newLister(t)
	traced := map[string]bool{}
	broken := errors.New("broken")
	var fails error
	tracer := tracer{l.maps, func(key datapath.FrontendKey, on bool) error {
		if fails != nil {
			return fails
		}
		if traced[key.String()] = on; !on {
			delete(traced, key.String())
		}
		return nil
	}, l.db}
	has := func(want ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(traced)); !slices.Equal(got, want) {
			t.Errorf("traced %v, want %v", got, want)
		}
	}
	must(t, tracer.trace(webpod, true))
	has("192.168.10.211:80/TCP", "[2001:db8::211]:80/TCP")
	must(t, tracer.trace(dns, true))
	must(t, tracer.trace(webpod, false))
	has("10.96.0.10:53/UDP")
	must(t, tracer.endAll()) // no entry in the map says that it is
	has("10.96.0.10:53/UDP")
	key := datapath.FrontendKey{Addr: listDNS.Addr(), Port: 53, Proto: 17}
	must(t, fake.Frontends.Update(key, datapath.FrontendEntry{Service: 2, Flags: datapath.FrontendTraced | datapath.FrontendInside}))
	must(t, tracer.endAll())
	has()
	fails = broken
	if err := tracer.trace(webpod, true); !errors.Is(err, broken) {
		t.Errorf("trace: %v", err)
	}
	if err := tracer.endAll(); !errors.Is(err, broken) {
		t.Errorf("end all: %v", err)
	}
}

func TestRefused(t *testing.T) {
	n, err := refused([]kernel.Verdict{{Reason: "nat_table", Packets: 3}, {Reason: "no_backend", Packets: 100}, {Hook: "tc-pod", Reason: "nat_ports", Packets: 4}}, nil)
	if n != 7 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := refused(nil, errors.New("broken")); err == nil {
		t.Error("no error")
	}
}
