package outage

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"golang.org/x/sync/errgroup"
)

//go:embed topology.yaml
var topology []byte

// Topology is the lab that outages are measured in.
func Topology() testlab.Topology {
	t, err := testlab.ParseTopology(topology)
	if err != nil {
		panic(err) // the embedded file is part of the program
	}
	return t
}

const manifests = `apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: outage}
spec: {blocks: [{start: 192.168.10.211, stop: 192.168.10.211}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: outage}
spec: {interfaces: [^eth1$], loadBalancerIPs: true}
---
apiVersion: v1
kind: Service
metadata: {name: webpod, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: webpod}
  ports:
  - {name: http, port: 80, targetPort: 80, protocol: TCP}
  - {name: udp, port: 80, targetPort: 80, protocol: UDP}
`

// What of the topology the faults name.
const router = "router"

var (
	front = []string{"n0", "n1", "n2"} // may announce
	back  = []string{"n3", "n4"}       // are asked how things stand, and suffer no fault but as coordinator
	nodes = slices.Concat(front, back)
	vip   = netip.MustParseAddr("192.168.10.211")
	web   = netip.AddrPortFrom(vip, 80)
)

func podOn(node string) string { return "webpod-" + strings.TrimPrefix(node, "n") }

// within bounds what is awaited between measurements.
const within = 90 * time.Second

// lab is the lab, up.
type lab struct {
	*testlab.Lab
	// from is the host that asks the VIP.
	from string
}

// bringUp makes the lab and waits until the VIP is served.
func bringUp(ctx context.Context, config testlab.Config) (lab, error) {
	config.Topology = Topology()
	inner, err := testlab.Up(ctx, config)
	if err != nil {
		return lab{}, err
	}
	l := lab{inner, router}
	err = l.Apply(ctx, manifests)
	if err == nil {
		err = l.settled(ctx)
	}
	if err != nil {
		return lab{}, errors.Join(err, l.Down())
	}
	return l, nil
}

// serveUDP has the pods be endpoints for UDP as they are for TCP, which the
// lab sees to. Their addresses may have changed with a reboot.
func (l lab) serveUDP(ctx context.Context) error {
	var slice map[string]any
	if err := l.seamark(ctx, &slice, back[0], "get", "endpointslice", "webpod-1"); err != nil {
		return err
	}
	slice["metadata"] = map[string]any{"name": "webpod-udp", "namespace": "default",
		"labels": map[string]any{"kubernetes.io/service-name": "webpod"}}
	slice["ports"] = []any{map[string]any{"name": "udp", "port": 80, "protocol": "UDP"}}
	manifest, err := json.Marshal(slice)
	if err != nil {
		return err
	}
	return l.Apply(ctx, string(manifest))
}

// await waits until try succeeds.
func await(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// seamark asks a node's daemon for JSON.
func (l lab) seamark(ctx context.Context, into any, node string, args ...string) error {
	h, err := l.Host(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := h.Command(ctx, "seamark", append(args, "-o", "json")...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("seamark %s on %s: %w: %s", strings.Join(args, " "), node, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return json.Unmarshal(out.Bytes(), into)
}

// tell has a node behind the router run seamark.
func (l lab) tell(ctx context.Context, args ...string) error {
	h, err := l.Host(back[0])
	if err != nil {
		return err
	}
	if out, err := h.Command(ctx, "seamark", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("seamark %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// announcement is who announces the VIP; the generation tells how often that changed.
type announcement struct {
	Node       string
	Generation int64
}

// announcement asks a node for it.
func (l lab) announcement(ctx context.Context, from string) (a announcement, err error) {
	err = l.seamark(ctx, &a, from, "get", "announcement", vip.String())
	if err == nil && a.Node == "" {
		err = errors.New("nobody announces the VIP")
	}
	return a, err
}

// holder asks a node who announces the VIP.
func (l lab) holder(ctx context.Context, from string) (string, error) {
	a, err := l.announcement(ctx, from)
	return a.Node, err
}

// status is what a node's daemon says of itself.
type status struct {
	Lease       struct{ State string }
	Coordinator struct{ Identity string }
	Store       struct{ Err string }
}

func (l lab) status(ctx context.Context, node string) (s status, err error) {
	return s, l.seamark(ctx, &s, node, "status")
}

// settled waits until every node is well, all agree who announces, and BFD is up
// between those that may.
func (l lab) settled(ctx context.Context) error {
	return await(ctx, "all nodes are well and agree", func() error {
		var holders, coordinators []string
		for _, node := range nodes {
			s, err := l.status(ctx, node)
			if err != nil {
				return err
			}
			if s.Lease.State != "valid" || s.Store.Err != "" || s.Coordinator.Identity == "" {
				return fmt.Errorf("%s: lease %s, coordinator %q, store %q", node, s.Lease.State, s.Coordinator.Identity, s.Store.Err)
			}
			holder, err := l.holder(ctx, node)
			if err != nil {
				return err
			}
			holders, coordinators = append(holders, holder), append(coordinators, s.Coordinator.Identity)
		}
		if len(slices.Compact(holders)) > 1 || len(slices.Compact(coordinators)) > 1 {
			return fmt.Errorf("holders %v, coordinators %v", holders, coordinators)
		}
		return l.bfdUp(ctx)
	})
}

// answering waits until the VIP answers, by TCP and by UDP.
func (l lab) answering(ctx context.Context) error {
	if err := l.serveUDP(ctx); err != nil {
		return err
	}
	from, err := l.Host(l.from)
	if err != nil {
		return err
	}
	return await(ctx, "the VIP answers", func() error {
		for _, probe := range []func(context.Context, traffic.Namespace, netip.AddrPort, int) (traffic.ProbeResult, error){traffic.ProbeTCP, traffic.ProbeUDP} {
			ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			r, err := probe(ctx, from, web, probesPerSecond)
			cancel()
			if err == nil && r.Answered < r.Sent {
				err = errors.New(r.String())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (l lab) bfdUp(ctx context.Context) error {
	for _, node := range front {
		var sessions []struct{ Remote, State string }
		if err := l.seamark(ctx, &sessions, node, "get", "bfd"); err != nil {
			return err
		}
		for _, s := range sessions {
			if s.State != "Up" {
				return fmt.Errorf("BFD of %s with %s is %s", node, s.Remote, s.State)
			}
		}
	}
	return nil
}

// coordinate makes a node the coordinator. The others' daemons stop for a moment, and
// their leases hold meanwhile.
func (l lab) coordinate(ctx context.Context, node string) error {
	if s, err := l.status(ctx, node); err != nil || s.Coordinator.Identity == node {
		return err
	}
	var others []string
	for _, other := range nodes {
		if other != node {
			others = append(others, other)
		}
	}
	if err := l.each(ctx, others, testlab.Stop); err != nil {
		return err
	}
	err := await(ctx, node+" is the coordinator", func() error {
		s, err := l.status(ctx, node)
		if err == nil && s.Coordinator.Identity != node {
			err = fmt.Errorf("%q is", s.Coordinator.Identity)
		}
		return err
	})
	if err = errors.Join(err, l.each(ctx, others, testlab.Start)); err != nil {
		return err
	}
	return l.settled(ctx)
}

// each acts on several daemons at once.
func (l lab) each(ctx context.Context, nodes []string, action string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range nodes {
		group.Go(func() error { return l.Daemon(ctx, node, action) })
	}
	return group.Wait()
}
