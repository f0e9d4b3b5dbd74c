package outage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
)

// Over BGP, the router spreads a client's connections over all nodes. The victim
// of the faults has no pod, so what is lost is lost on the way.

const (
	client = "client" // behind the router
	victim = "n0"
	// victimAddr is the victim's, as the router knows it.
	victimAddr = "192.168.10.100"
	// forgotten is longer than a session outlives its peer: the hold time of 9 s.
	forgotten = 13 * time.Second
)

const bgpManifests = `apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: outage}
spec: {blocks: [{start: 192.168.10.211, stop: 192.168.10.211}]}
---
apiVersion: seamark.dev/v1alpha1
kind: BGPInstance
metadata: {name: outage}
spec: {localASN: 65001}
---
apiVersion: seamark.dev/v1alpha1
kind: BGPAdvertisement
metadata: {name: outage}
spec: {advertisements: [{type: LoadBalancer}]}
---
apiVersion: seamark.dev/v1alpha1
kind: BFDProfile
metadata: {name: fast}
spec: {receiveInterval: 100, transmitInterval: 100, detectMultiplier: 3}
---
apiVersion: v1
kind: Service
metadata: {name: webpod, namespace: default}
spec:
  type: LoadBalancer
  loadBalancerClass: seamark.dev/bgp
  selector: {app: webpod}
  ports:
  - {name: http, port: 80, targetPort: 80, protocol: TCP}
  - {name: udp, port: 80, targetPort: 80, protocol: UDP}
---
`

const bgpPeer = `apiVersion: seamark.dev/v1alpha1
kind: BGPPeer
metadata: {name: router}
spec:
  autoDiscovery: {mode: DefaultGateway, addressFamily: ipv4}
  peerASN: 65000
  families: [{afi: ipv4, safi: unicast}]
  timers: {connectRetryTimeSeconds: 1, keepAliveTimeSeconds: 3, holdTimeSeconds: 9}
  gracefulRestart: {enabled: true, restartTimeSeconds: 60}
`

// BGPFault is a fault that happens to nodes which a router knows by BGP.
type BGPFault struct {
	Fault
	// BFD is kept beside the sessions, three packets of 100 ms.
	BFD bool
}

// vtysh has the router's FRR do something.
func vtysh(command string) func(context.Context, lab, cast) error {
	return func(ctx context.Context, l lab, _ cast) error { return l.run(ctx, router, "vtysh", "-c", command) }
}

// routerDaemon acts on the router's FRR.
func routerDaemon(action string) func(context.Context, lab, cast) error {
	return func(ctx context.Context, l lab, _ cast) error { return l.Daemon(ctx, router, action) }
}

// BGPFaults are those that are measured over BGP, in the order of the table.
var BGPFaults = []BGPFault{
	{Fault: Fault{Name: "nothing at all", Inject: nothing, Heal: nothing, Lasts: 5 * time.Second, Dead: nobody}},
	{Fault: Fault{Name: "drained", Lasts: moving, Dead: nobody,
		Inject: func(ctx context.Context, l lab, c cast) error { return l.tell(ctx, "drain", c.holder) },
		Heal:   func(ctx context.Context, l lab, c cast) error { return l.tell(ctx, "undrain", c.holder) }}},
	{Fault: Fault{Name: "daemon restarted", Inject: daemonOf(testlab.Stop), Heal: daemonOf(testlab.Start), Lasts: time.Second, Dead: nobody}},
	{Fault: Fault{Name: "all daemons restarted at once", Lasts: time.Second, Dead: nobody,
		Inject: func(ctx context.Context, l lab, _ cast) error { return l.each(ctx, nodes, testlab.Stop) },
		Heal:   func(ctx context.Context, l lab, _ cast) error { return l.each(ctx, nodes, testlab.Start) }}},
	{Fault: Fault{Name: "daemon SIGKILLed", Inject: daemonOf(testlab.Kill), Heal: daemonOf(testlab.Start), Lasts: moving, Dead: nobody}},
	{Fault: Fault{Name: "power off", Inject: powerOff, Heal: powerOn, Lasts: forgotten, Dead: nobody}},
	{Fault: Fault{Name: "power off, BFD", Inject: powerOff, Heal: powerOn, Lasts: forgotten, Dead: nobody}, BFD: true},
	{Fault: Fault{Name: "BGP's packets dropped", Inject: dropBGP, Heal: passBGP, Lasts: forgotten, Dead: nobody}},
	{Fault: Fault{Name: "session reset", Inject: vtysh("clear bgp " + victimAddr), Heal: nothing, Lasts: 5 * time.Second, Dead: nobody}},
	{Fault: Fault{Name: "all sessions reset", Inject: vtysh("clear bgp *"), Heal: nothing, Lasts: 5 * time.Second, Dead: nobody}},
	{Fault: Fault{Name: "router's FRR restarted", Inject: routerDaemon(testlab.Stop), Heal: routerDaemon(testlab.Start), Lasts: time.Second, Dead: nobody}},
}

// dropBGP has the router drop the victim's BGP, and nothing else: both find out when
// the hold time is over.
func dropBGP(ctx context.Context, l lab, _ cast) error {
	return l.run(ctx, router, "nft", fmt.Sprintf(`table ip fault {
	chain in { type filter hook input priority 0; ip saddr %[1]s tcp dport 179 drop; }
	chain out { type filter hook output priority 0; ip daddr %[1]s tcp sport 179 drop; }
}`, victimAddr))
}

func passBGP(ctx context.Context, l lab, _ cast) error {
	return l.run(ctx, router, "nft", "delete table ip fault")
}

// BGPTopology is the lab of Topology with a router that speaks BGP, as that of the
// lab bgp does, and a client behind it; the victim has no pod.
func BGPTopology() (testlab.Topology, error) {
	named, err := testlab.ReadTopology("bgp")
	if err != nil {
		return testlab.Topology{}, err
	}
	routers := slices.IndexFunc(named.Hosts, func(h testlab.HostSpec) bool { return h.Name == router })
	gateway := netip.MustParsePrefix("10.10.3.200/24")
	link := func(name string, address netip.Prefix) testlab.Interface {
		return testlab.Interface{Name: name, Network: "outside", Addresses: []netip.Prefix{address}}
	}
	plan := Topology()
	plan.Networks = append(plan.Networks, "outside")
	for i := range plan.Hosts {
		if h := &plan.Hosts[i]; h.Name == router {
			h.Interfaces = append(h.Interfaces, link("eth3", gateway))
			h.FRR = named.Hosts[routers].FRR
		}
	}
	plan.Pods = slices.DeleteFunc(plan.Pods, func(p testlab.PodSpec) bool { return p.Node == victim })
	plan.Hosts = append(plan.Hosts, testlab.HostSpec{Name: client,
		Interfaces: []testlab.Interface{link("eth1", netip.MustParsePrefix("10.10.3.10/24"))},
		Routes:     []testlab.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway.Addr()}}})
	return plan, nil
}

// run runs a command on a host.
func (l lab) run(ctx context.Context, host string, argv ...string) error {
	_, err := l.output(ctx, host, argv...)
	return err
}

func (l lab) output(ctx context.Context, host string, argv ...string) ([]byte, error) {
	h, err := l.Host(host)
	if err != nil {
		return nil, err
	}
	cmd := h.Command(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s on %s: %w: %s%s", argv[0], host, err, out, stderr.Bytes())
	}
	return out, nil
}

// speakBGP has the nodes' sessions be with BFD, or without it, and waits until every
// node has its share of the VIP's packets.
func (l lab) speakBGP(ctx context.Context, bfd bool) error {
	peer := bgpPeer
	if bfd {
		peer += "  bfdProfile: fast\n"
	}
	if err := l.Apply(ctx, peer); err != nil {
		return err
	}
	return await(ctx, "the router spreads the VIP over all nodes", func() error {
		for _, node := range nodes {
			var sessions []struct{ Peer, State string }
			if err := l.seamark(ctx, &sessions, node, "bgp", "peers"); err != nil {
				return err
			}
			if len(sessions) != 1 || sessions[0].State != "Established" {
				return fmt.Errorf("%s: sessions %v", node, sessions)
			}
		}
		hops, err := l.nextHops(ctx)
		if err == nil && hops != len(nodes) {
			err = fmt.Errorf("over %d of %d", hops, len(nodes))
		}
		if err == nil && bfd {
			err = l.routerBFD(ctx)
		}
		return err
	})
}

// nextHops is over how many nodes the router's kernel spreads the VIP.
func (l lab) nextHops(ctx context.Context) (int, error) {
	out, err := l.output(ctx, router, "ip", "-j", "route", "show", vip.String())
	if err != nil {
		return 0, err
	}
	var routes []struct{ Nexthops []struct{ Gateway string } }
	if err := json.Unmarshal(out, &routes); err != nil {
		return 0, err
	}
	hops := 0
	for _, r := range routes {
		hops += len(r.Nexthops)
	}
	return hops, nil
}

// routerBFD says which node the router has no BFD with.
func (l lab) routerBFD(ctx context.Context) error {
	out, err := l.output(ctx, router, "vtysh", "-c", "show bfd peers json")
	if err != nil {
		return err
	}
	var peers []struct{ Peer, Status string }
	if err := json.Unmarshal(out, &peers); err != nil {
		return err
	}
	up := 0
	for _, p := range peers {
		if p.Status == "up" {
			up++
		}
	}
	if up != len(nodes) {
		return fmt.Errorf("BFD of the router is up with %d of %d nodes: %v", up, len(nodes), peers)
	}
	return nil
}

// measureBGP lets one fault happen.
func measureBGP(ctx context.Context, l lab, f BGPFault) (Run, error) {
	if err := l.speakBGP(ctx, f.BFD); err != nil {
		return Run{}, err
	}
	if err := l.answering(ctx); err != nil {
		return Run{}, err
	}
	from, err := l.Host(client)
	if err != nil {
		return Run{}, err
	}
	streams, err := traffic.OpenStreams(ctx, from, web, streamCount, streamInterval)
	if err != nil {
		return Run{}, err
	}
	defer streams.Close()
	watch, stop := context.WithCancel(ctx)
	defer stop()
	probes := later(func() (traffic.ProbeResult, error) { return traffic.ProbeUDP(watch, from, web, probesPerSecond) })
	c := cast{holder: victim}
	err = l.happen(ctx, f.Fault, c)
	stop()
	probed, probeErr := probes()
	if err := errors.Join(err, probeErr); err != nil {
		return Run{}, fmt.Errorf("%s: %w", f.Name, err)
	}
	return judge(probed, streams.Result(), traffic.ARPResult{}, f.Dead(c)), l.speakBGP(ctx, f.BFD)
}

// BenchBGP measures every fault runs times in one lab, and tells each result as it comes.
func BenchBGP(ctx context.Context, config testlab.Config, faults []BGPFault, runs int, tell func(BGPFault, Run)) (results []Result, err error) {
	if config.Topology, err = BGPTopology(); err != nil {
		return nil, err
	}
	inner, err := testlab.Up(ctx, config)
	if err != nil {
		return nil, err
	}
	l := lab{inner, client}
	defer func() { err = errors.Join(err, l.Down()) }()
	if err := l.Apply(ctx, bgpManifests); err != nil {
		return nil, err
	}
	for _, f := range faults {
		r := Result{Fault: f.Name}
		for range runs {
			run, err := measureBGP(ctx, l, f)
			if err != nil {
				return results, err
			}
			tell(f, run)
			r.Runs = append(r.Runs, run)
		}
		results = append(results, r)
	}
	return results, nil
}
