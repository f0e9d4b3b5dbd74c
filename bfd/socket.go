package bfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/seamark-lb/seamark/state"
)

const (
	portSingleHop = 3784 // RFC 5881 §4
	portMultihop  = 4784 // RFC 5883 §5
	// Source ports are of this range, and one session has one (RFC 5881 §4).
	minSourcePort, maxSourcePort = 49152, 65535

	ttl = 255 // RFC 5881 §5
	// dscpCS6 is network control, in the place of the type of service (RFC 4594 §3.1).
	dscpCS6 = 48 << 2
	// priorityControl is TC_PRIO_CONTROL: first out of the queue of a device.
	priorityControl = 7
)

// place is where packets come in: a socket each. Those of a single hop have one
// per interface, so that nobody on another can fill it.
type place struct {
	v6      bool
	ifindex int // 0: several hops
}

func placeOf(row state.BFDSession) place { return place{row.Local.Is6(), row.Ifindex} }

func (p place) port() int {
	if p.ifindex == 0 {
		return portMultihop
	}
	return portSingleHop
}

// listener receives packets.
type listener struct {
	place
	fd int
}

func listen(at place) (l *listener, err error) {
	defer func() {
		if errors.Is(err, unix.EADDRINUSE) {
			err = fmt.Errorf("%w: stop the other BFD daemon, or start seamarkd with --bfd false", err)
		}
		if err != nil {
			err = fmt.Errorf("listen on UDP port %d: %w", at.port(), err)
		}
	}()
	fd, err := open(at)
	if err != nil {
		return nil, err
	}
	options := []option{{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}, {unix.IPPROTO_IP, unix.IP_RECVTTL, 1}}
	var everywhere unix.Sockaddr = &unix.SockaddrInet4{Port: at.port()}
	if at.v6 {
		options = []option{{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}, {unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1}}
		everywhere = &unix.SockaddrInet6{Port: at.port()}
	}
	if err := setAll(fd, options); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if at.ifindex != 0 {
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fromLink(at.v6)); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("attach filter: %w", err)
		}
	}
	if err := unix.Bind(fd, everywhere); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &listener{at, fd}, nil
}

// fromLink is a filter that drops what a router has forwarded, before it takes
// room in the socket's buffer: what comes from the link has a TTL of 255 (RFC 5881 §5).
func fromLink(v6 bool) *unix.SockFprog {
	const netOff = 0xfff00000 // SKF_NET_OFF: from the beginning of the IP header
	offset := uint32(netOff + 8)
	if v6 {
		offset = netOff + 7
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: offset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: ttl},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	return &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
}

// receive reads one datagram into buf; unix.EAGAIN when there is none.
func (l *listener) receive(buf, control []byte) (arrival, int, error) {
	n, oobn, _, from, err := unix.Recvmsg(l.fd, buf, control, unix.MSG_DONTWAIT)
	if err != nil {
		return arrival{}, 0, err
	}
	a := arrival{multihop: l.ifindex == 0}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		a.remote = netip.AddrFrom4(from.Addr)
	case *unix.SockaddrInet6:
		a.remote = netip.AddrFrom16(from.Addr)
	}
	messages, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return arrival{}, 0, fmt.Errorf("parse control messages: %w", err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			a.ifindex = int(binary.NativeEndian.Uint32(m.Data))
			a.local = netip.AddrFrom4([4]byte(m.Data[8:12]))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			a.local = netip.AddrFrom16([16]byte(m.Data[:16]))
			a.ifindex = int(binary.NativeEndian.Uint32(m.Data[16:]))
		case (m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_TTL ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT) && len(m.Data) >= 4:
			a.ttl = int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	if a.multihop {
		a.ifindex = 0
	}
	return a, n, nil
}

func (l *listener) close() { unix.Close(l.fd) }

// sender sends the packets of one session.
type sender struct {
	path
	fd int
	to unix.Sockaddr
}

// dial opens the sender of the row's session, on a source port that no other has.
func dial(row state.BFDSession, rng *rand.Rand) (*sender, error) {
	at := placeOf(row)
	fd, err := open(at)
	if err != nil {
		return nil, err
	}
	// The priority comes last: the type of service sets one, too. Nobody reads
	// what is sent to this socket.
	options := []option{{unix.IPPROTO_IP, unix.IP_TTL, ttl}, {unix.IPPROTO_IP, unix.IP_TOS, dscpCS6}}
	if at.v6 {
		options = []option{{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl}, {unix.IPPROTO_IPV6, unix.IPV6_TCLASS, dscpCS6}}
	}
	options = append(options, option{unix.SOL_SOCKET, unix.SO_RCVBUF, 0}, option{unix.SOL_SOCKET, unix.SO_PRIORITY, priorityControl})
	if err := setAll(fd, options); err != nil {
		unix.Close(fd)
		return nil, err
	}
	for tries := 0; ; tries++ {
		port := minSourcePort + rng.IntN(maxSourcePort-minSourcePort+1)
		err = unix.Bind(fd, sockaddr(row.Local, port, row.Ifindex))
		if !errors.Is(err, unix.EADDRINUSE) || tries == 100 {
			break
		}
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("send from %s: %w", row.Local, err)
	}
	return &sender{pathOf(row), fd, sockaddr(row.Remote, at.port(), row.Ifindex)}, nil
}

func (s *sender) send(b []byte) error { return unix.Sendto(s.fd, b, unix.MSG_DONTWAIT, s.to) }

func (s *sender) close() { unix.Close(s.fd) }

// option is one of a socket.
type option struct{ level, name, value int }

func setAll(fd int, options []option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return nil
}

// open opens a socket for the place's family, on its interface.
func open(at place) (int, error) {
	family := unix.AF_INET
	var options []option
	if at.v6 {
		family, options = unix.AF_INET6, []option{{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open UDP socket: %w", err)
	}
	if at.ifindex != 0 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, at.ifindex})
	}
	if err := setAll(fd, options); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(a netip.Addr, port, ifindex int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	to := &unix.SockaddrInet6{Port: port, Addr: a.As16()}
	if a.IsLinkLocalUnicast() {
		to.ZoneId = uint32(ifindex)
	}
	return to
}
