package announce

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/mdlayher/arp"
	"golang.org/x/sys/unix"
)

// AskSocket asks by ARP on any interface of the network namespace it was opened in.
type AskSocket struct {
	file    *os.File
	answers chan Answer
}

// OpenAskSocket needs CAP_NET_RAW.
func OpenAskSocket() (*AskSocket, error) {
	// Protocol 0 receives nothing before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket for ARP (it needs CAP_NET_RAW): %w", err)
	}
	if err := onlyReplies(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	s := &AskSocket{file: os.NewFile(uintptr(fd), "arp"), answers: make(chan Answer, 1024)}
	go s.receive()
	return s, nil
}

// onlyReplies lets the socket receive ARP replies to this machine, and nothing else.
func onlyReplies(fd int) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6}, // the operation
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(arp.OperationReply), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return fmt.Errorf("filter packet socket for ARP: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP)}); err != nil {
		return fmt.Errorf("bind packet socket for ARP: %w", err)
	}
	return nil
}

// Close closes the socket.
func (s *AskSocket) Close() error { return s.file.Close() }

// Answers is Asker's.
func (s *AskSocket) Answers() <-chan Answer { return s.answers }

// Ask is Asker's.
func (s *AskSocket) Ask(ifindex int, mac net.HardwareAddr, own, addr netip.Addr, to net.HardwareAddr) error {
	p, err := arp.NewPacket(arp.OperationRequest, mac, own, make(net.HardwareAddr, 6), addr)
	if err != nil {
		return fmt.Errorf("build ARP request for %s: %w", addr, err)
	}
	packet, err := p.MarshalBinary()
	if err != nil {
		return fmt.Errorf("build ARP request for %s: %w", addr, err)
	}
	if to == nil {
		to = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	sockaddr := unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: ifindex, Halen: 6}
	copy(sockaddr.Addr[:], to)
	conn, err := s.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("send ARP request: %w", err)
	}
	var sent error
	if err := conn.Write(func(fd uintptr) bool { sent = unix.Sendto(int(fd), packet, 0, &sockaddr); return true }); err != nil {
		sent = err
	}
	if sent != nil {
		return fmt.Errorf("send ARP request on interface %d: %w", ifindex, sent)
	}
	return nil
}

// receive hands answers on until the socket is closed.
func (s *AskSocket) receive() {
	conn, err := s.file.SyscallConn()
	if err != nil {
		return // closed already
	}
	buf := make([]byte, 128)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), buf, 0)
			return failed != unix.EAGAIN
		})
		if err != nil {
			return
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		var packet arp.Packet
		if failed != nil || !ok || packet.UnmarshalBinary(buf[:n]) != nil {
			continue // such as ENETDOWN, when an interface goes
		}
		select {
		case s.answers <- Answer{link.Ifindex, packet.SenderIP, packet.SenderHardwareAddr}:
		default:
		}
	}
}
