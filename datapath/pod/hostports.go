package pod

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/seamark-lb/seamark/state"
)

// runtimeConfig is what the runtime adds to the network configuration for the
// capabilities that it names: by convention, portMappings are the host ports of a
// pod's containers.
type runtimeConfig struct {
	PortMappings []struct {
		HostPort      int    `json:"hostPort"`
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP"`
	} `json:"portMappings"`
}

// hostPortsOf reads the host ports that a pod is to have, in a fixed order. A
// container port without one has hostPort 0.
func hostPortsOf(raw json.RawMessage) ([]state.HostPort, error) {
	if raw == nil {
		return nil, nil
	}
	var conf runtimeConfig
	if err := json.Unmarshal(raw, &conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read network config: runtimeConfig: "+err.Error(), "")
	}
	var ports []state.HostPort
	for i, m := range conf.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		refused := func(field, message, cure string) error {
			return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("read network config: runtimeConfig.portMappings[%d].%s: %s", i, field, message), cure)
		}
		if m.HostPort < 1 || m.HostPort > 65535 {
			return nil, refused("hostPort", fmt.Sprintf("%d is no port", m.HostPort), "write a port from 1 to 65535")
		}
		if m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, refused("containerPort", fmt.Sprintf("%d is no port", m.ContainerPort), "write a port from 1 to 65535")
		}
		port := state.HostPort{Port: uint16(m.HostPort), Target: uint16(m.ContainerPort)}
		switch strings.ToUpper(m.Protocol) {
		case "TCP", "":
			port.Protocol = state.TCP
		case "UDP":
			port.Protocol = state.UDP
		case "SCTP":
			port.Protocol = state.SCTP
		default:
			return nil, refused("protocol", fmt.Sprintf("%q is none that can be mapped", m.Protocol), "write tcp, udp or sctp")
		}
		if m.HostIP != "" {
			addr, err := netip.ParseAddr(m.HostIP)
			if err != nil || addr.Zone() != "" {
				return nil, refused("hostIP", fmt.Sprintf("%q is no IP address", m.HostIP), "write one of the node's addresses, or none")
			}
			if !addr.IsUnspecified() {
				port.Addr = addr.Unmap()
			}
		}
		ports = append(ports, port)
	}
	slices.SortFunc(ports, compareHostPorts)
	return slices.Compact(ports), nil
}

func compareHostPorts(a, b state.HostPort) int {
	if c := strings.Compare(a.String(), b.String()); c != 0 {
		return c
	}
	return int(a.Target) - int(b.Target)
}

// hostPortsFree refuses an attachment whose host ports another one has. (One
// whose pod is being replaced may keep them for a moment: the runtime tries again.)
func (s *Server) hostPortsFree(v veth) error {
	for _, key := range slices.Sorted(maps.Keys(s.veths)) {
		other := s.veths[key]
		if key == v.RowKey() {
			continue
		}
		for _, p := range v.HostPorts {
			if slices.ContainsFunc(other.HostPorts, p.Overlaps) {
				return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("add pod: host port %s is pod %s's on this node", p, other.Pod),
					"give one of the two another hostPort, or keep them off one node")
			}
		}
	}
	return nil
}
