package testlab

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed topology.yaml
var defaultTopology []byte

// topologies are those that have a name: the files' own, without .yaml.
//
//go:embed topologies/*.yaml
var topologies embed.FS

// Topology is the plan of a lab.
type Topology struct {
	// Networks are Ethernet segments, each one bridge.
	Networks []string   `yaml:"networks"`
	Hosts    []HostSpec `yaml:"hosts"`
	Pods     []PodSpec  `yaml:"pods"`
}

// Role is what a host of the lab does.
type Role string

// The roles. A host without one is a plain machine.
const (
	RoleRouter       Role = "router"        // forwards between its interfaces
	RoleNode         Role = "node"          // runs seamarkd and pods
	RoleControlPlane Role = "control-plane" // runs the store, or Kubernetes; at most one
)

// HostSpec is one machine of a Topology: one network namespace.
type HostSpec struct {
	Name       string      `yaml:"name"`
	Role       Role        `yaml:"role,omitempty"`
	Interfaces []Interface `yaml:"interfaces"`
	Routes     []Route     `yaml:"routes,omitempty"`
	// PodCIDRs of a node; pods get their addresses from the first.
	PodCIDRs []netip.Prefix `yaml:"podCIDRs,omitempty"`
	// FRR is the configuration (frr.conf) of the FRR that a router, or a plain
	// machine, runs; "" for none.
	FRR string `yaml:"frr,omitempty"`
}

// Interface of a hostSpec.
type Interface struct {
	Name string `yaml:"name"`
	// Network it is plugged into; "" for one that is up and leads nowhere.
	Network   string         `yaml:"network,omitempty"`
	Addresses []netip.Prefix `yaml:"addresses,omitempty"`
}

// Route of a HostSpec.
type Route struct {
	To  netip.Prefix `yaml:"to"`
	Via netip.Addr   `yaml:"via"`
}

// PodSpec is a network namespace behind a node, in which a web server answers on
// port 80 (testlab/webpod).
type PodSpec struct {
	Name string `yaml:"name"`
	Node string `yaml:"node"`
	// Service (namespace/name) that the pod is an endpoint of. The pod lives
	// in the same Kubernetes namespace.
	Service string `yaml:"service"`
	// HostPorts are ports of the node that lead to the pod's.
	HostPorts []HostPort `yaml:"hostPorts,omitempty"`
}

// HostPort is an entry of the CNI convention's portMappings.
type HostPort struct {
	HostPort      int    `yaml:"hostPort" json:"hostPort"`
	ContainerPort int    `yaml:"containerPort" json:"containerPort"`
	Protocol      string `yaml:"protocol" json:"protocol"`
}

// DefaultTopology is the lab of DESIGN §9: router, api, k8s-ctr, k8s-w1,
// k8s-w0 and three webpods.
func DefaultTopology() Topology {
	t, err := ParseTopology(defaultTopology)
	if err != nil {
		panic(err) // the embedded file is part of the program
	}
	return t
}

// TopologyNames are those that ReadTopology knows without a file.
func TopologyNames() []string {
	files, err := fs.Glob(topologies, "topologies/*.yaml")
	if err != nil {
		panic(err) // the pattern is well-formed
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(path.Base(file), ".yaml")
	}
	return files
}

// ReadTopology reads a topology of TopologyNames, or else from a YAML file.
func ReadTopology(file string) (Topology, error) {
	read := os.ReadFile
	if slices.Contains(TopologyNames(), file) {
		read = func(name string) ([]byte, error) { return topologies.ReadFile("topologies/" + name + ".yaml") }
	}
	data, err := read(file)
	if err != nil {
		return Topology{}, fmt.Errorf("read topology: %w; those with a name are %s", err, strings.Join(TopologyNames(), ", "))
	}
	t, err := ParseTopology(data)
	if err != nil {
		return Topology{}, fmt.Errorf("read topology %s: %w", file, err)
	}
	return t, nil
}

// ParseTopology reads a topology from YAML and checks it; unknown fields are
// an error.
func ParseTopology(data []byte) (Topology, error) {
	var t Topology
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&t); err != nil {
		return Topology{}, err
	}
	return t, t.validate()
}

// hostName is a DNS label; together with the lab's name it is a file name.
var hostName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// reservedNames are files and namespaces of the lab that are no host.
var reservedNames = []string{wireName, logDir}

func (t Topology) validate() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	seen := map[string]bool{}
	name := func(what, name string) {
		switch {
		case !hostName.MatchString(name):
			refuse("%s %q: the name must be a DNS label (a-z, 0-9, -)", what, name)
		case slices.Contains(reservedNames, name):
			refuse("%s %q: the name is taken by the lab itself", what, name)
		case seen[name]:
			refuse("%s %q: the name is given twice", what, name)
		}
		seen[name] = true
	}
	networks := map[string]bool{}
	for _, n := range t.Networks {
		if n == "" || len(n) > maxInterfaceName || strings.ContainsAny(n, "/ \t\n") || networks[n] {
			refuse("network %q: the name must be unique and fit an interface name (1–%d characters)", n, maxInterfaceName)
		}
		networks[n] = true
	}
	owner := map[netip.Addr]string{}
	controlPlanes := 0
	for _, h := range t.Hosts {
		name("host", h.Name)
		switch h.Role {
		case RoleNode:
			if len(h.PodCIDRs) == 0 {
				refuse("host %s: a node needs podCIDRs", h.Name)
			} else if !h.PodCIDRs[0].Addr().Is4() || h.PodCIDRs[0].Bits() > 30 {
				refuse("host %s: podCIDRs: the first must be an IPv4 network of at least 4 addresses, not %s", h.Name, h.PodCIDRs[0])
			}
			if !h.internalIP().IsValid() {
				refuse("host %s: a node needs an interface eth1 with an address (its InternalIP)", h.Name)
			}
		case RoleControlPlane:
			if controlPlanes++; controlPlanes > 1 {
				refuse("host %s: there is a control-plane host already", h.Name)
			}
			if len(h.Interfaces) == 0 || len(h.Interfaces[0].Addresses) == 0 {
				refuse("host %s: the control-plane host needs an address on its first interface", h.Name)
			}
		case RoleRouter, "":
		default:
			refuse("host %s: role %q: want router, node, control-plane or none", h.Name, h.Role)
		}
		if h.FRR != "" && (h.Role == RoleNode || h.Role == RoleControlPlane) {
			refuse("host %s: frr: a %s runs none: its role must be router, or none", h.Name, h.Role)
		}
		h.validateInterfaces(refuse, networks, owner)
	}
	for _, p := range t.Pods {
		name("pod", p.Name)
		if h, ok := t.host(p.Node); !ok || h.Role != RoleNode {
			refuse("pod %s: node %q is no host with role node", p.Name, p.Node)
		}
		if ns, svc, ok := strings.Cut(p.Service, "/"); !ok || !hostName.MatchString(ns) || !hostName.MatchString(svc) {
			refuse("pod %s: service %q: want namespace/name", p.Name, p.Service)
		}
	}
	return errors.Join(errs...)
}

const maxInterfaceName = 15 // IFNAMSIZ less the NUL

func (h HostSpec) validateInterfaces(refuse func(string, ...any), networks map[string]bool, owner map[netip.Addr]string) {
	seen := map[string]bool{"lo": true}
	for _, i := range h.Interfaces {
		if i.Name == "" || len(i.Name) > maxInterfaceName || strings.ContainsAny(i.Name, "/ \t\n") || seen[i.Name] {
			refuse("host %s: interface %q: the name must be unique, not lo, of 1–%d characters", h.Name, i.Name, maxInterfaceName)
		}
		seen[i.Name] = true
		if i.Network != "" && !networks[i.Network] {
			refuse("host %s: interface %s: network %q is not among networks", h.Name, i.Name, i.Network)
		}
		for _, p := range i.Addresses {
			if other := owner[p.Addr()]; other != "" {
				refuse("host %s: address %s is given to %s already", h.Name, p.Addr(), other)
			}
			owner[p.Addr()] = h.Name
		}
	}
	for _, r := range h.Routes {
		if !slices.ContainsFunc(h.Interfaces, func(i Interface) bool {
			return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Contains(r.Via) })
		}) {
			refuse("host %s: route %s: gateway %s is on no network of the host", h.Name, r.To, r.Via)
		}
	}
}

func (t Topology) host(name string) (HostSpec, bool) {
	i := slices.IndexFunc(t.Hosts, func(h HostSpec) bool { return h.Name == name })
	if i < 0 {
		return HostSpec{}, false
	}
	return t.Hosts[i], true
}

func (t Topology) pod(name string) (PodSpec, bool) {
	i := slices.IndexFunc(t.Pods, func(p PodSpec) bool { return p.Name == name })
	if i < 0 {
		return PodSpec{}, false
	}
	return t.Pods[i], true
}

func (t Topology) controlPlane() (HostSpec, bool) {
	i := slices.IndexFunc(t.Hosts, func(h HostSpec) bool { return h.Role == RoleControlPlane })
	if i < 0 {
		return HostSpec{}, false
	}
	return t.Hosts[i], true
}

// only is the host alone, with its pods.
func (t Topology) only(h HostSpec) Topology {
	return Topology{Hosts: []HostSpec{h}, Pods: t.podsOn(h.Name)}
}

func (t Topology) nodes() []HostSpec {
	return slices.DeleteFunc(slices.Clone(t.Hosts), func(h HostSpec) bool { return h.Role != RoleNode })
}

func (t Topology) podsOn(node string) []PodSpec {
	return slices.DeleteFunc(slices.Clone(t.Pods), func(p PodSpec) bool { return p.Node != node })
}

// internalIP is the first address of eth1, as in the lab people know.
func (h HostSpec) internalIP() netip.Addr {
	for _, i := range h.Interfaces {
		if i.Name == "eth1" && len(i.Addresses) > 0 {
			return i.Addresses[0].Addr()
		}
	}
	return netip.Addr{}
}
