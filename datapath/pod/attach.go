package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/seamark-lb/seamark/state"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// errNotAsWired is CHECK's error for a pod whose wiring was changed; codes
// from 100 on are a plugin's own.
const errNotAsWired uint = 100

// defaultMTU is for a node whose InternalIPs no device carries. Bytes.
const defaultMTU = 1500

// netConf is the network configuration, as far as the daemon needs it.
type netConf struct {
	Name             string          `json:"name"`
	ValidAttachments json.RawMessage `json:"cni.dev/valid-attachments"`
	PrevResult       json.RawMessage `json:"prevResult"`
	RuntimeConfig    json.RawMessage `json:"runtimeConfig"`
}

// request checks what every command about one attachment needs.
func request(args *skel.CmdArgs) (netConf, error) {
	conf, err := readConf(args.StdinData)
	if err != nil {
		return netConf{}, err
	}
	if err := utils.ValidateContainerID(args.ContainerID); err != nil {
		return netConf{}, err
	}
	if err := utils.ValidateInterfaceName(args.IfName); err != nil {
		return netConf{}, err
	}
	return conf, nil
}

func readConf(stdin []byte) (netConf, error) {
	var conf netConf
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return netConf{}, types.NewError(types.ErrDecodingFailure, "read network config: "+err.Error(), "")
	}
	if err := utils.ValidateNetworkName(conf.Name); err != nil {
		return netConf{}, err
	}
	return conf, nil
}

// add is ADD: it wires the pod, and returns when the datapath has its row.
func (s *Server) add(ctx context.Context, args *skel.CmdArgs) (any, error) {
	conf, err := request(args)
	if err != nil {
		return nil, err
	}
	podName, err := podOf(args.Args)
	if err != nil {
		return nil, err
	}
	ports, err := hostPortsOf(conf.RuntimeConfig)
	if err != nil {
		return nil, err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return nil, netnsError(args.Netns, err)
	}
	defer ns.Close()
	v, err := s.wire(conf.Name, state.Endpoint{ContainerID: args.ContainerID, Interface: args.IfName, Pod: podName, HostPorts: ports}, ns)
	if err != nil {
		return nil, err
	}
	if err := s.programmed(ctx, v.Endpoint); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, errors.Join(err, s.unwire(v.ContainerID, v.Interface))
	}
	return v.result(args.Netns), nil
}

// wire makes the attachment to the network, unless it is there already and whole.
func (s *Server) wire(network string, wanted state.Endpoint, ns netns.NsHandle) (veth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.DB.Snapshot()
	node, cidr, err := s.podCIDR(snap)
	if err != nil {
		return veth{}, types.NewError(types.ErrTryAgainLater, "add pod: "+err.Error(), "")
	}
	v := veth{Network: network, Endpoint: wanted}
	v.HostDevice, v.PodMAC, v.HostMAC = identity(v.ContainerID, v.Interface)
	if err := s.soleInterface(v); err != nil {
		return veth{}, err
	}
	if err := s.hostPortsFree(v); err != nil {
		return veth{}, err
	}
	if held, ok := s.veths[v.RowKey()]; ok {
		if held.Network == v.Network && slices.Equal(held.HostPorts, v.HostPorts) && held.check(ns) == nil {
			return held, nil
		}
		if err := s.unwire(v.ContainerID, v.Interface); err != nil {
			return veth{}, err
		}
	}
	if v.Addr, err = s.address(snap, cidr, v.RowKey()); err != nil {
		return veth{}, types.NewError(types.ErrTryAgainLater, "add pod: "+err.Error(), "")
	}
	if v.MTU, err = outsideMTU(s.DB.Devices.Rows(snap), node); err != nil {
		return veth{}, err
	}
	if err := setSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return veth{}, err
	}
	// One that an ADD before a crash left, without a record.
	if err := disconnect(v.HostDevice); err != nil {
		return veth{}, err
	}
	if err := v.connect(ns); err != nil {
		return veth{}, err
	}
	if err := s.records().write(v); err != nil {
		return veth{}, errors.Join(err, disconnect(v.HostDevice))
	}
	s.veths[v.RowKey()] = v
	s.freed = slices.DeleteFunc(s.freed, func(a netip.Addr) bool { return a == v.Addr })
	s.put(v)
	return v, nil
}

// soleInterface refuses a second interface of one pod. Its routes would be the first one's
// again, so what it answers would leave by the first one: with an address that is another's there.
func (s *Server) soleInterface(v veth) error {
	for _, key := range slices.Sorted(maps.Keys(s.veths)) {
		if other := s.veths[key]; other.ContainerID == v.ContainerID && other.Interface != v.Interface {
			return types.NewError(types.ErrInvalidNetworkConfig,
				fmt.Sprintf("add pod: %s of network %s: the pod has %s of network %s from Seamark already", v.Interface, v.Network, other.Interface, other.Network),
				"a pod has one interface of Seamark's: give further networks another CNI plugin")
		}
	}
	return nil
}

// put makes v's row one that the datapath has to program.
func (s *Server) put(vs ...veth) {
	s.Writer.Update(func(tx *state.Tx) {
		for _, v := range vs {
			s.DB.Endpoints.Put(tx, v.WithStatus(state.Status{Phase: state.Pending, Changed: time.Now()}))
		}
	})
}

// unwire removes the attachment and all that is recorded of it. What is gone
// already is no error. The row goes when the datapath no longer has it; until
// then nobody else gets its address.
func (s *Server) unwire(containerID, ifname string) error {
	hostDevice, _, _ := identity(containerID, ifname)
	if err := disconnect(hostDevice); err != nil {
		return err
	}
	delete(s.stray, hostDevice)
	if err := s.records().remove(hostDevice); err != nil {
		return err
	}
	key := state.Endpoint{ContainerID: containerID, Interface: ifname}.RowKey()
	if v, ok := s.veths[key]; ok {
		s.freed = append(s.freed, v.Addr)
		delete(s.veths, key)
	}
	s.Writer.Update(func(tx *state.Tx) {
		if row, ok := s.DB.Endpoints.Get(tx, key); ok && row.Status.Wanted() {
			s.DB.Endpoints.Put(tx, row.WithStatus(state.Status{Phase: state.Deleting, Changed: time.Now()}))
		}
	})
	return nil
}

// programmed waits until the datapath has the row.
func (s *Server) programmed(ctx context.Context, want state.Endpoint) error {
	timeout := s.ProgramTimeout
	if timeout == 0 {
		timeout = 15 * time.Second
	}
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		snap := s.DB.Snapshot()
		row, ok := s.DB.Endpoints.Get(snap, want.RowKey())
		switch {
		case !ok || !row.Status.Wanted() || !row.SameSpec(want):
			return types.NewError(types.ErrTryAgainLater, "add pod: it was removed while it was being added", "")
		case row.Status.Phase == state.Done:
			return nil
		}
		if state.Wait(wait, snap, timeout, s.DB.Endpoints.Watch()) == nil {
			continue
		}
		switch {
		case ctx.Err() != nil:
			return types.NewError(types.ErrTryAgainLater, "add pod: the daemon is stopping or the runtime hung up", "")
		case row.Status.Err != "":
			return types.NewError(types.ErrTryAgainLater, "add pod: program datapath: "+row.Status.Err, "")
		}
		return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("add pod: the datapath was not programmed within %v", timeout),
			"'seamark status' says what the datapath waits for")
	}
}

// del is DEL.
func (s *Server) del(_ context.Context, args *skel.CmdArgs) (any, error) {
	if _, err := request(args); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return nil, s.unwire(args.ContainerID, args.IfName)
}

// check is CHECK.
func (s *Server) check(_ context.Context, args *skel.CmdArgs) (any, error) {
	conf, err := request(args)
	if err != nil {
		return nil, err
	}
	ns, err := openNetns(args.Netns)
	if err != nil {
		return nil, netnsError(args.Netns, err)
	}
	defer ns.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := state.Endpoint{ContainerID: args.ContainerID, Interface: args.IfName}.RowKey()
	v, ok := s.veths[key]
	if !ok {
		return nil, types.NewError(types.ErrUnknownContainer, "check pod: "+key+" is not attached", "")
	}
	const cure = "delete the pod, so that the runtime wires a new one"
	if len(conf.PrevResult) > 0 {
		var prev types100.Result
		if err := json.Unmarshal(conf.PrevResult, &prev); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "read network config: prevResult: "+err.Error(), "")
		}
		if !slices.ContainsFunc(prev.IPs, func(ip *types100.IPConfig) bool { return ip.Address.IP.Equal(v.Addr.AsSlice()) }) {
			return nil, types.NewError(errNotAsWired, fmt.Sprintf("check pod: prevResult does not have its address %s", v.Addr), cure)
		}
	}
	if err := v.check(ns); err != nil {
		return nil, types.NewError(errNotAsWired, "check pod: "+err.Error(), cure)
	}
	row, ok := s.DB.Endpoints.Get(s.DB.Snapshot(), key)
	if !ok || row.Status.Phase != state.Done {
		return nil, types.NewError(errNotAsWired, fmt.Sprintf("check pod: the datapath has not programmed it (%s)", row.Status.Phase), row.Status.Err)
	}
	return nil, nil
}

// status is STATUS: whether an ADD can be served.
func (s *Server) status(context.Context, *skel.CmdArgs) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.DB.Snapshot()
	_, cidr, err := s.podCIDR(snap)
	if err == nil {
		_, err = s.address(snap, cidr, "")
	}
	if err != nil {
		return nil, types.NewError(types.ErrPluginNotAvailable, "no pod can be added: "+err.Error(), "")
	}
	return nil, nil
}

// gc is GC: it removes this network's attachments that are not among the valid ones.
func (s *Server) gc(_ context.Context, args *skel.CmdArgs) (any, error) {
	conf, err := readConf(args.StdinData)
	if err != nil {
		return nil, err
	}
	const field = "cni.dev/valid-attachments"
	if conf.ValidAttachments == nil { // the empty list is [] or null, never absence
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "collect garbage: field "+field+" is missing", "list the attachments that stay")
	}
	var valid []types.GCAttachment
	if err := json.Unmarshal(conf.ValidAttachments, &valid); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read network config: "+field+": "+err.Error(), "")
	}
	keep := map[string]bool{} // by host device
	for _, a := range valid {
		hostDevice, _, _ := identity(a.ContainerID, a.IfName)
		keep[hostDevice] = true
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, v := range slices.Collect(maps.Values(s.veths)) {
		if v.Network == conf.Name && !keep[v.HostDevice] {
			errs = append(errs, s.unwire(v.ContainerID, v.Interface))
		}
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, link := range links { // those without a record
		name := link.Attrs().Name
		if network, ok := networkOf(link); ok && network == conf.Name && !keep[name] {
			errs = append(errs, disconnect(name))
			delete(s.stray, name)
		}
	}
	return nil, errors.Join(errs...)
}

// podCIDR is this node and the CIDR that its pods' addresses come from.
func (s *Server) podCIDR(snap state.Snapshot) (state.Node, netip.Prefix, error) {
	node, ok := s.DB.Nodes.Get(snap, s.Node)
	switch {
	case !ok && !s.DB.Nodes.Synced(snap):
		return node, netip.Prefix{}, errors.New("the nodes have not been read from the store yet; it is tried again by itself once the store answers")
	case !ok:
		return node, netip.Prefix{}, fmt.Errorf("there is no Node %s; create it, or start seamarkd with the name of one that is", s.Node)
	}
	for _, cidr := range node.PodCIDRs {
		if cidr.Addr().Is4() {
			return node, cidr, nil
		}
	}
	return node, netip.Prefix{}, fmt.Errorf("the Node %s has no IPv4 pod CIDR; set its spec.podCIDR", s.Node)
}

// address chooses the pod's address. A row of the pod's own that is on its way
// out has one already, and keeps it.
func (s *Server) address(snap state.Snapshot, cidr netip.Prefix, key string) (netip.Addr, error) {
	if row, ok := s.DB.Endpoints.Get(snap, key); ok && cidr.Contains(row.Addr) {
		return row.Addr, nil
	}
	used := map[netip.Addr]bool{}
	for _, addr := range s.stray {
		used[addr] = true
	}
	for row := range s.DB.Endpoints.All(snap) {
		used[row.Addr] = true
	}
	for _, v := range s.veths {
		used[v.Addr] = true
	}
	for d := range s.DB.Devices.All(snap) {
		for _, p := range d.Prefixes {
			used[p.Addr()] = true
		}
	}
	addr, ok := allocate(cidr, func(a netip.Addr) bool { return used[a] }, s.freed)
	if !ok {
		return netip.Addr{}, fmt.Errorf("no address is left in %s; remove pods from Node %s, or give it a larger spec.podCIDR", cidr, s.Node)
	}
	return addr, nil
}

// outsideMTU is the lowest MTU of the devices that carry the node's InternalIPs.
func outsideMTU(devices []state.Device, node state.Node) (int, error) {
	outside, _ := Outside(devices, node, nil)
	mtu := 0
	for _, d := range outside {
		link, err := netlink.LinkByName(d.Name)
		if err != nil {
			return 0, fmt.Errorf("read MTU of %s: %w", d.Name, err)
		}
		if mtu == 0 || link.Attrs().MTU < mtu {
			mtu = link.Attrs().MTU
		}
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	return mtu, nil
}

// restore brings the recorded attachments whose veth is still there back into
// the table, and forgets the others.
func (s *Server) restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.veths, s.stray, s.freed = map[string]veth{}, map[string]netip.Addr{}, nil
	// Not to know the pods is not to have none: the datapath would drop them all.
	recorded, problems, err := s.records().read()
	if err != nil {
		return err
	}
	for _, err := range problems {
		s.Log.Warn("restore attachment", "err", err)
	}
	known := map[string]bool{} // by host device
	for _, v := range recorded {
		link, err := netlink.LinkByName(v.HostDevice)
		switch {
		case isNotFound(err):
			s.Log.Info("forget attachment whose veth is gone", "row", v.RowKey(), "device", v.HostDevice)
			if err := s.records().remove(v.HostDevice); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("find %s: %w", v.HostDevice, err)
		}
		v.HostMAC = link.Attrs().HardwareAddr.String()
		if err := v.connectHost(); err != nil {
			s.Log.Warn("restore host end of attachment", "row", v.RowKey(), "err", err)
		}
		s.veths[v.RowKey()] = v
		known[v.HostDevice] = true
	}
	if err := s.findStray(known); err != nil {
		return err
	}
	s.put(slices.Collect(maps.Values(s.veths))...)
	s.Writer.Update(s.DB.Endpoints.MarkSynced)
	return nil
}

// findStray notes the addresses of veths of ours that no record knows: they
// may be running pods whose state directory was lost. DEL and GC remove them.
func (s *Server) findStray(known map[string]bool) error {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if _, ok := networkOf(link); !ok || known[link.Attrs().Name] {
			continue
		}
		s.Log.Warn("veth without a record; DEL or GC of its pod removes it", "device", link.Attrs().Name, "alias", link.Attrs().Alias)
		routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_V4) })
		if err != nil {
			return fmt.Errorf("list routes of %s: %w", link.Attrs().Name, err)
		}
		for _, route := range routes {
			if p, ok := prefixOf(route.Dst); ok && p.IsSingleIP() {
				s.stray[link.Attrs().Name] = p.Addr()
			}
		}
	}
	return nil
}

func (s *Server) records() records { return recordsIn(s.StateDir) }

// result is ADD's answer.
func (v veth) result(netnsPath string) *types100.Result {
	return &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: v.HostDevice, Mac: v.HostMAC, Mtu: v.MTU},
			{Name: v.Interface, Mac: v.PodMAC, Mtu: v.MTU, Sandbox: netnsPath},
		},
		IPs: []*types100.IPConfig{{
			Interface: types100.Int(1),
			Address:   *ipNet(host(v.Addr)),
			Gateway:   gateway.AsSlice(),
		}},
		Routes: []*types.Route{{Dst: net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, GW: gateway.AsSlice()}},
	}
}

// podOf reads the pod's name from CNI_ARGS, KEY=VALUE pairs between semicolons.
func podOf(cniArgs string) (state.ObjectName, error) {
	var name state.ObjectName
	for pair := range strings.SplitSeq(cniArgs, ";") {
		key, value, ok := strings.Cut(pair, "=")
		switch {
		case pair == "":
		case !ok:
			return name, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_ARGS: %q is no KEY=VALUE", pair), "")
		case key == "K8S_POD_NAMESPACE":
			name.Namespace = value
		case key == "K8S_POD_NAME":
			name.Name = value
		}
	}
	return name, nil
}

func netnsError(path string, err error) error {
	details := ""
	if errors.Is(err, fs.ErrNotExist) {
		details = "the sandbox is gone, or its path is not seen from seamarkd's mount namespace"
	}
	return types.NewError(types.ErrInvalidNetNS, "CNI_NETNS "+path+": "+err.Error(), details)
}
