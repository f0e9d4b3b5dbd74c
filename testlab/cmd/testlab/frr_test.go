package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// TestFRR: each lab's router runs FRR of its own, which faults happen to as to a
// daemon, and of which nothing is left.
func TestFRR(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/usr/lib/frr/bgpd"); err != nil {
		t.Skipf("needs FRR: apt-get install frr: %v", err)
	}
	plan, err := testlab.ReadTopology("bgp")
	if err != nil {
		t.Fatal(err)
	}
	var labs []*testlab.Lab
	t.Cleanup(func() {
		for _, l := range labs {
			if err := l.Down(); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		l, err := testlab.Up(t.Context(), testlab.Config{Name: newLabName(), Topology: plan, NoDaemons: true, BinDir: filepath.Dir(mustLookPath(t))})
		if err != nil {
			t.Fatal(err)
		}
		labs = append(labs, l)
	}
	vtysh := func(l *testlab.Lab, command string) string {
		t.Helper()
		router, err := l.Host("router")
		if err != nil {
			t.Fatal(err)
		}
		out, err := router.Command(t.Context(), "vtysh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("vtysh -c %q: %v: %s", command, err, out)
		}
		return string(out)
	}
	// What one is told, the other does not hear.
	vtysh(labs[0], "configure terminal\nrouter bgp 65000\nneighbor 192.168.10.7 remote-as 65007")
	for i, want := range []bool{true, false} {
		if got := strings.Contains(vtysh(labs[i], "show running-config"), "192.168.10.7"); got != want {
			t.Errorf("FRR of lab %d has the neighbor: %v, want %v", i, got, want)
		}
	}

	l := labs[0]
	scratches := scratchesOf(t, l)
	if err := l.Daemon(t.Context(), "router", testlab.Kill); err != nil {
		t.Fatal(err)
	}
	if err := l.Daemon(t.Context(), "router", testlab.Start); err != nil {
		t.Fatal(err)
	}
	scratches = append(scratches, scratchesOf(t, l)...)
	if out := vtysh(l, "show running-config"); !strings.Contains(out, "bgp listen range 192.168.10.0/24") || strings.Contains(out, "192.168.10.7") {
		t.Errorf("after a restart it is not as configured:\n%s", out)
	}
	if err := l.PowerOff("router"); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOn(t.Context(), "router"); err != nil {
		t.Fatal(err)
	}
	scratches = append(scratches, scratchesOf(t, l)...)
	vtysh(l, "show version")

	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	left := remains(l.Name)
	for _, scratch := range scratches {
		if _, err := os.Stat(scratch); err == nil {
			left = append(left, scratch)
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	vtysh(labs[1], "show version")
}

// scratchesOf are the directories that a lab's FRR has made outside the lab's own.
func scratchesOf(t *testing.T, l *testlab.Lab) (scratches []string) {
	t.Helper()
	for _, program := range []string{"zebra", "bgpd", "bfdd"} {
		pid, err := os.ReadFile(filepath.Join("/run/testlab", l.Name, "router/frr/run", program+".pid"))
		if err != nil {
			t.Fatal(err)
		}
		scratch := fmt.Sprintf("/var/tmp/frr/%s.%s", program, strings.TrimSpace(string(pid)))
		if _, err := os.Stat(scratch); err != nil {
			t.Fatalf("%s has made no such directory: %v", program, err)
		}
		scratches = append(scratches, scratch)
	}
	return scratches
}
