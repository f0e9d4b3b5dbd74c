package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// receives waits until the speaker has been sent exactly these, of the prefixes
// that are taken.
func receives(t *testing.T, s *Speaker, want string) {
	t.Helper()
	taken := map[string][]state.BGPImport{"router": {taking("172.20.0.0/16", 24, 24), taking("fd00:20::/32", 48, 64)}}
	eventually(t, "there is received "+want, func() error {
		rows, err := s.Received(t.Context(), taken)
		if err != nil {
			return err
		}
		var lines []string
		for _, r := range rows {
			lines = append(lines, fmt.Sprintf("%s by %v path %v med %d", r.Prefix, r.NextHops[0], r.ASPath, r.MED))
		}
		if got := strings.Join(lines, "; "); got != want {
			return errors.New(got)
		}
		return nil
	})
}

// What routers announce is received, of the families and lengths that are taken;
// it goes with the session, and a session with graceful restart keeps it.
func TestImportInterop(t *testing.T) {
	needRouters(t)
	const both = "172.20.2.0/24 by 10.9.0.1 path [65000] med 0; fd00:20:2::/64 by fd09::1 path [65000] med 0"
	networks4, networks6 := "\n network 172.20.2.0/24\n network 172.20.3.0/25\n network 10.1.0.0/16", "\n network fd00:20:2::/64\n network fd00:99::/64"
	frrConfig := func(more ...string) string {
		config := frrNeighbor(plain, "65001", more...)
		config = strings.Replace(config, " address-family ipv4 unicast", " address-family ipv4 unicast"+networks4, 1)
		return strings.Replace(config, " address-family ipv6 unicast", " address-family ipv6 unicast"+networks6, 1)
	}
	session := state.BGPSession{Instance: "tor", Peer: "router", Remote: netip.MustParseAddr("10.9.0.1"), RemotePort: 179,
		ASN: state.BGPPeerASN{Number: 65000}, IPv4: true, IPv6: true, NextHop6: netip.MustParseAddr("fd09::2"),
		BGPSessionConfig: state.BGPSessionConfig{ConnectRetry: time.Second, Hold: 9 * time.Second}}
	identity := state.BGPIdentity{ASN: 65001, RouterID: netip.MustParseAddr("10.9.0.2")}

	t.Run("FRR", func(t *testing.T) {
		router := &frr{in: wire(t)}
		router.configure(t, frrConfig())
		speaker := speak(t, identity)
		update(t, speaker.Sessions(), session)
		receives(t, speaker, both)
		select { // it has been told, for whoever waits
		case <-speaker.told:
		case <-time.After(10 * time.Second):
			t.Error("nobody is told of what comes")
		}
		if _, err := router.show("configure terminal\nrouter bgp 65000\naddress-family ipv6 unicast\nno network fd00:20:2::/64"); err != nil {
			t.Fatal(err)
		}
		receives(t, speaker, "172.20.2.0/24 by 10.9.0.1 path [65000] med 0")
		router.kill(t)
		receives(t, speaker, "")
	})
	t.Run("FRR, graceful restart", func(t *testing.T) {
		router := &frr{in: wire(t)}
		router.configure(t, " bgp graceful-restart\n bgp graceful-restart restart-time 4\n"+frrConfig())
		speaker := speak(t, identity)
		s := session
		s.GracefulRestart = time.Minute
		update(t, speaker.Sessions(), s)
		receives(t, speaker, both)
		eventually(t, "the router has sent all", func() error {
			states, err := speaker.States(t.Context())
			if err == nil && (len(states) != 1 || !states[0].Told) {
				err = fmt.Errorf("%+v", states)
			}
			return err
		})
		router.kill(t)
		eventually(t, "the session is down", func() error {
			states, err := speaker.States(t.Context())
			if err == nil && (len(states) != 1 || states[0].State == state.BGPEstablished) {
				err = fmt.Errorf("%+v", states)
			}
			return err
		})
		receives(t, speaker, both)
		receives(t, speaker, "") // its restart time is over
	})
	t.Run("FRR, by link-local addresses", func(t *testing.T) {
		router := &frr{in: wire(t)}
		run(t, router.in+"ip -6 addr del fd09::1/64 dev node") // which would be the next hop
		here, there := linkLocal(t, "", "tor"), linkLocal(t, router.in, "node")
		config := strings.ReplaceAll(frrConfig("interface node", "capability extended-nexthop"), plain, here.String())
		router.configure(t, config)
		speaker := speak(t, state.BGPIdentity{ASN: 65001, RouterID: identity.RouterID})
		s := session
		s.Remote, s.NextHop6 = there.WithZone("tor"), netip.Addr{}
		update(t, speaker.Sessions(), s)
		eventually(t, "routes have a next hop on the interface", func() error {
			rows, err := speaker.Received(t.Context(), map[string][]state.BGPImport{"router": {taking("172.20.0.0/16", 24, 24)}})
			if err == nil && (len(rows) != 1 || rows[0].NextHops[len(rows[0].NextHops)-1] != there.WithZone("tor")) {
				err = fmt.Errorf("%+v", rows)
			}
			return err
		})
	})
	t.Run("BIRD", func(t *testing.T) {
		router := &bird{in: wire(t)}
		exporting := strings.ReplaceAll(birdNeighbor(plain, "65001"), "export none", "export where source = RTS_STATIC")
		router.configure(t, exporting+"\n}\nprotocol static { ipv4; route 172.20.2.0/24 blackhole; route 172.20.0.0/20 blackhole; }\n"+
			"protocol static { ipv6; route fd00:20:2::/64 blackhole;")
		speaker := speak(t, identity)
		update(t, speaker.Sessions(), session)
		receives(t, speaker, both)
	})
}

// linkLocal is the link-local address of an interface.
func linkLocal(t *testing.T, in, device string) netip.Addr {
	t.Helper()
	for word := range strings.FieldsSeq(run(t, in+"ip -6 -o address show scope link dev "+device)) {
		if p, err := netip.ParsePrefix(word); err == nil {
			return p.Addr()
		}
	}
	t.Fatalf("%s has no link-local address", device)
	return netip.Addr{}
}

// kill ends FRR's bgpd as a crash does.
func (f *frr) kill(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(f.dir + "/bgpd.pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
