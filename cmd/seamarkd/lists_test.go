package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// A datapath with the Services default/webpod, of both families, and kube-system/dns.
var (
	listVIP, listVIP6 = netip.MustParseAddrPort("192.168.10.211:80"), netip.MustParseAddrPort("[2001:db8::211]:80")
	listDNS           = netip.MustParseAddrPort("10.96.0.10:53")
	listPod, listPod6 = netip.MustParseAddrPort("172.20.0.5:8080"), netip.MustParseAddrPort("[2001:db8::5]:8080")
)

func newLister(t *testing.T) (lister, *datapath.FakeMaps) {
	t.Helper()
	db, writer := state.New()
	fake := datapath.NewFakeMaps()
	put := func(at netip.AddrPort, proto state.Protocol, service state.ObjectName, number uint32) {
		writer.Update(func(tx *state.Tx) {
			db.Services.Put(tx, state.Service{Name: service})
			db.Frontends.Put(tx, state.Frontend{Addr: at.Addr(), Port: at.Port(), Protocol: proto, Service: service})
		})
		must(t, fake.Frontends.Update(datapath.FrontendKey{Addr: at.Addr(), Port: at.Port(), Proto: proto},
			datapath.FrontendEntry{Set: number, Inside: number, Service: number}))
		must(t, fake.Frontends.Update(datapath.FrontendKey{Addr: at.Addr()}, datapath.FrontendEntry{Flags: datapath.FrontendVIP}))
	}
	put(listVIP, state.TCP, webpod, 1)
	put(listVIP6, state.TCP, webpod, 1)
	put(listDNS, state.UDP, dns, 2)
	must(t, fake.Backends.Update(7, datapath.BackendEntry{Addr: listPod.Addr(), Port: listPod.Port()}))
	return lister{fake.Maps, db}, fake
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// listed are the rows of a table as JSON, one a line.
func listed(t *testing.T, l lister, table string, query control.ListQuery) (lines []string, more int) {
	t.Helper()
	more, err := l.list(t.Context(), table, query, func(row any) error {
		data, err := json.Marshal(row)
		lines = append(lines, string(data))
		return err
	})
	must(t, err)
	return lines, more
}

func TestLists(t *testing.T) {
	l, fake := newLister(t)
	now := collect.Now()
	ago := func(seconds uint32) uint32 { return now - seconds } // to a few ticks
	client, client6 := netip.MustParseAddrPort("10.10.1.200:40000"), netip.MustParseAddrPort("[2001:db8:1::200]:40000")
	flow := func(pod, client, vip netip.AddrPort, flags uint8) (datapath.FlowKey, datapath.FlowEntry) {
		return datapath.FlowKey{Pod: pod.Addr(), PodPort: pod.Port(), Client: client.Addr(), ClientPort: client.Port(), Proto: state.TCP},
			datapath.FlowEntry{VIP: vip.Addr(), Port: vip.Port(), Flags: flags, Seen: ago(100)}
	}
	update := func(m datapath.Map[datapath.FlowKey, datapath.FlowEntry], k datapath.FlowKey, v datapath.FlowEntry) {
		must(t, m.Update(k, v))
	}
	k, v := flow(listPod, client, listVIP, datapath.FlowReplied)
	update(fake.Flows, k, v)
	k, v = flow(listPod6, client6, listVIP6, datapath.FlowClosing)
	update(fake.Flows, k, v)
	k, v = flow(listPod, netip.MustParseAddrPort("10.10.1.9:1"), listVIP, 0)
	update(fake.HalfOpen, k, v)
	k, v = flow(listPod, client, netip.MustParseAddrPort("192.0.2.1:80"), 0) // of a frontend that is gone
	update(fake.HalfOpen, k, v)

	translated, backend := netip.MustParseAddrPort("192.168.10.100:61000"), netip.MustParseAddrPort("172.20.1.7:53")
	must(t, fake.NATOut.Update(datapath.Tuple{Src: client, Dst: listDNS, Proto: state.UDP}, datapath.NATEntry{Src: translated, Dst: backend, Seen: ago(10)}))
	must(t, fake.NATIn.Update(datapath.Tuple{Src: backend, Dst: translated, Proto: state.UDP},
		datapath.NATEntry{Src: listDNS, Dst: client, Seen: ago(100), Flags: datapath.NATReplied | datapath.NATInside}))
	must(t, fake.Pins.Update(datapath.Tuple{Src: client, Dst: listVIP, Proto: state.TCP}, datapath.Pin{Backend: 7, Seen: ago(100), Flags: datapath.FlowReplied}))
	must(t, fake.Affinity.Update(datapath.AffinityKey{Client: client.Addr(), Service: 2}, datapath.AffinityEntry{Backend: 7, Seen: ago(100)}))
	must(t, fake.Affinity.Update(datapath.AffinityKey{Client: client.Addr(), Service: 99}, datapath.AffinityEntry{Backend: 99, Seen: ago(100)}))
	must(t, fake.Sources.Update(datapath.SourceKey{Service: 1, Prefix: netip.MustParsePrefix("10.10.0.0/16")}, 1))
	must(t, fake.Fragments.Update(datapath.FragmentKey{Src: client.Addr(), Dst: listDNS.Addr(), ID: 9, Proto: state.UDP}, datapath.FragmentEntry{Sport: 5, Dport: 53, Seen: ago(100), Proto: state.UDP}))
	must(t, fake.Sets.Update(1, datapath.BackendSet{Size: [3]uint32{3}}))
	must(t, fake.Tables.Write(map[uint32][]uint32{4: {7, 7 | datapath.SlotMoved, 8}}))

	for _, tc := range []struct {
		table string
		query control.ListQuery
		want  []string
		more  int
	}{
		{control.TableFlows, control.ListQuery{Limit: 10}, []string{
			`{"client":"10.10.1.200:40000","frontend":"192.0.2.1:80","pod":"172.20.0.5:8080","protocol":"TCP","state":"half-open","idleSeconds":107}`,
			`{"client":"10.10.1.9:1","frontend":"192.168.10.211:80","pod":"172.20.0.5:8080","protocol":"TCP","state":"half-open","idleSeconds":107,"service":"default/webpod"}`,
			`{"client":"10.10.1.200:40000","frontend":"192.168.10.211:80","pod":"172.20.0.5:8080","protocol":"TCP","state":"established","idleSeconds":107,"service":"default/webpod"}`,
			`{"client":"[2001:db8:1::200]:40000","frontend":"[2001:db8::211]:80","pod":"[2001:db8::5]:8080","protocol":"TCP","state":"closing","idleSeconds":107,"service":"default/webpod"}`,
		}, 0},
		{control.TableFlows, control.ListQuery{Limit: 1, Service: webpod}, []string{
			`{"client":"10.10.1.9:1","frontend":"192.168.10.211:80","pod":"172.20.0.5:8080","protocol":"TCP","state":"half-open","idleSeconds":107,"service":"default/webpod"}`,
		}, 2},
		{control.TableNAT, control.ListQuery{Limit: 10}, []string{
			`{"client":"10.10.1.200:40000","frontend":"10.96.0.10:53","source":"192.168.10.100:61000","backend":"172.20.1.7:53","protocol":"UDP","state":"established","inside":true,"idleSeconds":10,"service":"kube-system/dns"}`,
		}, 0},
		{control.TablePins, control.ListQuery{Limit: 10}, []string{
			`{"client":"10.10.1.200:40000","frontend":"192.168.10.211:80","backend":"172.20.0.5:8080","protocol":"TCP","state":"established","idleSeconds":107,"service":"default/webpod"}`,
		}, 0},
		{control.TableAffinity, control.ListQuery{Limit: 10}, []string{
			`{"client":"10.10.1.200","backend":"","idleSeconds":107}`,
			`{"client":"10.10.1.200","backend":"172.20.0.5:8080","idleSeconds":107,"service":"kube-system/dns"}`,
		}, 0},
		{control.TableSources, control.ListQuery{}, []string{`{"prefix":"10.10.0.0/16","service":"default/webpod"}`}, 0},
		{control.TableSources, control.ListQuery{Service: dns}, nil, 0},
		{control.TableFragments, control.ListQuery{Limit: 10}, []string{
			`{"source":"10.10.1.200:5","destination":"10.96.0.10:53","id":9,"protocol":"UDP","idleSeconds":107,"service":"kube-system/dns"}`,
		}, 0},
		{control.TableMaglev, control.ListQuery{Limit: 1}, []string{
			`{"frontend":"10.96.0.10:53","protocol":"UDP","set":2,"slots":0,"backends":0,"moved":0,"service":"kube-system/dns"}`,
		}, 2},
		{control.TableMaglev, control.ListQuery{Limit: 1, Service: webpod}, []string{
			`{"frontend":"192.168.10.211:80","protocol":"TCP","set":1,"slots":3,"backends":1,"moved":1,"service":"default/webpod"}`,
		}, 1},
	} {
		lines, more := listed(t, l, tc.table, tc.query)
		for i := range lines { // the clock goes on meanwhile
			lines[i] = strings.NewReplacer(`Seconds":108`, `Seconds":107`, `Seconds":109`, `Seconds":107`, `Seconds":11`, `Seconds":10`).Replace(lines[i])
		}
		if !slices.Equal(lines, tc.want) || more != tc.more {
			t.Errorf("%s %+v: %d more, and\n%s\nwant %d more, and\n%s", tc.table, tc.query, more, strings.Join(lines, "\n"), tc.more, strings.Join(tc.want, "\n"))
		}
	}
	if _, err := l.list(t.Context(), "rain", control.ListQuery{}, nil); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("unknown table: %v", err)
	}
}

// Whatever the order in which rows come, the first ones are listed, in order.
func TestListLimit(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		n, limit := random.IntN(100), 1+random.IntN(30)
		var got []int
		l := &listing{ctx: t.Context(), query: control.ListQuery{Limit: limit}, row: func(row any) error { got = append(got, row.(int)); return nil }}
		r := newRows(l, func(a, b int) int { return a - b })
		for _, i := range random.Perm(n) {
			r.add(i, webpod)
			if len(r.kept) > 2*limit {
				t.Fatalf("%d rows are kept for %d", len(r.kept), limit)
			}
		}
		must(t, r.end())
		for i, row := range got {
			if row != i {
				t.Fatalf("%d of %d: %v", limit, n, got)
			}
		}
		if len(got) != min(n, limit) || l.more != n-len(got) {
			t.Fatalf("%d of %d: %d listed, %d more", limit, n, len(got), l.more)
		}
	}
}

// A list that nobody reads any more, or that fails, ends.
func TestListEnds(t *testing.T) {
	l, fake := newLister(t)
	for i := range 5000 {
		must(t, fake.Pins.Update(datapath.Tuple{Src: netip.AddrPortFrom(listPod.Addr(), uint16(i)), Dst: listVIP, Proto: state.TCP}, datapath.Pin{}))
	}
	gone := fmt.Errorf("gone")
	written := 0
	_, err := l.list(t.Context(), control.TablePins, control.ListQuery{}, func(any) error { written++; return gone })
	if !errors.Is(err, gone) || written != 1 {
		t.Errorf("%d written to one who is gone: %v", written, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.list(ctx, control.TablePins, control.ListQuery{Limit: 10}, func(any) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a list for one who is gone: %v", err)
	}
	fake.Before = func(op datapath.Op) error {
		if op.Map == "pins" {
			return gone
		}
		return nil
	}
	if _, err := l.list(t.Context(), control.TablePins, control.ListQuery{Limit: 10}, func(any) error { return nil }); !errors.Is(err, gone) {
		t.Errorf("a list of a map that fails: %v", err)
	}
}

// Of one Service there is what it is made of, and nothing else's.
func TestDumpOfService(t *testing.T) {
	l, fake := newLister(t)
	for set, backends := range map[uint32][]uint32{1: {7, 7, 7}, 2: {8, 8, 8}} {
		must(t, fake.Sets.Update(set, datapath.BackendSet{Size: [3]uint32{3}}))
		must(t, fake.Tables.Write(map[uint32][]uint32{4 * set: backends}))
	}
	must(t, fake.Backends.Update(7, datapath.BackendEntry{Addr: listPod.Addr(), Port: listPod.Port(), NextHop: 3}))
	must(t, fake.Backends.Update(8, datapath.BackendEntry{Addr: listPod.Addr(), Port: 53, NextHop: 4}))
	for hop := range uint32(2) {
		must(t, fake.NextHops.Update(3+hop, datapath.NextHopEntry{Ifindex: 2 + hop}))
	}
	for _, vip := range []netip.AddrPort{listVIP, listDNS} {
		must(t, fake.LocalTargets.Update(datapath.LocalKey{VIP: vip.Addr(), Pod: listPod.Addr(), Port: vip.Port(), Proto: state.TCP}, datapath.LocalTarget{Port: 9}))
		must(t, fake.Announced.Update(datapath.AnnouncedKey{Addr: vip.Addr(), Ifindex: 2}, datapath.AnnouncedEntry{}))
	}
	must(t, fake.Sources.Update(datapath.SourceKey{Service: 1, Prefix: netip.MustParsePrefix("10.10.0.0/16")}, 1))
	must(t, fake.Sources.Update(datapath.SourceKey{Service: 2, Prefix: netip.MustParsePrefix("10.20.0.0/16")}, 1))
	must(t, fake.Announcer.Update(0, datapath.AnnouncerEntry{ValidUntil: 1}))
	var all, one strings.Builder
	must(t, l.dump(&all, state.ObjectName{}))
	if err := l.dump(&one, state.ObjectName{Namespace: "default", Name: "other"}); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("dump of no Service: %v", err)
	}
	must(t, l.dump(&one, webpod))
	want := []string{
		"frontend 192.168.10.211", "frontend 192.168.10.211:80/TCP", "frontend 2001:db8::211", "frontend [2001:db8::211]:80/TCP",
		"source service=1", "set 1", "maglev 1", "backend 7", "next-hop 3", "local-target 192.168.10.211:80/TCP", "announced 192.168.10.211",
	}
	var got []string
	for line := range strings.Lines(one.String()) {
		if !strings.Contains(all.String(), line) {
			t.Errorf("only in the dump of one: %s", line)
		}
		got = append(got, line)
	}
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), one.String())
	}
	for i, prefix := range want {
		if !strings.HasPrefix(got[i], prefix+" ") {
			t.Errorf("line %d is %q, want %s", i, got[i], prefix)
		}
	}
	if missing := []string{"backend 8", "next-hop 4", "announcer", "source service=2"}; slices.ContainsFunc(missing, func(s string) bool { return !strings.Contains(all.String(), s) }) {
		t.Errorf("the dump of all lacks some of %q:\n%s", missing, all.String())
	}
}
