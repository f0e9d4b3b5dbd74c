package announce

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// AskSocket asks by ARP and by neighbour solicitations on any interface of the
// network namespace it was opened in.
type AskSocket struct {
	arp, nd *os.File
	answers chan Answer
}

// OpenAskSocket needs CAP_NET_RAW.
func OpenAskSocket() (*AskSocket, error) {
	s := &AskSocket{answers: make(chan Answer, 1024)}
	var err error
	if s.arp, err = listen(unix.ETH_P_ARP, arpReplies); err != nil {
		return nil, fmt.Errorf("open packet socket for ARP: %w", err)
	}
	if s.nd, err = listen(unix.ETH_P_IPV6, advertisements); err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket for neighbour discovery: %w", err), s.arp.Close())
	}
	go s.receive(s.arp, arpAnswer)
	go s.receive(s.nd, ndAnswer)
	return s, nil
}

// arpReplies lets ARP replies through, and nothing else.
var arpReplies = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6}, // the operation
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(arp.OperationReply), Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// typeAdvertisement is a Neighbor Advertisement (RFC 4861 §4.4).
const typeAdvertisement = 136

const ipv6Header = 40 // bytes

// advertisements lets neighbour advertisements that were not forwarded through,
// and nothing else.
var advertisements = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6}, // the next header and the hop limit
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6<<8 | ndHops, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: ipv6Header},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: typeAdvertisement, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// listen opens a packet socket that receives what the filter lets through of a
// protocol.
func listen(protocol uint16, filter []unix.SockFilter) (*os.File, error) {
	// Protocol 0 receives nothing before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("it needs CAP_NET_RAW: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

// Close closes the socket.
func (s *AskSocket) Close() error { return errors.Join(s.arp.Close(), s.nd.Close()) }

// Answers is Asker's.
func (s *AskSocket) Answers() <-chan Answer { return s.answers }

// Ask is Asker's.
func (s *AskSocket) Ask(ifindex int, mac net.HardwareAddr, own, addr netip.Addr, to net.HardwareAddr) error {
	file, protocol, question := s.arp, uint16(unix.ETH_P_ARP), arpQuestion
	if addr.Is6() {
		file, protocol, question = s.nd, unix.ETH_P_IPV6, ndQuestion
	}
	packet, everyone, err := question(mac, own, addr, to)
	if err != nil {
		return fmt.Errorf("ask for %s: %w", addr, err)
	}
	if to == nil {
		to = everyone
	}
	sockaddr := unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: ifindex, Halen: 6}
	copy(sockaddr.Addr[:], to)
	conn, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("ask for %s: %w", addr, err)
	}
	var sent error
	if err := conn.Write(func(fd uintptr) bool { sent = unix.Sendto(int(fd), packet, 0, &sockaddr); return true }); err != nil {
		sent = err
	}
	if sent != nil {
		return fmt.Errorf("ask for %s on interface %d: %w", addr, ifindex, sent)
	}
	return nil
}

// arpQuestion is an ARP request, without an Ethernet header, and where one goes
// that is for nobody in particular.
func arpQuestion(mac net.HardwareAddr, own, addr netip.Addr, _ net.HardwareAddr) (packet []byte, everyone net.HardwareAddr, err error) {
	p, err := arp.NewPacket(arp.OperationRequest, mac, own, make(net.HardwareAddr, 6), addr)
	if err != nil {
		return nil, nil, err
	}
	packet, err = p.MarshalBinary()
	return packet, broadcast, err
}

// ndQuestion is a Neighbor Solicitation, as arpQuestion. One to a machine alone is
// to the address that is asked for (RFC 4861 §7.2.2).
func ndQuestion(mac net.HardwareAddr, own, addr netip.Addr, to net.HardwareAddr) (packet []byte, everyone net.HardwareAddr, err error) {
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, nil, err
	}
	dst := group
	if to != nil {
		dst = addr
	}
	packet, err = ndPacket(own, dst, &ndp.NeighborSolicitation{TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}}})
	return packet, multicastMAC(group), err
}

// arpAnswer reads an ARP reply that came from a hardware address.
func arpAnswer(packet []byte, _ net.HardwareAddr) (Answer, bool) {
	var p arp.Packet
	if p.UnmarshalBinary(packet) != nil {
		return Answer{}, false
	}
	return Answer{Addr: p.SenderIP, MAC: p.SenderHardwareAddr}, true
}

// ndAnswer reads a Neighbor Advertisement, which need not repeat the hardware
// address that it came from (RFC 4861 §4.4).
func ndAnswer(packet []byte, from net.HardwareAddr) (Answer, bool) {
	if len(packet) < ipv6Header {
		return Answer{}, false
	}
	message, err := ndp.ParseMessage(packet[ipv6Header:])
	na, ok := message.(*ndp.NeighborAdvertisement)
	if err != nil || !ok {
		return Answer{}, false
	}
	for _, option := range na.Options {
		if o, ok := option.(*ndp.LinkLayerAddress); ok && o.Direction == ndp.Target {
			from = o.Addr
		}
	}
	return Answer{Addr: na.TargetAddress, MAC: from}, true
}

// receive hands answers on until the socket is closed.
func (s *AskSocket) receive(file *os.File, read func(packet []byte, from net.HardwareAddr) (Answer, bool)) {
	conn, err := file.SyscallConn()
	if err != nil {
		return // closed already
	}
	buf := make([]byte, 512)
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
		if failed != nil || !ok {
			continue // such as ENETDOWN, when an interface goes
		}
		answer, ok := read(buf[:n], net.HardwareAddr(link.Addr[:6:6]))
		if !ok {
			continue
		}
		answer.Ifindex = link.Ifindex
		select {
		case s.answers <- answer:
		default:
		}
	}
}
