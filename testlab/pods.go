package testlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const podInterface = "eth0"

// podGateway is the next hop in pods that the lab wires itself: no interface
// has the address, a neighbour entry gives it the host's MAC.
var podGateway = netip.MustParseAddr("169.254.1.1")

// startPods makes the pods' namespaces, wires them up and waits until their
// servers answer their nodes.
func (l *Lab) startPods(ctx context.Context, pods []PodSpec) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, p := range pods {
		group.Go(func() error {
			if err := l.startPod(ctx, p); err != nil {
				return fmt.Errorf("start pod %s: %w", p.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (l *Lab) startPod(ctx context.Context, p PodSpec) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	if err := l.namespace(p.Name).create(l.Name, hostSysctls("")); err != nil {
		return err
	}
	wired := wiredPod{ContainerID: fmt.Sprintf("%s-%s-%x", l.Name, p.Name, time.Now().UnixNano())}
	// A crash from here on must not forget what the CNI plugin was asked for.
	if err := l.update(func(r *record) { r.Pods[p.Name] = wired }); err != nil {
		return err
	}
	if r.NoDaemons {
		wired.Address, err = l.wirePlain(r.Topology, p)
	} else {
		wired.Address, err = l.cniAdd(ctx, r, p, wired.ContainerID)
	}
	if err != nil {
		return err
	}
	if err := l.update(func(r *record) { r.Pods[p.Name] = wired }); err != nil {
		return err
	}
	argv := []string{filepath.Join(r.BinDir, "testlab"), "webpod", "--name", p.Name}
	if err := l.ensure(r, p.Node, p.Name, podProgram, argv); err != nil {
		return err
	}
	return l.awaitPod(ctx, p, wired.Address)
}

// awaitPod waits until the pod's server answers its node.
func (l *Lab) awaitPod(ctx context.Context, p PodSpec, address netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: l.namespace(p.Node).dial}}
	return poll(ctx, "the pod to answer "+p.Node, func() error {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+address.String()+"/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(body), "Hostname: "+p.Name+"\n") {
			return fmt.Errorf("someone else answers: %q", body)
		}
		return nil
	})
}

// cniAdd has the node's daemon wire the pod up, and returns its IPv4 address.
func (l *Lab) cniAdd(ctx context.Context, r record, p PodSpec, containerID string) (netip.Addr, error) {
	out, err := l.cni(ctx, r, "ADD", p, containerID)
	if err != nil {
		return netip.Addr{}, err
	}
	var result struct {
		IPs []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return netip.Addr{}, fmt.Errorf("read CNI result: %w: %s", err, out)
	}
	for _, ip := range result.IPs {
		if ip.Address.Addr().Is4() {
			return ip.Address.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("read CNI result: no IPv4 address in %s", out)
}

// cni runs seamark-cni for a pod, as a container runtime does.
func (l *Lab) cni(ctx context.Context, r record, command string, p PodSpec, containerID string) ([]byte, error) {
	config, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "seamark", "type": "seamark-cni",
		"socket":        filepath.Join(l.runDir(p.Node), "cni.sock"),
		"runtimeConfig": map[string]any{"portMappings": p.HostPorts},
	})
	if err != nil {
		return nil, fmt.Errorf("write CNI configuration: %w", err)
	}
	namespace, _, _ := strings.Cut(p.Service, "/")
	cmd := l.namespace(p.Node).command(ctx, filepath.Join(r.BinDir, "seamark-cni"))
	cmd.Stdin = bytes.NewReader(config)
	netns := l.namespace(p.Name).Path()
	if command == "DEL" {
		netns = "" // it is gone, as after every boot
	}
	cmd.Env = append(l.env(r, p.Node),
		"CNI_COMMAND="+command,
		"CNI_CONTAINERID="+containerID,
		"CNI_NETNS="+netns,
		"CNI_IFNAME="+podInterface,
		"CNI_PATH="+r.BinDir,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE="+namespace+";K8S_POD_NAME="+p.Name+";K8S_POD_INFRA_CONTAINER_ID="+containerID,
	)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		return nil, fmt.Errorf("run seamark-cni %s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return out, nil
}

// wirePlain gives a pod a veth and an address with nothing but the kernel.
func (l *Lab) wirePlain(t Topology, p PodSpec) (netip.Addr, error) {
	fail := func(err error) (netip.Addr, error) { return netip.Addr{}, fmt.Errorf("wire up: %w", err) }
	node, _ := t.host(p.Node)
	address := node.PodCIDRs[0].Masked().Addr().Next()
	var index int
	for i, q := range t.podsOn(p.Node) {
		address = address.Next() // the first address is left out, as CNI plugins do
		if q.Name == p.Name {
			index = i
			break
		}
	}
	if !node.PodCIDRs[0].Contains(address) {
		return fail(fmt.Errorf("podCIDR %s is full", node.PodCIDRs[0]))
	}
	pod, err := openNS(l.namespace(p.Name))
	if err != nil {
		return fail(err)
	}
	defer pod.Close()
	host := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: podInterface, PeerNamespace: netlink.NsFd(pod.Fd())}
	host.Name = fmt.Sprintf("pod%d", index)
	host.HardwareAddr = l.mac(p.Name, host.Name)
	err = l.namespace(p.Node).Do(func() error {
		if err := netlink.LinkAdd(host); err != nil {
			return fmt.Errorf("create veth: %w", err)
		}
		if err := disableTxChecksum(host.Name); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(host); err != nil {
			return fmt.Errorf("set veth up: %w", err)
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	if err := l.namespace(p.Name).Do(func() error { return configurePod(address, host) }); err != nil {
		return fail(err)
	}
	err = l.namespace(p.Node).Do(func() error {
		return netlink.RouteReplace(&netlink.Route{
			Dst: ipNet(netip.PrefixFrom(address, 32)), LinkIndex: host.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
	if err != nil {
		return fail(fmt.Errorf("add route: %w", err))
	}
	return address, nil
}

// configurePod sets up eth0 of the pod that it runs in.
func configurePod(address netip.Addr, host *netlink.Veth) error {
	eth0, err := netlink.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("find %s: %w", podInterface, err)
	}
	if err := disableTxChecksum(podInterface); err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, 32))}); err != nil {
		return fmt.Errorf("add address: %w", err)
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("set %s up: %w", podInterface, err)
	}
	err = netlink.NeighSet(&netlink.Neigh{
		LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: podGateway.AsSlice(), HardwareAddr: host.HardwareAddr})
	if err != nil {
		return fmt.Errorf("add gateway's MAC: %w", err)
	}
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: eth0.Attrs().Index, Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)),
		Gw: podGateway.AsSlice(), Flags: unix.RTNH_F_ONLINK})
	if err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}
