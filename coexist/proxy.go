package coexist

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What kube-proxy makes: the chain of its Services in iptables, its table in
// nftables. (The kubelet makes chains, too, of other names.)
const (
	servicesChain = "KUBE-SERVICES"
	proxyTable    = "kube-proxy"
)

// kubeProxy finds out in which modes rules of kube-proxy are there. It looks
// past the iptables programs, which an image FROM scratch has none of.
func (h Host) kubeProxy(f *Findings) error {
	legacy, errLegacy := h.legacyServices()
	compat, errCompat := nftHas(unix.NFT_MSG_GETCHAIN, nftAttr{unix.NFTA_CHAIN_TABLE, "nat"}, nftAttr{unix.NFTA_CHAIN_NAME, servicesChain})
	native, errNative := nftHas(unix.NFT_MSG_GETTABLE, nftAttr{unix.NFTA_TABLE_NAME, proxyTable})
	if legacy || compat {
		f.KubeProxy = append(f.KubeProxy, ModeIPTables)
	}
	if native {
		f.KubeProxy = append(f.KubeProxy, ModeNFTables)
	}
	if slices.ContainsFunc(f.Devices, func(d Device) bool { return d.Name == ipvsDevice }) {
		f.KubeProxy = append(f.KubeProxy, ModeIPVS)
	}
	return errors.Join(errLegacy, errCompat, errNative)
}

type nftAttr struct {
	id    int
	value string
}

// nftHas asks nftables for the one object of family ip that the attributes name.
func nftHas(get int, attrs ...nftAttr) (bool, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|get, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_IPV4, Version: unix.NFNETLINK_V0})
	for _, a := range attrs {
		req.AddData(nl.NewRtAttr(a.id, nl.ZeroTerminated(a.value)))
	}
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	for _, none := range []error{unix.ENOENT, unix.EINVAL, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT} {
		if errors.Is(err, none) {
			return false, nil // not there, or a kernel without nftables
		}
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return false, fmt.Errorf("ask nftables: %w", err)
	}
	return true, nil
}

// getsockopt options and structs of <linux/netfilter_ipv4/ip_tables.h>.
const (
	iptGetInfo    = 64
	iptGetEntries = 65
	// legacyEntriesAt is where the entries begin in struct ipt_get_entries.
	legacyEntriesAt = 40
)

// legacyInfo is struct ipt_getinfo.
type legacyInfo struct {
	name       [32]byte
	_          [11]uint32
	_, entries uint32 // their number and their size in bytes
}

// legacyServices says whether iptables before nftables has the chain. Only a
// table that is there is asked: to ask for another would make it.
func (h Host) legacyServices() (bool, error) {
	names, err := os.ReadFile(filepath.Join(h.Proc, "thread-self/net/ip_tables_names"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list iptables: %w", err)
	}
	if !slices.Contains(strings.Fields(string(names)), "nat") {
		return false, nil
	}
	entries, err := legacyEntries("nat")
	if err != nil {
		return false, fmt.Errorf("read iptables: %w", err)
	}
	// A chain's name is in an entry of its own, ended by a zero.
	return bytes.Contains(entries, append([]byte(servicesChain), 0)), nil
}

// legacyEntries returns the entries of a table as the kernel has them.
func legacyEntries(table string) ([]byte, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for {
		var info legacyInfo
		copy(info.name[:], table)
		size := uint32(unsafe.Sizeof(info))
		if err := getsockopt(fd, iptGetInfo, unsafe.Pointer(&info), &size); err != nil {
			return nil, err
		}
		buf := make([]byte, legacyEntriesAt+info.entries)
		copy(buf, table)
		*(*uint32)(unsafe.Pointer(&buf[32])) = info.entries
		size = uint32(len(buf))
		err := getsockopt(fd, iptGetEntries, unsafe.Pointer(&buf[0]), &size)
		if errors.Is(err, unix.EAGAIN) {
			continue // the table has been replaced meanwhile
		}
		return buf[legacyEntriesAt:], err
	}
}

func getsockopt(fd, option int, value unsafe.Pointer, size *uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option), uintptr(value), uintptr(unsafe.Pointer(size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
