package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

func TestResponder(t *testing.T) {
	fake := NewFakeMaps()
	r := NewResponder(fake.Maps)
	addr := netip.MustParseAddr("192.168.10.211")
	key := AnnouncedKey{Addr: addr, Ifindex: 2}
	mac, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 9}
	held := func() Held {
		t.Helper()
		all, err := r.Held()
		if err != nil || len(all) != 1 {
			t.Fatalf("held: %v, %v; want one", all, err)
		}
		return all[0]
	}
	// hear is what BPF does when a cluster node claims the address.
	hear := func() {
		t.Helper()
		e, _, _ := fake.Announced.Lookup(key)
		e.Claims, e.ClaimedAt, e.ClaimMAC, e.Muted = e.Claims+1, 5e9, MAC(other), e.Muted|MutedClaimed
		if err := fake.Announced.Update(key, e); err != nil {
			t.Fatal(err)
		}
	}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}

	must(r.Set(addr, 2, mac, 3))
	if h := held(); h.Addr != addr || h.Ifindex != 2 || h.MAC.String() != mac.String() || h.Generation != 3 || h.Muted || h.ClaimMAC != nil {
		t.Errorf("set: %+v", h)
	}
	hear()
	must(r.Set(addr, 2, mac, 3))
	if h := held(); !h.Muted || h.ClaimedAt != 5*time.Second || h.ClaimMAC.String() != other.String() {
		t.Errorf("same generation: %+v, want it as mute as it was", h)
	}
	must(r.Set(addr, 2, other, 3))
	if h := held(); !h.Muted || h.MAC.String() != other.String() {
		t.Errorf("same generation, new MAC: %+v, want it as mute as it was", h)
	}
	must(r.Unmute(addr, 2))
	if h := held(); h.Muted || h.ClaimMAC == nil {
		t.Errorf("unmuted: %+v, want the claim remembered", h)
	}
	hear()
	must(r.Set(addr, 2, mac, 4))
	if h := held(); h.Muted || h.Generation != 4 || h.ClaimMAC != nil {
		t.Errorf("next generation: %+v, want it anew", h)
	}
	must(r.Unmute(addr, 7), r.Delete(addr, 7)) // absent
	must(r.Delete(addr, 2), r.Delete(addr, 2))
	if all, err := r.Held(); err != nil || len(all) != 0 {
		t.Errorf("deleted: %v, %v", all, err)
	}
	six := netip.MustParseAddr("fd00::211")
	must(r.Set(six, 2, mac, 1))
	if h := held(); h.Addr != six {
		t.Errorf("set: %+v, want %s", h, six)
	}
	must(r.Delete(six, 2))
	must(r.Probe(addr, 2, mac, 5), r.Unmute(addr, 2))
	if h := held(); !h.Probing || h.Muted || h.Generation != 5 {
		t.Errorf("probing: %+v", h)
	}
	hear()
	must(r.Set(addr, 2, mac, 5))
	if h := held(); h.Probing || !h.Muted {
		t.Errorf("probed, and claimed meanwhile: %+v, want it mute", h)
	}
	must(r.Delete(addr, 2))
	for _, bad := range []netip.Addr{{}, netip.MustParseAddr("ff02::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("224.0.0.1")} {
		if r.Set(bad, 2, mac, 1) == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if r.Set(addr, 2, mac[:4], 1) == nil {
		t.Error("a short MAC was taken")
	}

	if until, err := r.ValidUntil(); err != nil || until != 0 {
		t.Errorf("before the first renewal: %v, %v", until, err)
	}
	must(r.Renew(7 * time.Second))
	if until, err := r.ValidUntil(); err != nil || until != 7*time.Second {
		t.Errorf("renewed: %v, %v", until, err)
	}

	must(r.SetClusterMACs([]net.HardwareAddr{mac, other}), r.SetClusterMACs([]net.HardwareAddr{other}))
	if all, err := fake.ClusterMACs.All(); err != nil || len(all) != 1 || all[MACKey{MAC: MAC(other)}] == 0 {
		t.Errorf("cluster MACs: %v, %v; want the second alone", all, err)
	}
}

type fakePrograms struct {
	attached []string
	err      error
}

func (p *fakePrograms) AttachPod(device string) error {
	if p.err == nil && !slices.Contains(p.attached, device) {
		p.attached = append(p.attached, device)
	}
	return p.err
}

func (p *fakePrograms) DetachPod(device string) error {
	p.attached = slices.DeleteFunc(p.attached, func(d string) bool { return d == device })
	return p.err
}

func TestEndpointTarget(t *testing.T) {
	fake, programs := NewFakeMaps(), &fakePrograms{}
	target := NewEndpointTarget(fake.Maps, programs)
	target.ifindex = func(device string) (int, error) {
		if device == "gone" {
			return 0, errors.New("no such device")
		}
		return len(device), nil
	}
	ctx := context.Background()
	row := func(id, addr, device, mac string) state.Endpoint {
		return state.Endpoint{ContainerID: id, Interface: "eth0", Addr: netip.MustParseAddr(addr), HostDevice: device, PodMAC: mac, HostMAC: "02:00:00:00:00:ff"}
	}
	first := row("1", "172.20.1.2", "sm1", "02:00:00:00:00:01")
	key := IPv4{172, 20, 1, 2}

	programs.err = errors.New("no BPF rights")
	if err := target.Update(ctx, first); err == nil {
		t.Error("the pod's program is not attached, and that is no error")
	}
	if all, _ := fake.Endpoints.All(); len(all) != 0 {
		t.Errorf("reachable without its program: %v", all)
	}
	programs.err = nil
	if err := errors.Join(target.Update(ctx, first), target.Update(ctx, first)); err != nil {
		t.Fatal(err)
	}
	want := EndpointEntry{Ifindex: 3, PodMAC: MAC{2, 0, 0, 0, 0, 1}, HostMAC: MAC{2, 0, 0, 0, 0, 255}}
	if got, ok, _ := fake.Endpoints.Lookup(key.Addr()); !ok || got != want || !slices.Equal(programs.attached, []string{"sm1"}) {
		t.Errorf("%+v, attached %v; want %+v on sm1", got, programs.attached, want)
	}
	for _, bad := range []state.Endpoint{row("2", "172.20.1.3", "gone", "02:00:00:00:00:01"), row("2", "172.20.1.3", "sm1", "x")} {
		if err := target.Update(ctx, bad); err == nil {
			t.Errorf("taken: %+v", bad)
		}
	}
	// The address is another pod's before the first one's delete comes.
	second := row("2", "172.20.1.2", "smsm2", "02:00:00:00:00:02")
	if err := errors.Join(target.Update(ctx, second), target.Delete(ctx, first)); err != nil {
		t.Fatal(err)
	}
	if got, ok, _ := fake.Endpoints.Lookup(key.Addr()); !ok || got.Ifindex != 5 || !slices.Equal(programs.attached, []string{"smsm2"}) {
		t.Errorf("after the first pod's delete: %+v, attached %v", got, programs.attached)
	}
	if err := fake.Endpoints.Update(netip.AddrFrom4([4]byte{172, 20, 1, 99}), want); err != nil {
		t.Fatal(err)
	}
	if err := target.Prune(ctx, []state.Endpoint{second}); err != nil {
		t.Fatal(err)
	}
	if all, _ := fake.Endpoints.All(); len(all) != 1 {
		t.Errorf("after prune: %v", all)
	}
	if err := errors.Join(target.Delete(ctx, second), target.Delete(ctx, second)); err != nil {
		t.Fatal(err)
	}
	if all, _ := fake.Endpoints.All(); len(all)+len(programs.attached) != 0 {
		t.Errorf("after delete: %v, attached %v", all, programs.attached)
	}
	// Every failure of the map is the row's.
	for n := range 3 {
		ops := fake.Ops()
		fake.Before = func(op Op) error {
			if op.N == ops+n {
				return fmt.Errorf("%s: injected failure", op)
			}
			return nil
		}
		err := target.Update(ctx, first)
		if n < 2 && err == nil {
			t.Errorf("failure of operation %d is lost", n)
		}
		fake.Before = nil
		if err := errors.Join(target.Update(ctx, first), target.Delete(ctx, first)); err != nil {
			t.Fatal(err)
		}
	}
}
