package pod

import (
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// XDP in the driver of an outside device sends frames straight into a pod if the pod's end
// of the veth handles them as a card's driver would (NAPI): the kernel has it do so when
// GRO is asked for. Asked for while the device is down, the host's end is not told that
// it may send (Linux 6.18), so this comes after it was set up. Frames then come in by a queue of
// each CPU, as long as there are that many: one alone would have all of a pod's packets
// wait for one CPU.

// maxQueues bounds what the queues of a pod take of memory, about 6 KiB each.
const maxQueues = 8

// ethtoolValue and ethtoolChannels go with commands of SIOCETHTOOL (<linux/ethtool.h>).
type ethtoolValue struct{ command, data uint32 }

type ethtoolChannels struct {
	command                                uint32
	maxRX, maxTX, maxOther, maxCombined    uint32
	rxCount, txCount, otherCount, combined uint32
}

// takeFrames has the pod's end, which is up, take frames from XDP.
func (v veth) takeFrames(ns netns.NsHandle) error {
	sock, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE) // any socket of the pod's does
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer sock.Close()
	channels := ethtoolChannels{command: unix.ETHTOOL_GCHANNELS}
	if err := ethtool(sock.GetFd(), v.Interface, unsafe.Pointer(&channels)); err != nil {
		return fmt.Errorf("read queues of %s in the pod: %w", v.Interface, err)
	}
	if queues := min(channels.maxRX, maxQueues); queues > channels.rxCount {
		channels.command, channels.rxCount = unix.ETHTOOL_SCHANNELS, queues
		if err := ethtool(sock.GetFd(), v.Interface, unsafe.Pointer(&channels)); err != nil {
			return fmt.Errorf("set queues of %s in the pod to %d: %w", v.Interface, queues, err)
		}
	}
	if err := ethtool(sock.GetFd(), v.Interface, unsafe.Pointer(&ethtoolValue{unix.ETHTOOL_SGRO, 1})); err != nil {
		return fmt.Errorf("turn GRO of %s in the pod on: %w", v.Interface, err)
	}
	return nil
}

// ethtool is one SIOCETHTOOL about a device of the socket's network namespace.
func ethtool(socket int, device string, command unsafe.Pointer) error {
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: command}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
