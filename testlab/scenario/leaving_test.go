package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/seamark-lb/seamark/testlab"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Routing protocol numbers of Seamark's routes: to other nodes' pods and to its own.
const (
	protocolNode = 0x53
	protocolPod  = 0x54
)

// remains are the kinds of things that Seamark has on a node, with one of each.
func (l lab) remains(node string) map[string]string {
	l.t.Helper()
	found := map[string]string{}
	pins, err := os.ReadDir(filepath.Join(l.dir(node), "bpf"))
	l.must(err)
	for _, pin := range pins {
		if !strings.HasSuffix(pin.Name(), ".debug") { // the kernel's own
			found["pin"] = pin.Name()
		}
	}
	l.must(l.host(node).Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, dev := range links {
			name := dev.Attrs().Name
			if xdp := dev.Attrs().Xdp; xdp != nil && xdp.Attached {
				found["XDP"] = name
			}
			if strings.HasPrefix(name, "sm") {
				found["veth"] = name
			}
			for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				programs, err := link.QueryPrograms(link.QueryOptions{Target: dev.Attrs().Index, Attach: attach})
				if err != nil && !errors.Is(err, unix.EINVAL) { // no tcx in this kernel
					return fmt.Errorf("query tcx of %s: %w", name, err)
				}
				if err == nil && len(programs.Programs) > 0 {
					found["tc"] = name
				}
			}
			filters, err := netlink.FilterList(dev, netlink.HANDLE_MIN_INGRESS)
			if err == nil && len(filters) > 0 {
				found["tc"] = name
			}
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Protocol == protocolNode || r.Protocol == protocolPod {
				found["route"] = r.Dst.String()
			}
		}
		return nil
	}))
	return found
}

// TestLeaving: cleanup takes all of Seamark off the holder, and the others go
// on without it.
func TestLeaving(t *testing.T) {
	t.Parallel()
	l := upServing(t, "--restart-grace", "4s") // or the others would wait longer for it to be back
	leaver := l.holder()
	stays := other(leaver)
	cleanup := append([]string{"seamarkd", "cleanup"}, l.nodeFlags(leaver)...)

	before := l.remains(leaver)
	for _, kind := range []string{"pin", "XDP", "tc", "veth", "route"} {
		if before[kind] == "" {
			t.Errorf("no %s on %s before it leaves: this shows nothing", kind, leaver)
		}
	}
	l.refused(leaver, cleanup, "another seamarkd (process ", "stop it first")
	for kind := range before {
		if l.remains(leaver)[kind] == "" {
			t.Errorf("the cleanup that was refused removed every %s", kind)
		}
	}
	l.reaches(podCtr, podW1, podW0)

	l.must(l.SetReady(t.Context(), false, podOf[leaver])) // drained
	l.eventually("no connection leads to the leaving node", func() error {
		if n := l.slots(stays)[leaver] + l.slots(leaver)[leaver]; n > 0 {
			return fmt.Errorf("%d slots do", n)
		}
		return nil
	})
	streams := l.streams(20)
	l.daemon(leaver, testlab.Stop)
	l.run(leaver, cleanup[0], cleanup[1:]...)
	if left := l.remains(leaver); len(left) > 0 {
		t.Errorf("left on %s: %v", leaver, left)
	}
	if now := l.movedFrom(leaver); now != stays {
		t.Errorf("the VIP went to %s", now)
	}
	l.flowing(streams, podOf[stays], podW0)
	l.unbroken(streams, within, podOf[stays], podW0)
	l.reaches(podOf[stays], podW0)
	l.run(leaver, cleanup[0], cleanup[1:]...) // of nothing

	l.daemon(leaver, testlab.Start)
	l.leased(leaver)
	if back := l.remains(leaver); back["pin"] == "" || back["XDP"] == "" || back["tc"] == "" || back["route"] == "" {
		t.Errorf("after the daemon started again there is only %v", back)
	}
	l.watchQuiet(stays, stays)
}
