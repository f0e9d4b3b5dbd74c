package pod

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A socket that overflowed still says that something came, and goes on.
func TestNotifyOutlivesAnOverrun(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root and no -short: changes addresses in a network namespace")
	}
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_IFADDR)
	if err != nil {
		t.Fatal(err)
	}
	if err := sock.SetReceiveBufferSize(1, false); err != nil { // the kernel's least
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr("127.9.9.9/32")
	if err != nil {
		t.Fatal(err)
	}
	flap := func() {
		if err := netlink.AddrAdd(lo, a); err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrDel(lo, a); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		flap()
	}
	if drops(t, sock) == 0 {
		t.Fatal("the socket did not overflow: the test shows nothing")
	}

	changed := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- notify(sock, changed) }()
	heard := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case err := <-ended:
			t.Fatalf("notify ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing was heard %s", what)
		}
	}
	heard("after the overrun")
	for range 3 {
		flap()
		heard("of a later change")
	}
	sock.Close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("notify ended without an error")
		}
	case <-time.After(20 * time.Second):
		t.Error("notify did not end with its socket")
	}
}

// drops is how many messages the kernel could not put into the socket.
func drops(t *testing.T, sock *nl.NetlinkSocket) int {
	t.Helper()
	pid, err := sock.GetPid()
	if err != nil {
		t.Fatal(err)
	}
	// sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 8 && fields[1] == "0" && fields[2] == fmt.Sprint(pid) {
			var n int
			if _, err := fmt.Sscan(fields[8], &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the socket is not in /proc/net/netlink")
	return 0
}
