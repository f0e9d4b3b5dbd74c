package bgp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// learned is a route as a router has it from the node.
type learned struct {
	NextHop     string
	ASPath      string
	LocalPref   int
	MED         int
	Communities string // standard ones, then large ones, sorted as the router does
}

// peerDaemon is a real router's BGP, as a test asks it.
type peerDaemon interface {
	// configure starts it with the part of its configuration that is a session's.
	configure(t testing.TB, session string)
	established(neighbor string) error
	// bfd is how the BFD session with the neighbor stands, in the router's words.
	bfd(neighbor string) (string, error)
	// learned returns an error when the router does not have the route.
	learned(prefix string) (learned, error)
	// restartTime is what the neighbor has said (RFC 4724).
	restartTime(neighbor string) (time.Duration, error)
	// keeps returns an error unless the session is over and the router has its
	// route for that time.
	keeps(neighbor, prefix string) error
}

// frr is FRR's zebra, bgpd and, where the session has BFD, bfdd, with sockets and
// files of their own.
type frr struct{ in, dir string }

func (f *frr) configure(t testing.TB, session string) {
	t.Helper()
	f.dir = t.TempDir()
	run(t, "chmod 755 "+filepath.Dir(f.dir))
	run(t, "chown frr:frr "+f.dir) // FRR's programs are that user's
	conf, links := filepath.Join(f.dir, "bgpd.conf"), filepath.Join(f.dir, "zebra.conf")
	session, interfaces, _ := strings.Cut(session, "\ninterface ")
	if interfaces != "" {
		interfaces = "interface " + interfaces
	}
	if err := os.WriteFile(links, []byte(interfaces+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := "router bgp 65000\n bgp router-id 10.9.0.1\n no bgp ebgp-requires-policy\n no bgp network import-check\n" + session + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	common := fmt.Sprintf(" --vty_socket %s -z %s/zserv -P 0 --log stdout", f.dir, f.dir)
	start(t, f.in+"/usr/lib/frr/zebra -i "+f.dir+"/zebra.pid -f "+links+common)
	eventually(t, "zebra runs", func() error { _, err := os.Stat(f.dir + "/zserv"); return err })
	if strings.Contains(session, " bfd") {
		start(t, f.in+"/usr/lib/frr/bfdd -i "+f.dir+"/bfdd.pid --bfdctl "+f.dir+"/bfdctl"+common)
		eventually(t, "bfdd runs", func() error { _, err := f.show("show bfd peers json"); return err })
	}
	start(t, f.in+"/usr/lib/frr/bgpd -i "+f.dir+"/bgpd.pid -f "+conf+common)
	eventually(t, "bgpd runs", func() error { _, err := f.show("show bgp summary json"); return err })
}

func (f *frr) show(command string) ([]byte, error) {
	args := append(strings.Fields(f.in), "vtysh", "--vty_socket", f.dir, "-c", command)
	return exec.Command(args[0], args[1:]...).Output()
}

func (f *frr) established(neighbor string) error {
	out, err := f.show("show bgp neighbors " + neighbor + " json")
	if err != nil {
		return err
	}
	var neighbors map[string]struct{ BgpState, LastResetDueTo string }
	if err := json.Unmarshal(out, &neighbors); err != nil {
		return err
	}
	for _, n := range neighbors {
		if n.BgpState == "Established" {
			return nil
		}
		return fmt.Errorf("%s, last reset: %s", n.BgpState, n.LastResetDueTo)
	}
	return fmt.Errorf("no neighbor %s", neighbor)
}

// bfd is how the session stands to FRR's BGP, which follows what bfdd says.
func (f *frr) bfd(neighbor string) (string, error) {
	out, err := f.show("show bgp neighbors " + neighbor + " json")
	if err != nil {
		return "", err
	}
	var neighbors map[string]struct {
		PeerBfdInfo struct{ Type, Status string }
	}
	if err := json.Unmarshal(out, &neighbors); err != nil {
		return "", err
	}
	for _, n := range neighbors {
		return n.PeerBfdInfo.Status + ", " + n.PeerBfdInfo.Type, nil
	}
	return "", fmt.Errorf("no neighbor %s", neighbor)
}

func (f *frr) learned(prefix string) (learned, error) {
	family := "ipv4"
	if strings.Contains(prefix, ":") {
		family = "ipv6"
	}
	out, err := f.show("show bgp " + family + " unicast " + prefix + " json")
	if err != nil {
		return learned{}, err
	}
	var route struct {
		Paths []struct {
			AsPath                    struct{ String string }
			LocPrf                    *int
			Metric                    int
			Community, LargeCommunity struct{ String string }
			Nexthops                  []struct {
				IP    string
				Scope string
			}
		}
	}
	if err := json.Unmarshal(out, &route); err != nil {
		return learned{}, err
	}
	if len(route.Paths) != 1 || len(route.Paths[0].Nexthops) == 0 {
		return learned{}, fmt.Errorf("%s has %d paths", prefix, len(route.Paths))
	}
	p := route.Paths[0]
	l := learned{NextHop: p.Nexthops[0].IP, ASPath: p.AsPath.String, MED: p.Metric,
		Communities: strings.TrimSpace(p.Community.String + " " + p.LargeCommunity.String)}
	if l.ASPath == "Local" {
		l.ASPath = ""
	}
	if p.LocPrf != nil {
		l.LocalPref = *p.LocPrf
	}
	return l, nil
}

func (f *frr) restartTime(neighbor string) (time.Duration, error) {
	out, err := f.show("show bgp neighbors " + neighbor + " json")
	if err != nil {
		return 0, err
	}
	var neighbors map[string]struct {
		NeighborCapabilities struct{ GracefulRestartRemoteTimerMsecs int }
	}
	err = json.Unmarshal(out, &neighbors)
	return time.Duration(neighbors[neighbor].NeighborCapabilities.GracefulRestartRemoteTimerMsecs) * time.Millisecond, err
}

func (f *frr) keeps(neighbor, prefix string) error {
	if f.established(neighbor) == nil {
		return errors.New("there is the session")
	}
	out, err := f.show("show bgp ipv4 unicast " + prefix + " json")
	if err != nil {
		return err
	}
	var route struct{ Paths []struct{ Stale bool } }
	if err := json.Unmarshal(out, &route); err != nil {
		return err
	}
	if len(route.Paths) != 1 || !route.Paths[0].Stale {
		return fmt.Errorf("paths %+v", route.Paths)
	}
	return nil
}

// bird is BIRD 2.
type bird struct{ in, dir string }

func (b *bird) configure(t testing.TB, session string) {
	t.Helper()
	b.dir = t.TempDir()
	conf := filepath.Join(b.dir, "bird.conf")
	text := "router id 10.9.0.1;\nprotocol device {}\nprotocol direct { ipv4; ipv6; }\nprotocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; multihop { interval 100 ms; multiplier 3; }; }\n" +
		"protocol bgp node {\n local as 65000;\n connect retry time 1; connect delay time 1; error wait time 1, 2;\n" + session + "\n}\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, b.in+"/usr/sbin/bird -f -c "+conf+" -s "+b.dir+"/ctl -P "+b.dir+"/pid")
	eventually(t, "bird runs", func() error { _, err := b.show("show status"); return err })
}

func (b *bird) show(command string) (string, error) {
	args := append(strings.Fields(b.in), "birdc", "-s", b.dir+"/ctl")
	out, err := exec.Command(args[0], append(args[1:], strings.Fields(command)...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

func (b *bird) established(string) error {
	out, err := b.show(`show protocols "node*"`) // that of a range has a number
	if err == nil && !strings.Contains(out, "Established") {
		err = fmt.Errorf("%s", out)
	}
	return err
}

func (b *bird) bfd(neighbor string) (string, error) {
	out, err := b.show("show bfd sessions")
	for _, line := range strings.Split(out, "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == neighbor {
			return fields[2] + ", on " + fields[1], err
		}
	}
	return "none", err
}

var birdRestartTime = regexp.MustCompile(`(?s)Neighbor capabilities.*?Restart time: (\d+)`)

func (b *bird) restartTime(string) (time.Duration, error) {
	out, err := b.show("show protocols all node")
	if err != nil {
		return 0, err
	}
	m := birdRestartTime.FindStringSubmatch(out)
	if m == nil {
		return 0, errors.New(out)
	}
	return time.ParseDuration(m[1] + "s")
}

func (b *bird) keeps(neighbor, prefix string) error {
	if b.established(neighbor) == nil {
		return errors.New("there is the session")
	}
	out, err := b.show("show protocols all node")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "Neighbor graceful restart active") {
		return errors.New(out)
	}
	_, err = b.learned(prefix)
	return err
}

var birdAttribute = regexp.MustCompile(`BGP\.(\w+): ?(.*)`)

func (b *bird) learned(prefix string) (learned, error) {
	out, err := b.show("show route " + prefix + " all")
	if err != nil {
		return learned{}, err
	}
	if !strings.Contains(out, prefix) {
		return learned{}, fmt.Errorf("no route %s: %s", prefix, out)
	}
	var l learned
	for _, m := range birdAttribute.FindAllStringSubmatch(out, -1) {
		value := strings.TrimSpace(m[2])
		switch m[1] {
		case "next_hop":
			l.NextHop, _, _ = strings.Cut(strings.TrimPrefix(value, ":: "), " ") // the link-local one where it is alone
		case "as_path":
			l.ASPath = value
		case "local_pref":
			l.LocalPref, _ = strconv.Atoi(value)
		case "med":
			l.MED, _ = strconv.Atoi(value)
		case "community", "large_community":
			value = strings.NewReplacer("(", "", ")", "", ", ", ":", ",", ":").Replace(value)
			l.Communities = strings.TrimSpace(l.Communities + " " + value)
		}
	}
	return l, nil
}

func prefixOf(text string) netip.Prefix { return netip.MustParsePrefix(text) }
