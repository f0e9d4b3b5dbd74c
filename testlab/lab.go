package testlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Config says which lab Up builds.
type Config struct {
	// Name of the lab, 1–32 characters of a-z, 0-9 and, inside, -; "" is sm.
	Name string
	// Topology of the lab; without hosts it is DefaultTopology.
	Topology Topology
	// ControlPlane is etcd (the standalone store, and the default) or kube (a
	// real Kubernetes control plane, whose binary kubeapi.Build has built).
	ControlPlane string
	// NoDaemons leaves seamarkd out: no standalone store, and pods wired up by
	// the lab with plain veths and kernel routes.
	NoDaemons bool
	// BinDir holds testlab, seamarkd, seamark and seamark-cni; "" is the
	// folder of this executable, or else bin/ of the Go module around the
	// working directory.
	BinDir string
	// DaemonArgs are flags for the nodes' seamarkd, after those of the lab.
	DaemonArgs []string
}

// Control planes.
const (
	etcdControlPlane = "etcd"
	kubeControlPlane = "kube"
)

// DefaultName is the name of a lab that is given none.
const DefaultName = "sm"

// Lab is a lab that is up.
type Lab struct {
	Name string
	dir  string
}

// Up builds a lab and returns when it is ready: daemons answer, pods have
// addresses and their servers answer their nodes. When it fails, or ctx ends,
// it leaves nothing behind.
func Up(ctx context.Context, c Config) (*Lab, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if len(c.Topology.Hosts) == 0 {
		c.Topology = DefaultTopology()
	}
	if c.ControlPlane == "" {
		c.ControlPlane = etcdControlPlane
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	bin, err := c.binDir()
	if err != nil {
		return nil, err
	}
	r := record{
		Topology: c.Topology, ControlPlane: c.ControlPlane, BinDir: bin, NoDaemons: c.NoDaemons, DaemonArgs: c.DaemonArgs,
		Processes: map[string]process{}, Pods: map[string]wiredPod{}, PoweredOff: map[string]bool{},
	}
	if c.ControlPlane == kubeControlPlane {
		var ok bool
		if r.KubeBinary, ok = kubeapi.Binary(); !ok {
			return nil, kubeapi.ErrNotBuilt
		}
	}
	l := &Lab{Name: c.Name, dir: labDir(c.Name)}
	if err := l.claim(); err != nil {
		return nil, err
	}
	if err := l.build(ctx, r); err != nil {
		return nil, errors.Join(fmt.Errorf("bring up lab %s: %w", l.Name, err), l.Down())
	}
	return l, nil
}

// Open finds a lab that is up.
func Open(name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := checkRoot(); err != nil {
		return nil, err
	}
	l := &Lab{Name: name, dir: labDir(name)}
	_, err := l.read()
	return l, err
}

func (c Config) check() error {
	if err := checkName(c.Name); err != nil {
		return err
	}
	if c.ControlPlane != etcdControlPlane && c.ControlPlane != kubeControlPlane {
		return fmt.Errorf("control plane %q: want etcd or kube", c.ControlPlane)
	}
	if err := c.Topology.validate(); err != nil {
		return fmt.Errorf("topology: %w", err)
	}
	if _, ok := c.Topology.controlPlane(); !ok && c.ControlPlane == kubeControlPlane {
		return errors.New("topology: no host has role control-plane, and control plane kube needs one")
	} else if !ok && !c.NoDaemons {
		return errors.New("topology: no host has role control-plane, and daemons need one")
	}
	if err := checkRoot(); err != nil {
		return err
	}
	return c.Topology.frrInstalled()
}

func checkRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root: run it with sudo")
	}
	return nil
}

// binDir finds the programs of the lab, and says which are missing.
func (c Config) binDir() (string, error) {
	programs := []string{"testlab"}
	if !c.NoDaemons {
		programs = append(programs, "seamarkd", "seamark", "seamark-cni")
	}
	dir := c.BinDir
	if dir == "" {
		dir = defaultBinDir()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", c.BinDir, err)
	}
	for _, p := range programs {
		if err := unix.Access(filepath.Join(dir, p), unix.X_OK); err != nil {
			return "", fmt.Errorf("find %s in %s: %w: run make build", p, dir, err)
		}
	}
	return dir, nil
}

func defaultBinDir() string {
	if exe, err := os.Executable(); err == nil && filepath.Base(exe) == "testlab" {
		return filepath.Dir(exe)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "bin"
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin")
		}
	}
	return "bin"
}

// claim makes the lab's directory, which is what makes its name taken.
func (l *Lab) claim() error {
	if err := os.MkdirAll(stateRoot, 0o755); err != nil {
		return fmt.Errorf("create lab %s: %w", l.Name, err)
	}
	left, err := labNamespaces(l.Name)
	if err != nil {
		return err
	}
	err = os.Mkdir(l.dir, 0o755)
	if errors.Is(err, os.ErrExist) || err == nil && len(left) > 0 {
		return fmt.Errorf("lab %s is up already, or what a crash left of it: run testlab down --name %s first", l.Name, l.Name)
	}
	if err != nil {
		return fmt.Errorf("create lab %s: %w", l.Name, err)
	}
	if err := os.Mkdir(filepath.Join(l.dir, logDir), 0o755); err != nil {
		return fmt.Errorf("create lab %s: %w", l.Name, err)
	}
	return nil
}

func (l *Lab) build(ctx context.Context, r record) error {
	if err := l.write(r); err != nil {
		return err
	}
	if err := raiseNeighbourLimits(); err != nil {
		return err
	}
	if err := l.buildWire(r.Topology); err != nil {
		return err
	}
	var group errgroup.Group
	for _, h := range r.Topology.Hosts {
		group.Go(func() error { return l.buildHost(h, r.NoDaemons, r.Topology) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return l.startAll(ctx, r)
}

// startAll starts the control plane, then the nodes and the routers' FRR, then pods.
func (l *Lab) startAll(ctx context.Context, r record) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if api, ok := r.controlPlane(); ok {
		if err := l.startDaemon(ctx, api.Name); err != nil {
			return err
		}
		if err := l.register(ctx, r); err != nil {
			return err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, h := range r.Topology.Hosts {
		if h.FRR != "" {
			group.Go(func() error { return l.startDaemon(groupCtx, h.Name) })
		}
	}
	for _, h := range r.Topology.nodes() {
		group.Go(func() error {
			if !r.NoDaemons {
				if err := l.startDaemon(groupCtx, h.Name); err != nil {
					return err
				}
			}
			return l.startPods(groupCtx, r.Topology.podsOn(h.Name))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return l.writeEndpoints(ctx)
}

// readyWithin bounds how long daemons and pods may take to be ready.
const readyWithin = 2 * time.Minute

// Down removes everything of the lab: processes, namespaces, mounts, cgroups
// and files. What is not there any more is no error.
func (l *Lab) Down() error { return Down(l.Name) }

// Down removes everything of the lab of that name, also when it was left
// half-built, or without its record.
func Down(name string) error {
	if name == "" {
		name = DefaultName
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := checkRoot(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l := &Lab{Name: name, dir: labDir(name)}
	if err := l.killProcesses(ctx); err != nil {
		return fmt.Errorf("take down lab %s: %w", name, err)
	}
	namespaces, err := labNamespaces(name)
	if err != nil {
		return fmt.Errorf("take down lab %s: %w", name, err)
	}
	var errs []error
	for _, n := range namespaces {
		errs = append(errs, n.remove())
	}
	errs = append(errs, l.removeScratches(), unmountBelow(l.dir), removeCgroups(ctx, name))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take down lab %s: %w", name, err) // the directory stays, to try again
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("take down lab %s: %w", name, err)
	}
	return restoreNeighbourLimits()
}

// killProcesses kills what runs in the lab's namespaces, and what its record
// names in case a namespace has lost its name.
func (l *Lab) killProcesses(ctx context.Context) error {
	if r, err := l.read(); err == nil {
		for _, p := range r.Processes {
			if err := p.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
	}
	namespaces, err := labNamespaces(l.Name)
	if err != nil {
		return err
	}
	return killAllIn(ctx, namespaces)
}

// unmountBelow unmounts every mount in a directory.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.HasPrefix(fields[4], dir+"/") {
			continue
		}
		if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", fields[4], err))
		}
	}
	return errors.Join(errs...)
}
