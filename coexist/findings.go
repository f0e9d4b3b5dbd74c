package coexist

// OwnPlugin is the type of Seamark's CNI plugin.
const OwnPlugin = "seamark-cni"

// Findings are what a node has, as far as it matters to Seamark. Of what was
// not found out, nothing is said: no zero value is a Problem.
type Findings struct {
	// CNI are the network configurations, in the order in which container
	// runtimes read them: the first is what they wire pods up with.
	CNI []CNIConfig
	// Devices that another project made, sorted by name.
	Devices []Device
	// KubeProxy are the modes that rules of kube-proxy are there of.
	KubeProxy []ProxyMode
	// Bridges are the devices that are bridges, sorted. BridgeNetfilter: what
	// comes over them meets iptables before the bridge has it
	// (net.bridge.bridge-nf-call-iptables).
	Bridges         []string
	BridgeNetfilter bool
	// NoForwarding: net.ipv4.ip_forward is 0.
	NoForwarding bool
	// Strict are the devices whose reverse-path filter is strict (RFC 3704,
	// section 2.2), sorted; AllStrict: every device's is, whatever it says itself.
	Strict    []string
	AllStrict bool
	// AnyARP are the devices on which the kernel answers ARP for the addresses
	// of every device (arp_ignore 0), sorted.
	AnyARP []string
}

// CNIConfig is a file with a network configuration.
type CNIConfig struct {
	File string
	// Plugins are the types of its plugins, the one that makes the interface first.
	Plugins []string
	// Err says why the file is none.
	Err string
}

// Device is a network device that another project made.
type Device struct{ Name, Product string }

// ProxyMode is how kube-proxy does its work.
type ProxyMode string

// The modes of kube-proxy.
const (
	ModeIPTables ProxyMode = "iptables"
	ModeNFTables ProxyMode = "nftables"
	ModeIPVS     ProxyMode = "ipvs"
)
