package bfd

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// router is another implementation, on b of a pair.
type router struct {
	*host
	dir string
	// view is how it sees the session with 192.0.2.1 (or 10.0.0.1, over several
	// hops): its state in upper case, and its own words for why it is down.
	view func() (phase, why string)
	// retime gives it other intervals.
	retime func(d time.Duration)
}

// start runs a daemon there until the test is over.
func (r *router) start(args ...string) {
	r.t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		r.t.Skipf("%s is not installed (apt-get install frr bird2)", args[0])
	}
	cmd := exec.Command(args[0], args[1:]...)
	log, err := os.Create(filepath.Join(r.dir, filepath.Base(args[0])+".log"))
	if err != nil {
		r.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.must(cmd.Start)
	r.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(log.Name()); err == nil && r.t.Failed() {
			r.t.Logf("%s says:\n%s", args[0], text)
		}
	})
}

func (r *router) write(name, content string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// try runs a command there that may fail.
func (r *router) try(args ...string) string {
	var out []byte
	r.must(func() error {
		out, _ = exec.Command(args[0], args[1:]...).CombinedOutput()
		return nil
	})
	return string(out)
}

func (r *router) wait(what string, is func(phase, why string) bool) {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		phase, why := r.view()
		if is(phase, why) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("it sees %s (%s), want %s", phase, why, what)
		}
		time.Sleep(20 * ms)
	}
}

// frr runs FRR's bfdd, with the zebra that tells it of interfaces.
func frr(t *testing.T, h *host, peer string) *router {
	r := &router{host: h, dir: socketDir(t)}
	r.giveTo("frr") // which the daemons become
	common := func(name string) []string {
		return []string{"--vty_socket", r.dir, "-z", filepath.Join(r.dir, "zserv.api"),
			"-i", filepath.Join(r.dir, name+".pid"), "-P", "0", "--log", "stdout"}
	}
	config := func(d time.Duration) []string {
		return []string{"configure terminal", "bfd", "peer " + peer, fmt.Sprintf("receive-interval %d", d.Milliseconds()),
			fmt.Sprintf("transmit-interval %d", d.Milliseconds()), "detect-multiplier 3", "no shutdown"}
	}
	r.start(append([]string{"/usr/lib/frr/zebra", "-f", r.write("zebra.conf", "")}, common("zebra")...)...)
	r.start(append([]string{"/usr/lib/frr/bfdd", "-f", r.write("bfdd.conf", "bfd\n peer "+peer+
		"\n  receive-interval 200\n  transmit-interval 200\n  detect-multiplier 3\n  no shutdown\n"),
		"--bfdctl", filepath.Join(r.dir, "bfdd.sock")}, common("bfdd")...)...)
	vtysh := func(commands ...string) string {
		args := []string{"vtysh", "--vty_socket", r.dir, "-d", "bfdd"}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		return r.try(args...)
	}
	r.retime = func(d time.Duration) { vtysh(config(d)...) }
	r.view = func() (string, string) {
		var peers []struct{ Status, Diagnostic string }
		out := vtysh("show bfd peers json")
		if err := json.Unmarshal([]byte(out), &peers); err != nil || len(peers) != 1 {
			return "?", out
		}
		return strings.ToUpper(peers[0].Status), peers[0].Diagnostic
	}
	return r
}

// bird runs BIRD.
func bird(t *testing.T, h *host, protocol, neighbor string) *router {
	r := &router{host: h, dir: socketDir(t)}
	config := func(d time.Duration) string {
		return fmt.Sprintf(`log stderr all;
router id 192.0.2.2;
protocol device {}
protocol bfd {
	%s { interval %d ms; multiplier 3; };
	neighbor %s;
}
`, protocol, d.Milliseconds(), neighbor)
	}
	conf, ctl := r.write("bird.conf", config(every)), filepath.Join(r.dir, "bird.ctl")
	r.start("bird", "-f", "-c", conf, "-s", ctl)
	r.retime = func(d time.Duration) {
		r.write("bird.conf", config(d))
		r.run("birdc", "-s", ctl, "configure")
	}
	line := regexp.MustCompile(`(?m)^(?:192\.0\.2\.1|10\.0\.0\.1)\s+\S+\s+(\S+)`)
	r.view = func() (string, string) {
		out := r.try("birdc", "-s", ctl, "show bfd sessions")
		found := line.FindStringSubmatch(out)
		if found == nil {
			return "?", out
		}
		return strings.ToUpper(found[1]), ""
	}
	return r
}

// socketDir is a directory whose path is short enough for a socket's.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bfd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// giveTo makes the directory the user's, if there is such a user.
func (r *router) giveTo(name string) {
	if who, err := user.Lookup(name); err == nil {
		uid, _ := strconv.Atoi(who.Uid)
		gid, _ := strconv.Atoi(who.Gid)
		r.must(func() error { return os.Chown(r.dir, uid, gid) })
	}
}

func phaseIs(want string) func(string, string) bool {
	return func(phase, _ string) bool { return phase == want }
}

// cut has the link lose all packets while both ends have carrier: they are for
// nobody there.
func cut(a, b *host) {
	nobody := []string{"lladdr", "02:00:00:00:00:99", "dev", "eth1", "nud", "permanent"}
	a.run(append([]string{"ip", "neigh", "replace", "192.0.2.2"}, nobody...)...)
	b.run(append([]string{"ip", "neigh", "replace", "192.0.2.1"}, nobody...)...)
}

func mend(a, b *host) {
	a.run("ip", "neigh", "del", "192.0.2.2", "dev", "eth1")
	b.run("ip", "neigh", "del", "192.0.2.1", "dev", "eth1")
}

// What FRR and BIRD make of our packets, as they tell it themselves, and we of theirs.
func TestInterop(t *testing.T) {
	single := func(s *system) state.BFDSession { return s.row("192.0.2.1", "192.0.2.2") }
	multihop := func(s *system) state.BFDSession {
		for _, add := range [][]string{{"addr", "add", "10.0.0.1/32", "dev", "lo"}, {"route", "add", "10.0.0.2/32", "via", "192.0.2.2", "src", "10.0.0.1"}} {
			s.run(append([]string{"ip"}, add...)...)
		}
		row := s.row("10.0.0.1", "10.0.0.2")
		row.Interface, row.Ifindex, row.Multihop, row.MinTTL = "", 0, true, 60 // BIRD sends 64, FRR 255
		return row
	}
	far := func(h *host) {
		h.run("ip", "addr", "add", "10.0.0.2/32", "dev", "lo")
		h.run("ip", "route", "add", "10.0.0.1/32", "via", "192.0.2.1", "src", "10.0.0.2")
	}
	for _, tc := range []struct {
		name string
		row  func(*system) state.BFDSession
		peer func(*testing.T, *host) *router
	}{
		{"FRR", single, func(t *testing.T, h *host) *router {
			return frr(t, h, "192.0.2.1 local-address 192.0.2.2 interface eth1")
		}},
		{"FRR multihop", multihop, func(t *testing.T, h *host) *router {
			far(h)
			return frr(t, h, "10.0.0.1 multihop local-address 10.0.0.2")
		}},
		{"BIRD", single, func(t *testing.T, h *host) *router {
			return bird(t, h, `interface "eth1"`, `192.0.2.1 dev "eth1" local 192.0.2.2`)
		}},
		{"BIRD multihop", multihop, func(t *testing.T, h *host) *router {
			far(h)
			return bird(t, h, "multihop", "10.0.0.1 local 10.0.0.2 multihop on")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			hostA, hostB := pair(t)
			a := newSystem(t, hostA)
			row := tc.row(a)
			peer := tc.peer(t, hostB)
			a.update(row)
			a.wait(row, "up", 20*time.Second, state.BFDState.Up)
			peer.wait("UP", phaseIs("UP"))
			a.wait(row, "settled", patience, func(s state.BFDState) bool { return s.Tx == every && s.Detect == 3*every })

			// Intervals change by a poll of ours, and one of theirs.
			slower := row
			slower.MinTx, slower.MinRx, slower.Multiplier = 400*ms, 300*ms, 5
			a.update(slower)
			a.wait(row, "slower", patience, func(s state.BFDState) bool { return s.Tx == 400*ms && s.Detect == 3*300*ms })
			peer.retime(800 * ms)
			a.wait(row, "slower by the other's wish", patience, func(s state.BFDState) bool { return s.Tx == 800*ms && s.Detect == 3*800*ms })
			peer.retime(every)
			a.update(row)
			got := a.wait(row, "fast again", patience, func(s state.BFDState) bool { return s.Tx == every && s.Detect == 3*every })
			if got.Flaps != 0 {
				t.Errorf("%+v: other intervals brought it down", got)
			}

			cut(hostA, hostB)
			a.wait(row, "lost", patience, state.BFDState.Lost)
			peer.wait("DOWN", phaseIs("DOWN"))
			mend(hostA, hostB)
			a.wait(row, "up again", 20*time.Second, state.BFDState.Up)
			peer.wait("UP", phaseIs("UP"))

			a.stop()
			<-a.done
			peer.wait("DOWN, and not for silence", func(phase, why string) bool {
				return phase == "DOWN" && !strings.Contains(why, "expired")
			})
		})
	}
}
