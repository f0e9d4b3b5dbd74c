package bgp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// Groups of RFC 4291 §2.7.1.
var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// ndHopLimit is that of what comes from the link: no router has forwarded it (RFC 4861 §6.1).
const ndHopLimit = 255

// ndSocket sends and receives router advertisements and solicitations on one interface.
type ndSocket struct {
	file *os.File
	link net.Interface
	buf  []byte
}

// openND needs a link-local address on the interface, which the kernel sends from.
func openND(iface string) (*ndSocket, error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", iface, err)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return nil, fmt.Errorf("open ICMPv6 socket: %w", err)
	}
	if err := prepareND(fd, link.Index); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare ICMPv6 socket on %s: %w", iface, err)
	}
	return &ndSocket{file: os.NewFile(uintptr(fd), "nd-"+iface), link: *link, buf: make([]byte, max(link.MTU, 1280))}, nil
}

func prepareND(fd, ifindex int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, ifindex},
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, ndHopLimit},
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0},
		{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, ifindex},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	const netOff = 0xfff00000 // SKF_NET_OFF: from the beginning of the IP header
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: netOff + 7}, // the hop limit
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: ndHopLimit},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	const solicitation, advertisement = 133, 134
	var types unix.ICMPv6Filter // a bit is a type that does not come in
	for n := range types.Data {
		types.Data[n] = ^uint32(0)
	}
	for _, t := range []int{solicitation, advertisement} {
		types.Data[t/32] &^= 1 << (t % 32)
	}
	if err := unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &types); err != nil {
		return fmt.Errorf("set types: %w", err)
	}
	group := unix.IPv6Mreq{Multiaddr: allRouters.As16(), Interface: uint32(ifindex)}
	if err := unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &group); err != nil {
		return fmt.Errorf("join the group of routers: %w", err)
	}
	return nil
}

// send gives a group of the link a message.
func (s *ndSocket) send(m ndp.Message, to netip.Addr) error {
	b, err := ndp.MarshalMessage(m) // the kernel adds the checksum
	if err != nil {
		return fmt.Errorf("make ICMPv6 message: %w", err)
	}
	fd, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = fd.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), b, 0, &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(s.link.Index)})
		return failed != unix.EAGAIN
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("send to %s on %s: %w", to, s.link.Name, err)
	}
	return nil
}

// receive returns nil without an error for what cannot be read as a message, and
// os.ErrDeadlineExceeded when nothing has come until then.
func (s *ndSocket) receive(until time.Time) (ndp.Message, netip.Addr, error) {
	if err := s.file.SetReadDeadline(until); err != nil {
		return nil, netip.Addr{}, err
	}
	fd, err := s.file.SyscallConn()
	if err != nil {
		return nil, netip.Addr{}, err
	}
	var n int
	var from unix.Sockaddr
	var failed error
	err = fd.Read(func(fd uintptr) bool {
		n, from, failed = unix.Recvfrom(int(fd), s.buf, 0)
		return failed != unix.EAGAIN
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, netip.Addr{}, err
	}
	m, err := ndp.ParseMessage(s.buf[:n])
	router, ok := from.(*unix.SockaddrInet6)
	if err != nil || !ok {
		return nil, netip.Addr{}, nil
	}
	return m, netip.AddrFrom16(router.Addr).WithZone(s.link.Name), nil
}

func (s *ndSocket) close() { s.file.Close() }
