package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// ownNamespace is one without a name.
type ownNamespace struct{ netns.NsHandle }

// Do is Namespace's. The thread ends with its goroutine.
func (n ownNamespace) Do(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(n.NsHandle); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// newNamespace has an eth1 whose number is higher by the devices made before it.
func newNamespace(t *testing.T, before int) ownNamespace {
	t.Helper()
	made := make(chan ownNamespace)
	go func() {
		defer close(made)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		ns, err := netns.Get()
		if err != nil {
			t.Errorf("open namespace: %v", err)
			return
		}
		made <- ownNamespace{ns}
	}()
	ns, ok := <-made
	if !ok {
		t.FailNow()
	}
	t.Cleanup(func() { ns.Close() })
	err := ns.Do(func() error {
		for i := range before + 1 {
			name := fmt.Sprintf("x%d", i)
			if i == before {
				name = "eth1"
			}
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
			if err := netlink.LinkAdd(link); err != nil {
				return fmt.Errorf("add %s: %w", name, err)
			}
		}
		for _, name := range []string{"eth1p", "eth1"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// Interfaces of two namespaces have one name, and different numbers.
func TestNDWatchesOfTwoNamespaces(t *testing.T) {
	for before := range 2 {
		ns := newNamespace(t, 2*before)
		deadline := time.Now().Add(20 * time.Second)
		for linkLocal := false; !linkLocal; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no link-local address for 20s")
			}
			if err := ns.Do(func() error {
				link, err := netlink.LinkByName("eth1")
				if err != nil {
					return err
				}
				addrs, err := netlink.AddrList(link, unix.AF_INET6)
				linkLocal = len(addrs) > 0 && addrs[0].Flags&unix.IFA_F_TENTATIVE == 0
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := ns.Do(func() error { _, err := net.InterfaceByName("eth1"); return err }); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		r, err := WatchND(ctx, ns, "eth1", netip.MustParseAddr("fd00:10::211"), 10*time.Millisecond)
		cancel()
		if err != nil || len(r.Holders) > 0 {
			t.Errorf("with %d devices before: %+v, %v", 2*before, r, err)
		}
	}
}
