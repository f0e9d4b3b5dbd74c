package testlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	daemonProgram = "seamarkd"
	proxyProgram  = "proxy"
	podProgram    = "webpod"

	etcdPort = "2379"
)

func (l *Lab) hostDir(host string) string { return filepath.Join(l.dir, host) }
func (l *Lab) runDir(host string) string  { return filepath.Join(l.hostDir(host), "run") }
func (l *Lab) bpffs(host string) string   { return filepath.Join(l.hostDir(host), "bpf") }

// socket is where a host's daemon (on the control-plane host: the standalone store) is
// controlled.
func (l *Lab) socket(host string) string { return filepath.Join(l.runDir(host), "seamark.sock") }

func (l *Lab) delaySocket(host string) string { return filepath.Join(l.runDir(host), "delay.sock") }

func (l *Lab) logFile(host, program string) string {
	return filepath.Join(l.dir, logDir, host+"-"+program+".log")
}

// clockFile holds by how much the wall clock of a host's daemon is off.
func (l *Lab) clockFile(host string) string { return filepath.Join(l.runDir(host), "clock-offset") }

// daemonArgs are the command line of a host's seamarkd.
func (l *Lab) daemonArgs(r record, h HostSpec) []string {
	program := filepath.Join(r.BinDir, daemonProgram)
	state := filepath.Join(l.hostDir(h.Name), "state")
	if h.Role == RoleControlPlane {
		return []string{
			program, "store", "--store-unsafe-no-fsync", "--store-dir", state, "--run-dir", l.runDir(h.Name),
			"--store-listen-client", "http://127.0.0.1:" + etcdPort, // the proxy serves the nodes
			"--store-listen-peer", "http://127.0.0.1:2380",
		}
	}
	argv := []string{
		program, "--node-name", h.Name,
		"--bpffs", l.bpffs(h.Name), "--state-dir", state, "--run-dir", l.runDir(h.Name),
		"--clock-offset-file", l.clockFile(h.Name),
	}
	if r.ControlPlane == kubeControlPlane {
		argv = append(argv, "--store", "kube", "--kubeconfig", l.nodeKubeconfig(h.Name))
	} else {
		api, _ := r.Topology.controlPlane()
		argv = append(argv, "--store", "etcd", "--etcd-endpoints", "http://"+api.storeAddress())
	}
	return append(argv, r.DaemonArgs...)
}

// storeAddress is where nodes reach the store (host:port).
func (h HostSpec) storeAddress() string {
	return net.JoinHostPort(h.Interfaces[0].Addresses[0].Addr().String(), etcdPort)
}

// startDaemon starts a host's seamarkd and waits until it is ready; on the
// control-plane host the control plane, and the proxy through which nodes reach it;
// on a router FRR.
func (l *Lab) startDaemon(ctx context.Context, host string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	h, ok := r.Topology.host(host)
	if !ok {
		return r.unknownHost(host)
	}
	if h.FRR != "" {
		return l.startFRR(ctx, r, h)
	}
	if err := l.prepareHost(h); err != nil {
		return fmt.Errorf("start daemon of %s: %w", host, err)
	}
	if h.Role == RoleControlPlane {
		listen, connect := h.storeAddress(), "127.0.0.1:"+etcdPort
		if r.ControlPlane == kubeControlPlane {
			plane := l.plane(r)
			listen, connect = plane.Server.String(), plane.Listen.String()
		}
		proxy := []string{
			filepath.Join(r.BinDir, "testlab"), "proxy", "--listen", listen, "--connect", connect, "--control", l.delaySocket(host),
		}
		if err := l.ensure(r, host, host, proxyProgram, proxy); err != nil {
			return err
		}
		if r.ControlPlane == kubeControlPlane {
			return l.startKube(ctx, r, host)
		}
	}
	if err := l.ensure(r, host, host, daemonProgram, l.daemonArgs(r, h)); err != nil {
		return err
	}
	return l.awaitReady(ctx, host)
}

// prepareHost makes the directories, the bpffs and the cgroup of a host, where
// they are not there yet.
func (l *Lab) prepareHost(h HostSpec) error {
	dirs := []string{filepath.Join(l.hostDir(h.Name), "state"), l.runDir(h.Name)}
	if cgroup := cgroupDir(l.Name, h.Name); cgroup != "" {
		dirs = append(dirs, cgroup)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if h.Role != RoleNode {
		return nil
	}
	bpffs := l.bpffs(h.Name)
	if err := os.MkdirAll(bpffs, 0o700); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err != nil {
		return fmt.Errorf("examine %s: %w", bpffs, err)
	}
	if st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", bpffs, err)
	}
	return nil
}

// ensure starts a program of a host or pod unless it runs, in the cgroup of
// the host.
func (l *Lab) ensure(r record, host, where, program string, argv []string) error {
	key := where + "/" + program
	if r.Processes[key].alive() {
		return nil
	}
	cgroup := cgroupDir(l.Name, host)
	if _, err := os.Stat(cgroup); err != nil {
		cgroup = ""
	}
	p, err := start(l.namespace(where), argv, l.env(r, host), l.logFile(where, program), cgroup)
	if err != nil {
		return err
	}
	return l.update(func(r *record) { r.Processes[key] = p })
}

// env is the environment of processes on a host: the lab's programs first, the
// socket of the host's daemon, or else of the store, and what more is given.
func (l *Lab) env(r record, host string, more ...string) []string {
	path := []string{r.BinDir, os.Getenv("PATH")}
	if r.ControlPlane == kubeControlPlane {
		path = slices.Insert(path, 1, l.kubectlDir(r))
	}
	h, ok := r.Topology.host(host)
	if h.FRR != "" {
		path = slices.Insert(path, 1, l.frrBin(host))
	}
	if !ok || h.Role != RoleNode {
		if api, ok := r.Topology.controlPlane(); ok {
			host = api.Name
		}
	}
	env := append(more, "PATH="+strings.Join(path, string(os.PathListSeparator)), "SEAMARK_SOCKET="+l.socket(host))
	own := map[string]bool{}
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		own[name] = true
	}
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !own[name] {
			env = append(env, kv)
		}
	}
	return env
}

// awaitReady waits until `seamark status` on the host says so. A daemon that
// has ended is an error at once.
func (l *Lab) awaitReady(ctx context.Context, host string) error {
	h, err := l.Host(host)
	if err != nil {
		return err
	}
	r, err := l.read()
	if err != nil {
		return err
	}
	p := r.Processes[host+"/"+daemonProgram]
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = poll(ctx, "the daemon of "+host, func() error {
		if !p.alive() {
			cancel(errors.New("it has ended"))
		}
		if _, err := os.Stat(h.Socket); err != nil {
			return err // to ask now would only take the CPU from those that start
		}
		return runQuietly(h.Command(ctx, "seamark", "status"), "seamark status")
	})
	if err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, tail(l.logFile(host, daemonProgram), 20))
	}
	return nil
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Apply writes manifests (multi-document YAML) to the control plane, with
// `seamark apply` or `kubectl apply`.
func (l *Lab) Apply(ctx context.Context, manifests string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	if r.ControlPlane == kubeControlPlane {
		return l.kubectlApply(ctx, manifests)
	}
	api, ok := r.controlPlane()
	if !ok {
		return fmt.Errorf("apply manifests: lab %s has no store", l.Name)
	}
	h, err := l.Host(api.Name)
	if err != nil {
		return err
	}
	cmd := h.Command(ctx, "seamark", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	return runQuietly(cmd, "apply manifests")
}

// runQuietly runs a command whose output matters only when it fails.
func runQuietly(cmd *exec.Cmd, what string) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", what, err, bytes.TrimSpace(out))
	}
	return nil
}
