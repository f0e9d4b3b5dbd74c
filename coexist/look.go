package coexist

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Host says where a node's files are. Devices and netfilter rules are those of
// the calling thread's network namespace.
type Host struct {
	// CNIDir is the runtimes' folder of network configurations; /etc/cni/net.d.
	CNIDir string
	// Proc is where procfs is mounted; /proc.
	Proc string
}

// Look reads the host. What can be read comes back also with an error. A
// folder of network configurations that is not there holds none.
func (h Host) Look() (Findings, error) {
	var f Findings
	var errs []error
	for _, look := range []func(*Findings) error{h.cni, h.devices, h.settings, h.kubeProxy} {
		errs = append(errs, look(&f))
	}
	return f, errors.Join(errs...)
}

// devices finds those of other projects, and the bridges.
func (h Host) devices(f *Findings) error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		name := link.Attrs().Name
		if product := madeBy(name); product != "" {
			f.Devices = append(f.Devices, Device{name, product})
		}
		if link.Type() == "bridge" {
			f.Bridges = append(f.Bridges, name)
		}
	}
	slices.SortFunc(f.Devices, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(f.Bridges)
	return nil
}

// ipvsDevice holds the addresses of Services when kube-proxy uses IPVS.
const ipvsDevice = "kube-ipvs0"

// madeBy is the project that gives its devices that name, or "".
func madeBy(device string) string {
	for _, d := range []Device{
		{"antrea-*", "Antrea"},
		{"cali*", "Calico"},
		{"vxlan.calico", "Calico"},
		{"wireguard.cali", "Calico"},
		{"cilium_*", "Cilium"},
		{"lxc_health", "Cilium"},
		{"flannel.*", "Flannel"},
		{"flannel-*", "Flannel"},
		{"kube-bridge", "kube-router"},
		{ipvsDevice, "kube-proxy"},
		{"ovn0", "Kube-OVN"},
		{"ovn-k8s-*", "OVN-Kubernetes"},
		{"weave", "Weave Net"},
		{"vethwe-*", "Weave Net"},
		{"cni0", "the bridge plugin"},
	} {
		if matched, _ := path.Match(d.Name, device); matched {
			return d.Product
		}
	}
	return ""
}

// settings reads the kernel's.
func (h Host) settings(f *Findings) error {
	forward, err := h.setting("ipv4/ip_forward")
	if err != nil {
		return err
	}
	f.NoForwarding = forward == 0
	// Absent without the module br_netfilter.
	bridged, err := h.setting("bridge/bridge-nf-call-iptables")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f.BridgeNetfilter = bridged != 0

	conf := "ipv4/conf/"
	allFilter, err := h.setting(conf + "all/rp_filter")
	if err != nil {
		return err
	}
	allIgnore, err := h.setting(conf + "all/arp_ignore")
	if err != nil {
		return err
	}
	f.AllStrict = allFilter == 1
	entries, err := os.ReadDir(filepath.Join(h.Proc, "sys/net", conf))
	if err != nil {
		return fmt.Errorf("list the devices' settings: %w", err)
	}
	for _, e := range entries {
		if slices.Contains([]string{"all", "default", "lo"}, e.Name()) {
			continue
		}
		filter, err := h.setting(conf + e.Name() + "/rp_filter")
		if errors.Is(err, os.ErrNotExist) {
			continue // the device has gone
		}
		if err != nil {
			return err
		}
		ignore, err := h.setting(conf + e.Name() + "/arp_ignore")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		// The kernel goes by the larger of a device's and all's; a filter of 2 is loose.
		if max(filter, allFilter) == 1 {
			f.Strict = append(f.Strict, e.Name())
		}
		if max(ignore, allIgnore) == 0 {
			f.AnyARP = append(f.AnyARP, e.Name())
		}
	}
	return nil
}

// setting reads a number under /proc/sys/net.
func (h Host) setting(name string) (int, error) {
	data, err := os.ReadFile(filepath.Join(h.Proc, "sys/net", name))
	if err != nil {
		return 0, fmt.Errorf("read kernel setting: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("read kernel setting net/%s: %w", name, err)
	}
	return n, nil
}
