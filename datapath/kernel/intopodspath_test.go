package kernel

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/datapath"
	"golang.org/x/sys/unix"
)

// setGRO turns GRO of the pod's end on, with which it takes frames, or off.
func (n *lbNode) setGRO(on uint32) {
	n.t.Helper()
	n.podNS.do(func() { ethtoolFlags(n.t, "eth0", unix.ETHTOOL_SGRO, on) })
}

// followPods keeps the rows of the node's pods as their devices are, as the daemon does.
func (n *lbNode) followPods() {
	n.t.Helper()
	maps, err := datapath.NewKernelMaps(n.Maps())
	n.machine.must(err)
	target := datapath.NewEndpointTarget(maps, n.Kernel)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		n.machine.do(func() { // all of it on this thread: the kernel is asked in its namespace
			ended <- n.WatchXDPFeatures(ctx, func() {
				if err := target.Refresh(); err != nil {
					n.t.Error(err)
				}
			})
		})
	}()
	n.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			n.t.Error(err)
		}
	})
}

// podsTake waits until the rows of the node's pod say what XDP may send it.
func (n *lbNode) podsTake(mtu uint16) {
	n.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var four, six bpfEndpoint
		n.machine.must(n.maps["endpoints"].Lookup(be32(n.podAddr), &four))
		n.machine.must(n.maps["endpoints6"].Lookup(words(inIPv6(n.podAddr)), &six))
		if four.XdpMtu == mtu && six.XdpMtu == mtu {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("rows say %d and %d, want %d", four.XdpMtu, six.XdpMtu, mtu)
		}
		time.Sleep(time.Millisecond)
	}
}

// byTC is how many packets tc has sent into pods.
func (n *lbNode) byTC() uint64 { return n.counts()[countKey{kindTCOutside, "pod_delivered"}].Packets }

// Kernel stacks at both ends, and pods that take frames from XDP: straight from the client,
// and out of tunnels, in both families. Then they take none, and then some again, while
// connections send as fast as they can.
func TestPathIntoPods(t *testing.T) {
	newHost(t)
	s := newSegment(t)
	user := s.join("192.168.10.200/24")
	one, two := vipNodes(s)
	nodes := []*lbNode{one, two}
	defer explain(t, one, two)
	for _, n := range nodes {
		n.speakIPv6()
	}
	var known bool
	one.machine.do(func() {
		var err error
		_, known, err = xdpFeatures(one.machine.dev("pod").Attrs().Index)
		one.machine.must(err)
	})
	if !known {
		t.Skip("the kernel does not say what devices take")
	}
	user.do(func() {
		user.enableIPv6("eth1", netip.PrefixFrom(inIPv6(netip.MustParseAddr("192.168.10.200")), 64))
		user.knows("eth1", inIPv6(vip), one.machine.eth.Attrs().HardwareAddr)
	})
	one.balanceIn(two, 0)
	two.balanceIn(one, 0)
	for _, n := range nodes {
		n.followPods()
		n.podsTake(0)
		n.setGRO(1)
		n.podsTake(1500)
	}

	text := strings.Repeat("0123456789abcdef", 4<<10)
	dial := func(network string, addr netip.Addr) (c net.Conn) {
		t.Helper()
		user.do(func() {
			var err error
			if c, err = net.DialTimeout(network, net.JoinHostPort(addr.String(), "80"), 20*time.Second); err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(60 * time.Second))
		return c
	}
	var open []net.Conn
	seen := map[string]bool{}
	once := make(chan struct{})
	close(once)
	for _, addr := range []netip.Addr{vip, inIPv6(vip)} {
		// The client's ports choose the pod: 12 connections, and up to 100 until both have served.
		served := map[string]bool{}
		for i := 0; i < 12 || i < 100 && len(served) < 2; i++ {
			c := dial("tcp", addr)
			var pod, from string
			if _, err := fmt.Fscanln(c, &pod, &from); err != nil {
				t.Fatal(err)
			}
			if err := echo(c, text, once); err != nil {
				t.Fatalf("with %s: %v", pod, err)
			}
			served[pod] = true
			seen[addr.String()+pod] = true
			open = append(open, c)
		}
		for range 6 {
			c, back := dial("udp", addr), make([]byte, 2000)
			if _, err := io.WriteString(c, text[:1300]); err != nil {
				t.Fatal(err)
			}
			size, err := c.Read(back)
			if _, got, _ := strings.Cut(string(back[:size]), " "); err != nil || got != text[:1300] {
				t.Fatalf("answer of %d bytes, %v", size, err)
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("only these served: %v", seen)
	}
	for _, n := range nodes {
		if count := n.byTC(); count != 0 {
			t.Errorf("%s: tc has sent %d packets into the pod, though XDP may", n.podAddr, count)
		}
	}

	stop, done := make(chan struct{}), make(chan error, len(open))
	for _, c := range open {
		go func() { done <- echo(c, text, stop) }()
	}
	for range 3 {
		for _, n := range nodes {
			n.setGRO(0)
			n.podsTake(0)
			n.awaitTC()
			n.setGRO(1)
			n.podsTake(1500)
		}
	}
	close(stop)
	for range open {
		if err := <-done; err != nil {
			t.Errorf("connection meanwhile: %v", err)
		}
	}
	for _, offload := range []uint32{1, 0} { // at the other end, says this one
		one.machine.do(func() {
			ethtoolFlags(t, "eth1", unix.ETHTOOL_STXCSUM, offload)
			_, err := one.Attach("eth1")
			one.machine.must(err)
		})
		var row bpfDevice
		index := uint32(one.machine.eth.Attrs().Index)
		one.machine.must(one.maps["devices"].Lookup(index%uint32(bpfMaxDevicesMAX_DEVICES), &row))
		if native := row.Flags&uint16(bpfDeviceFlagsDEVICE_NATIVE) != 0; native != (offload == 0) {
			t.Errorf("with checksum offload %d, frames go into pods: %v", offload, native)
		}
	}
}

// awaitTC waits until tc sends packets into the pod.
func (n *lbNode) awaitTC() {
	n.t.Helper()
	before, deadline := n.byTC(), time.Now().Add(20*time.Second)
	for n.byTC() == before {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: tc sends nothing into the pod, which takes no frames from XDP", n.podAddr)
		}
		time.Sleep(time.Millisecond)
	}
}
