package testlab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab/delay"
	"golang.org/x/sys/unix"
)

// stopWithin bounds how long a daemon may take to stop cleanly.
const stopWithin = 15 * time.Second

// SetLink plugs in or pulls the cable of a host's interface. The host sees its
// carrier come or go; its configuration stays.
func (l *Lab) SetLink(host, iface string, up bool) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	h, ok := r.Topology.host(host)
	if !ok {
		return r.unknownHost(host)
	}
	if r.PoweredOff[host] {
		return fmt.Errorf("set link of %s: it is powered off", host)
	}
	var names []string
	for _, i := range h.Interfaces {
		names = append(names, i.Name)
	}
	if !slices.Contains(names, iface) {
		return fmt.Errorf("set link of %s: no interface %q: there are %s", host, iface, strings.Join(names, ", "))
	}
	return l.setCable(host, iface, up)
}

// PowerOff takes the power from a host: its cables go dead at once, then its
// daemon and its pods' processes end without a word. What it has on disk stays.
func (l *Lab) PowerOff(host string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	h, ok := r.Topology.host(host)
	if !ok {
		return r.unknownHost(host)
	}
	if r.PoweredOff[host] {
		return nil
	}
	if err := l.update(func(r *record) { r.PoweredOff[host] = true }); err != nil {
		return err
	}
	// Cables first: a dying process must not get a FIN out.
	for _, i := range h.Interfaces {
		if err := l.setCable(host, i.Name, false); err != nil {
			return fmt.Errorf("power off %s: %w", host, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := killAllIn(ctx, l.namespacesOn(r.Topology, host)); err != nil {
		return fmt.Errorf("power off %s: %w", host, err)
	}
	return nil
}

// namespacesOn are those of a host and of its pods.
func (l *Lab) namespacesOn(t Topology, host string) []Namespace {
	all := []Namespace{l.namespace(host)}
	for _, p := range t.podsOn(host) {
		all = append(all, l.namespace(p.Name))
	}
	return all
}

// PowerOn boots a host that was powered off: a kernel that remembers nothing
// (no pinned BPF, no routes, no links but its own), then its daemon, and then
// its pods, created anew. It returns when the host is ready.
func (l *Lab) PowerOn(ctx context.Context, host string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	h, ok := r.Topology.host(host)
	if !ok {
		return r.unknownHost(host)
	}
	if !r.PoweredOff[host] {
		return nil
	}
	if err := l.boot(ctx, r, h); err != nil {
		return fmt.Errorf("power on %s: %w", host, err)
	}
	return nil
}

func (l *Lab) boot(ctx context.Context, r record, h HostSpec) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := l.forget(ctx, r, h); err != nil {
		return err
	}
	if err := l.buildHost(h, r.NoDaemons, r.Topology); err != nil {
		return err
	}
	if err := l.update(func(r *record) { delete(r.PoweredOff, h.Name) }); err != nil {
		return err
	}
	if h.Role == RoleNode && r.ControlPlane == kubeControlPlane {
		if err := l.registerNodes(ctx, r, r.Topology.only(h)); err != nil {
			return err
		}
	}
	if len(r.programs(h)) > 0 {
		if err := l.startDaemon(ctx, h.Name); err != nil {
			return err
		}
	}
	pods := r.Topology.podsOn(h.Name)
	if len(pods) == 0 {
		return nil
	}
	if !r.NoDaemons {
		// As the kubelet does: what was there before the boot is deleted first.
		for _, p := range pods {
			if _, err := l.cni(ctx, r, "DEL", p, r.Pods[p.Name].ContainerID); err != nil {
				return err
			}
		}
	}
	if err := l.startPods(ctx, pods); err != nil {
		return err
	}
	return l.writeEndpoints(ctx)
}

// forget removes all that a host's kernel held, and what /run held.
func (l *Lab) forget(ctx context.Context, r record, h HostSpec) error {
	namespaces := l.namespacesOn(r.Topology, h.Name)
	if err := killAllIn(ctx, namespaces); err != nil { // begun since the power went
		return err
	}
	if err := l.unplug(h); err != nil {
		return err
	}
	for _, n := range namespaces {
		if err := n.remove(); err != nil {
			return err
		}
	}
	if err := unmountBelow(l.hostDir(h.Name)); err != nil {
		return err
	}
	if err := removeCgroups(ctx, filepath.Join(l.Name, h.Name)); err != nil {
		return err
	}
	if err := os.RemoveAll(l.runDir(h.Name)); err != nil {
		return fmt.Errorf("clear run directory: %w", err)
	}
	return nil
}

// Daemon actions.
const (
	Kill   = "kill"   // SIGKILL
	Stop   = "stop"   // SIGTERM, and wait for the end; what is not Seamark's is killed when it takes long
	Start  = "start"  // again, with the same flags, and wait until it is ready
	Pause  = "pause"  // SIGSTOP
	Resume = "resume" // SIGCONT
)

// DaemonActions are the actions that Daemon takes.
var DaemonActions = []string{Kill, Stop, Start, Pause, Resume}

// Daemon acts on a host's seamarkd; on the control-plane host that is the
// standalone store, or all of a Kubernetes control plane, and on a router FRR.
func (l *Lab) Daemon(ctx context.Context, host, action string) error {
	if !slices.Contains(DaemonActions, action) {
		return fmt.Errorf("daemon action %q: want %s", action, strings.Join(DaemonActions, ", "))
	}
	r, err := l.read()
	if err != nil {
		return err
	}
	h, ok := r.Topology.host(host)
	if !ok {
		return r.unknownHost(host)
	}
	programs := slices.Clone(r.programs(h))
	if len(programs) == 0 {
		return fmt.Errorf("%s daemon of %s: none belongs there", action, host)
	}
	if r.PoweredOff[host] {
		return fmt.Errorf("%s daemon of %s: it is powered off", action, host)
	}
	switch action {
	case Start:
		ctx, cancel := context.WithTimeout(ctx, readyWithin)
		defer cancel()
		return l.startDaemon(ctx, host)
	case Kill, Stop:
		slices.Reverse(programs)
	}
	for _, program := range programs {
		p := r.Processes[host+"/"+program]
		if !p.alive() {
			if action == Kill || action == Stop {
				continue
			}
			return fmt.Errorf("%s daemon of %s: it does not run: run testlab daemon %s start", action, host, host)
		}
		if err := act(ctx, p, program, action); err != nil {
			return fmt.Errorf("%s %s of %s: %w", action, program, host, err)
		}
	}
	return nil
}

func act(ctx context.Context, p process, program, action string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*stopWithin)
	defer cancel()
	switch action {
	case Kill:
		return p.kill(ctx)
	case Stop:
		if program == daemonProgram {
			return p.stop(ctx, stopWithin)
		}
		// Another's: how fast it ends on a busy machine is not what is tested.
		return p.stopOrKill(ctx, stopWithin)
	case Pause:
		return p.signal(unix.SIGSTOP)
	default:
		return p.signal(unix.SIGCONT)
	}
}

// StopAPI stops the control plane; StartAPI starts it again and waits until it
// is ready.
func (l *Lab) StopAPI(ctx context.Context) error {
	api, err := l.apiHost()
	if err != nil {
		return err
	}
	return l.Daemon(ctx, api, Stop)
}

// StartAPI undoes StopAPI.
func (l *Lab) StartAPI(ctx context.Context) error {
	api, err := l.apiHost()
	if err != nil {
		return err
	}
	return l.Daemon(ctx, api, Start)
}

// StepClock puts the wall clock of a host's daemon off by so much ("1h", "-90m";
// "0" ends it). All hosts have one kernel, and its clock.
func (l *Lab) StepClock(host, offset string) error {
	if _, err := l.Host(host); err != nil {
		return err
	}
	if _, err := time.ParseDuration(offset); err != nil {
		return fmt.Errorf("step clock of %s: %w", host, err)
	}
	if err := os.WriteFile(l.clockFile(host), []byte(offset), 0o600); err != nil {
		return fmt.Errorf("step clock of %s: %w", host, err)
	}
	return nil
}

// DelayAPI holds back what goes between nodes and control plane, each way; 0
// ends it.
func (l *Lab) DelayAPI(ctx context.Context, d time.Duration) error {
	api, err := l.apiHost()
	if err != nil {
		return err
	}
	return delay.Set(ctx, l.delaySocket(api), d)
}

func (l *Lab) apiHost() (string, error) {
	r, err := l.read()
	if err != nil {
		return "", err
	}
	api, ok := r.controlPlane()
	if !ok {
		return "", fmt.Errorf("find the control plane: lab %s has none", l.Name)
	}
	return api.Name, nil
}
