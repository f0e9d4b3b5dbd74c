package testlab

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is a running machine of a Lab, or one of its pods.
type Host struct {
	Name string
	Namespace
	// Socket that controls the daemon of a node, and elsewhere the standalone store.
	Socket string
	env    []string
}

// Host finds a host or pod by name. One whose power is off is an error.
func (l *Lab) Host(name string) (*Host, error) {
	r, err := l.read()
	if err != nil {
		return nil, err
	}
	machine := name
	if p, ok := r.Topology.pod(name); ok {
		machine = p.Node
	} else if _, ok := r.Topology.host(name); !ok {
		return nil, r.unknownHost(name)
	}
	if r.PoweredOff[machine] {
		return nil, fmt.Errorf("find host %s: %s is powered off: run testlab power-on %s", name, machine, machine)
	}
	h := &Host{Name: name, Namespace: l.namespace(name), env: l.env(r, name, l.kubeEnv(r)...)}
	for _, kv := range h.env {
		if socket, ok := strings.CutPrefix(kv, "SEAMARK_SOCKET="); ok {
			h.Socket = socket
		}
	}
	return h, nil
}

// unknownHost is the error of a name that is no host's.
func (r record) unknownHost(name string) error {
	var names []string
	for _, h := range r.Topology.Hosts {
		names = append(names, h.Name)
	}
	for _, p := range r.Topology.Pods {
		names = append(names, p.Name)
	}
	return fmt.Errorf("find host %q: there are %s", name, strings.Join(names, ", "))
}

// Command is a command that will run on the host, with the lab's programs
// first on PATH. It is killed when ctx ends.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := h.command(ctx, name, args...)
	cmd.Env = h.env
	return cmd
}

// Exec replaces this process by a command on the host. It returns only when it
// fails.
func (h *Host) Exec(argv []string) error {
	path, err := lookPath(argv[0], h.env)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // exec keeps the namespace of the thread that calls it
	defer runtime.UnlockOSThread()
	if err := h.enter(); err != nil {
		return err
	}
	return fmt.Errorf("run %s: %w", path, unix.Exec(path, argv, h.env))
}

// lookPath finds a program on the PATH of an environment.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	i := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") })
	for _, dir := range filepath.SplitList(strings.TrimPrefix(env[i], "PATH=")) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("run %s: %w", name, exec.ErrNotFound)
}

// Status is what a lab's hosts and pods are doing, in the order of its topology.
type Status struct {
	Name string
	// Role is the host's, or "pod on NODE".
	Role      string
	Namespace string
	Addresses []string
	// Power is "on" or "off".
	Power string
	// Process is the state of the daemon, control plane or server: "running",
	// "paused", "stopped", or "" where there is none to run. When the parts of
	// a control plane differ, it is the state of each by name.
	Process string
}

// Status reports every host and pod.
func (l *Lab) Status() ([]Status, error) {
	r, err := l.read()
	if err != nil {
		return nil, err
	}
	var all []Status
	for _, h := range r.Topology.Hosts {
		s := Status{Name: h.Name, Role: string(h.Role), Namespace: l.namespace(h.Name).Name, Power: r.power(h.Name)}
		for _, i := range h.Interfaces {
			for _, a := range i.Addresses {
				s.Addresses = append(s.Addresses, i.Name+" "+a.String())
			}
		}
		s.Process = r.condition(h)
		all = append(all, s)
	}
	for _, p := range r.Topology.Pods {
		s := Status{Name: p.Name, Role: "pod on " + p.Node, Namespace: l.namespace(p.Name).Name, Power: r.power(p.Node)}
		if wired, ok := r.Pods[p.Name]; ok {
			s.Addresses = []string{podInterface + " " + wired.Address.String()}
		}
		s.Process = r.Processes[p.Name+"/"+podProgram].condition()
		all = append(all, s)
	}
	return all, nil
}

func (r record) power(host string) string {
	if r.PoweredOff[host] {
		return "off"
	}
	return "on"
}

// condition is what a host's programs are doing: one word when it is the same.
func (r record) condition(h HostSpec) string {
	var each []string
	all := map[string]bool{}
	last := ""
	for _, program := range r.programs(h) {
		last = r.Processes[h.Name+"/"+program].condition()
		each = append(each, program+" "+last)
		all[last] = true
	}
	if len(all) > 1 {
		return strings.Join(each, ", ")
	}
	return last
}

func (p process) condition() string {
	switch s, err := readStat(p.PID); {
	case err != nil || !p.alive():
		return "stopped"
	case s.state == 'T':
		return "paused"
	default:
		return "running"
	}
}
