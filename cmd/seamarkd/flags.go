package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/announce"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/pod"
	"github.com/seamark-lb/seamark/source/etcd"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/pflag"
)

// nodeFlags are what this node is and how it announces.
type nodeFlags struct {
	mode     string
	name     string
	bpffs    string
	stateDir string
	runDir   string
	// cniConfDir is the container runtime's.
	cniConfDir string

	addr string

	kernel kernelFlags

	frontends frontendFlags

	leaseDuration time.Duration
	leaseRenew    time.Duration
	restartGrace  time.Duration
	drainOnCordon bool
	clockOffset   string
	bgpDrainDelay time.Duration
	probeFirst    bool

	bfd bfdFlags

	observe observeFlags
}

func (f *nodeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.mode, "mode", modeNode,
		"node: of the cluster, with pods on it; lb: an appliance in front of it, which wires no pods and routes to none, forwards by snat unless told otherwise, and need not be a Node object")
	fs.StringVar(&f.name, "node-name", "", "name of this node's Node object (default: the host name)")
	fs.StringVar(&f.addr, "node-ip", "", "this node's address between nodes (default: the source of its default route)")
	fs.StringVar(&f.bpffs, "bpffs", "/sys/fs/bpf", "bpffs mount that programs and maps are pinned in")
	fs.StringVar(&f.stateDir, "state-dir", "/var/lib/seamark", "directory for what outlives a reboot")
	fs.StringVar(&f.runDir, "run-dir", "/run/seamark", "directory for the control socket, the CNI socket and the lock")
	fs.StringVar(&f.cniConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of the container runtime's network configurations, to see whose pods' are")
	f.kernel.register(fs)
	f.frontends.register(fs)
	fs.DurationVar(&f.leaseDuration, "lease-duration", 3*time.Second, "how long this node's lease lasts unrenewed; its addresses move after that")
	fs.DurationVar(&f.leaseRenew, "lease-renew", time.Second, "how often the lease is renewed: one write to the store each")
	fs.DurationVar(&f.restartGrace, "restart-grace", 30*time.Second, "how long a daemon that stopped cleanly keeps its addresses")
	fs.BoolVar(&f.drainOnCordon, "drain-on-cordon", false, "nodes that are cordoned (spec.unschedulable) announce no addresses; the same on every node")
	fs.StringVar(&f.clockOffset, "clock-offset-file", "", "file with a duration that the announcer's wall clock is off by, for tests of clocks that are stepped")
	_ = fs.MarkHidden("clock-offset-file") // it exists: the line above
	fs.BoolVar(&f.probeFirst, "detect-conflicts", true,
		"ask the segment whether another machine has an address before it is announced for the first time, which takes 0.6 s (RFC 5227, RFC 4862)")
	fs.DurationVar(&f.bgpDrainDelay, "bgp-drain-delay", 5*time.Second,
		"how long routers have to find other paths before a node that is drained, or shuts down, withdraws its routes (GRACEFUL_SHUTDOWN, RFC 8326)")
	f.bfd.register(fs)
	f.observe.register(fs)
}

// maxDrainDelay bounds --bgp-drain-delay.
const maxDrainDelay = 10 * time.Minute

// Values of --mode.
const (
	modeNode = "node"
	modeLB   = "lb"
)

// detection is what --detect-conflicts means to package announce.
func (f *nodeFlags) detection() announce.Detection {
	if !f.probeFirst {
		return announce.Detection{Count: -1}
	}
	return announce.DefaultDetection
}

// complete fills in what was left out and refuses what cannot work.
func (f *nodeFlags) complete() error {
	if err := oneOf("mode", f.mode, modeNode, modeLB); err != nil {
		return err
	}
	if f.mode == modeLB {
		if err := pod.CheckNone(f.stateDir); err != nil {
			return fmt.Errorf("--mode lb: %w", err)
		}
		// No CNI's configuration here is one to tell of: there are no pods.
		f.cniConfDir = ""
	}
	if f.frontends.Forwarding == "" {
		f.frontends.Forwarding = map[string]state.Forwarding{modeNode: state.ForwardDSR, modeLB: state.ForwardSNAT}[f.mode]
	}
	if f.mode == modeLB && f.frontends.Forwarding == state.ForwardKubeProxy {
		return errors.New("--forwarding-mode kube-proxy: there is none with --mode lb: write dsr, snat or hybrid")
	}
	if f.name == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name (or give --node-name): %w", err)
		}
		f.name = name
	}
	if f.leaseRenew <= 0 || f.leaseDuration < 3*f.leaseRenew {
		return fmt.Errorf("--lease-duration %v is less than three times --lease-renew %v: one lost write would cost the node its addresses; raise the first or lower the second",
			f.leaseDuration, f.leaseRenew)
	}
	if f.leaseDuration%time.Second != 0 || f.restartGrace%time.Second != 0 {
		return errors.New("--lease-duration and --restart-grace are whole seconds, as a Lease holds them")
	}
	if f.restartGrace < f.leaseDuration {
		return fmt.Errorf("--restart-grace %v is less than --lease-duration %v: every restart would move addresses", f.restartGrace, f.leaseDuration)
	}
	if f.bgpDrainDelay < 0 || f.bgpDrainDelay > maxDrainDelay {
		return fmt.Errorf("--bgp-drain-delay %v: want 0s to %v", f.bgpDrainDelay, maxDrainDelay)
	}
	if err := errors.Join(f.bfd.validate(), f.observe.validate()); err != nil {
		return err
	}
	return f.frontends.complete()
}

// frontendFlags are what Services get that say nothing else.
type frontendFlags struct {
	datapath.Defaults

	nodePortAddresses []string
}

func (f *frontendFlags) register(fs *pflag.FlagSet) {
	fs.StringVar((*string)(&f.Forwarding), "forwarding-mode", "",
		"how packets reach backends on other machines: dsr (the backend's node answers the client), snat (answers come back here), hybrid (dsr for TCP and SCTP, snat for UDP), or kube-proxy (which forwards them, as beside another CNI); a Service's annotation goes before it (default: dsr; snat with --mode lb)")
	fs.StringVar((*string)(&f.Dispatch), "dsr-dispatch", string(state.DispatchIPIP),
		"tunnel of dsr: ipip (to the pod's address, which the network between nodes must know) or geneve (to the node's)")
	fs.StringSliceVar(&f.nodePortAddresses, "node-port-addresses", nil,
		"CIDRs of this node's addresses that node ports are served on (default: all of the devices that face outside)")
	fs.StringVar((*string)(&f.KubeProxyReplacement), "kube-proxy-replacement", string(datapath.ReplaceAuto),
		"serve ClusterIPs and node ports: true, false, or auto (unless kube-proxy runs in the cluster, or --forwarding-mode is kube-proxy)")
	fs.StringVar((*string)(&f.Unserved), "unserved", string(state.UnservedDrop),
		"what becomes of packets to a Service without backends: drop, or refuse (TCP RST, ICMP port unreachable)")
}

// complete refuses what is no value, and reads the prefixes.
func (f *frontendFlags) complete() error {
	for _, err := range []error{
		oneOf("forwarding-mode", f.Forwarding, state.ForwardDSR, state.ForwardSNAT, state.ForwardHybrid, state.ForwardKubeProxy),
		oneOf("dsr-dispatch", f.Dispatch, state.DispatchIPIP, state.DispatchGeneve),
		oneOf("kube-proxy-replacement", f.KubeProxyReplacement, datapath.ReplaceAuto, datapath.ReplaceTrue, datapath.ReplaceFalse),
		oneOf("unserved", f.Unserved, state.UnservedDrop, state.UnservedRefuse),
	} {
		if err != nil {
			return err
		}
	}
	// What has the packets to Services' addresses has those to ClusterIPs and node ports, too,
	// also where it is no DaemonSet that could be seen, as in k3s.
	if f.Forwarding == state.ForwardKubeProxy {
		if f.KubeProxyReplacement == datapath.ReplaceTrue {
			return errors.New("--kube-proxy-replacement true: --forwarding-mode kube-proxy leaves Services to the one that would be replaced: write one of the two otherwise")
		}
		f.KubeProxyReplacement = datapath.ReplaceFalse
	}
	f.NodePortAddresses = nil
	for _, text := range f.nodePortAddresses {
		p, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || p.Addr().Is4In6() {
			return fmt.Errorf("--node-port-addresses %q: want CIDRs such as 192.168.10.0/24,fd00:10::/64", text)
		}
		f.NodePortAddresses = append(f.NodePortAddresses, p.Masked())
	}
	return nil
}

// oneOf refuses a flag's value that is none of those allowed.
func oneOf[S ~string](flag string, value S, allowed ...S) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	return fmt.Errorf("--%s %q: want %s or %s", flag, value, strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
}

func (f *nodeFlags) controlSocket() string { return filepath.Join(f.runDir, "seamark.sock") }
func (f *nodeFlags) cniSocket() string     { return filepath.Join(f.runDir, "cni.sock") }

// Values of --store.
const (
	storeEmbedded = "embedded"
	storeEtcd     = "etcd"
	storeKube     = "kube"
)

// storeFlags are where the objects are.
type storeFlags struct {
	engine string
	kube   kubeFlags

	endpoints              []string
	caFile                 string
	certFile, keyFile      string
	user, userPasswordFile string

	server serverFlags
}

func (f *storeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.engine, "store", storeEmbedded, "where objects are kept: kube (the Kubernetes API), embedded (etcd inside this daemon) or etcd (an existing cluster)")
	f.kube.register(fs)
	fs.StringSliceVar(&f.endpoints, "etcd-endpoints", nil, "etcd client URLs, with --store etcd")
	fs.StringVar(&f.caFile, "etcd-ca", "", "CA that signed etcd's certificate")
	fs.StringVar(&f.certFile, "etcd-cert", "", "client certificate for etcd")
	fs.StringVar(&f.keyFile, "etcd-key", "", "its key")
	fs.StringVar(&f.user, "etcd-user", "", "etcd user")
	fs.StringVar(&f.userPasswordFile, "etcd-password-file", "", "file with its password")
	f.server.register(fs)
}

func (f *storeFlags) validate() error {
	switch f.engine {
	case storeEtcd:
		if len(f.endpoints) == 0 {
			return errors.New("--store etcd needs --etcd-endpoints, such as http://10.0.2.10:2379")
		}
	case storeEmbedded, storeKube:
		if len(f.endpoints) > 0 {
			return fmt.Errorf("--etcd-endpoints goes with --store etcd, not with --store %s", f.engine)
		}
	default:
		return fmt.Errorf("--store %q: want kube, embedded or etcd", f.engine)
	}
	if f.kube.config != "" && f.engine != storeKube {
		return fmt.Errorf("--kubeconfig goes with --store kube, not with --store %s", f.engine)
	}
	if f.kube.ignoreOthers && f.engine != storeKube {
		return fmt.Errorf("--ignore-other-announcers goes with --store kube, not with --store %s, which knows of no others", f.engine)
	}
	if f.kube.qps <= 0 {
		return fmt.Errorf("--kube-qps %v: want a number of requests per second above 0", f.kube.qps)
	}
	if (f.certFile == "") != (f.keyFile == "") {
		return errors.New("--etcd-cert and --etcd-key go together")
	}
	if (f.user == "") != (f.userPasswordFile == "") {
		return errors.New("--etcd-user and --etcd-password-file go together")
	}
	return nil
}

// serverFlags are the embedded store's.
type serverFlags struct {
	name           string
	dir            string
	listenClient   string
	listenPeer     string
	initialCluster string
	unsafeNoFsync  bool
	tls            etcd.TLSFiles
}

func (f *serverFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.name, "store-name", "seamark", "this member's name, with --store-initial-cluster")
	fs.StringVar(&f.dir, "store-dir", "/var/lib/seamark/store", "the embedded store's data")
	fs.StringVar(&f.listenClient, "store-listen-client", "http://127.0.0.1:2379", "URL the embedded store serves clients on")
	fs.StringVar(&f.listenPeer, "store-listen-peer", "http://127.0.0.1:2380", "URL the embedded store serves its peers on")
	fs.StringVar(&f.initialCluster, "store-initial-cluster", "", "members of a store of three appliances: a=http://…:2380,b=…,c=…")
	fs.StringVar(&f.tls.Cert, "store-cert", "", "certificate of the embedded store, towards clients and peers; its URLs are https:// then")
	fs.StringVar(&f.tls.Key, "store-key", "", "its key")
	fs.StringVar(&f.tls.CA, "store-ca", "", "CA that clients' and peers' certificates must be of")
	fs.BoolVar(&f.unsafeNoFsync, "store-unsafe-no-fsync", false, "do not wait for the disk; for labs: a power cut loses data")
}

// client is how this process reaches its own store.
func (f *serverFlags) client(urls []string) etcd.Config {
	return etcd.Config{Endpoints: urls, CAFile: f.tls.CA, CertFile: f.tls.Cert, KeyFile: f.tls.Key}
}

// kubeFlags are how the Kubernetes API is reached.
type kubeFlags struct {
	config string
	qps    float32
	// ignoreOthers: other announcers' presence changes nothing.
	ignoreOthers bool
}

func (f *kubeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.config, "kubeconfig", "", "kubeconfig file, with --store kube (default: the pod's service account)")
	fs.Float32Var(&f.qps, "kube-qps", 50, "requests per second to the API server at most, in bursts of twice that; leases apart")
	fs.BoolVar(&f.ignoreOthers, "ignore-other-announcers", false, "serve what MetalLB or Cilium would also while they run")
}

type logFlags struct{ level string }

func (f *logFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
}

func (f *logFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", f.level)
	}
	return newLogger(level), nil
}
