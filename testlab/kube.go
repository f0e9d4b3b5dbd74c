package testlab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/testlab/kubeapi"
)

// The real control plane runs on the lab's control-plane host. Its API server
// listens on loopback there, and nodes reach it through the lab's proxy.

var kubePrograms = []string{
	string(kubeapi.Etcd), string(kubeapi.APIServer), string(kubeapi.ControllerManager), string(kubeapi.Scheduler),
}

const (
	kubePort = 6443
	// rbacFile, in the checkout, is what seamarkd may do.
	rbacFile = "deploy/manifests/rbac.yaml"
	// The ServiceAccount that rbacFile is about.
	daemonAccount, daemonNamespace = "seamarkd", "seamark-system"
)

func (l *Lab) plane(r record) kubeapi.Plane {
	api, _ := r.Topology.controlPlane()
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	return kubeapi.Plane{
		Binary: r.KubeBinary,
		Dir:    filepath.Join(l.hostDir(api.Name), "state"),
		Listen: netip.AddrPortFrom(loopback, kubePort),
		Server: netip.AddrPortFrom(api.Interfaces[0].Addresses[0].Addr(), kubePort),
		Store:  netip.AddrPortFrom(loopback, 2379),
	}
}

// kubectlDir holds kubectl, which is the control plane's binary.
func (l *Lab) kubectlDir(r record) string { return filepath.Join(l.plane(r).Dir, "bin") }

// nodeKubeconfig is what a node's daemon is known to the API server by.
func (l *Lab) nodeKubeconfig(node string) string { return filepath.Join(l.hostDir(node), "kubeconfig") }

// Kubeconfig is the path of the administrator's kubeconfig, of use inside the
// lab only; ok is false when the control plane is not Kubernetes.
func (l *Lab) Kubeconfig() (path string, ok bool) {
	r, err := l.read()
	if err != nil || r.ControlPlane != kubeControlPlane {
		return "", false
	}
	return l.plane(r).Kubeconfig(), true
}

// AuditLog is the path of the API server's audit log, which has the daemons'
// requests; ok is false when the control plane is not Kubernetes.
func (l *Lab) AuditLog() (path string, ok bool) {
	r, err := l.read()
	if err != nil || r.ControlPlane != kubeControlPlane {
		return "", false
	}
	return l.plane(r).AuditLog(), true
}

// kubeEnv is what commands in the lab have in addition, and daemons have not:
// the administrator's rights.
func (l *Lab) kubeEnv(r record) []string {
	if r.ControlPlane != kubeControlPlane {
		return nil
	}
	plane := l.plane(r)
	return []string{"KUBECONFIG=" + plane.Kubeconfig(), "KUBECACHEDIR=" + filepath.Join(plane.Dir, "kubectl-cache")}
}

// startKube starts what of the control plane does not run, and waits until the
// API server is ready: controllers without one give up.
func (l *Lab) startKube(ctx context.Context, r record, host string) error {
	plane := l.plane(r)
	if _, err := os.Stat(plane.Kubeconfig()); errors.Is(err, fs.ErrNotExist) {
		if err := l.writePlane(r); err != nil {
			return err
		}
	}
	for _, program := range kubePrograms {
		c := kubeapi.Component(program)
		if err := l.ensure(r, host, host, program, plane.Args(c)); err != nil {
			return err
		}
		if c == kubeapi.APIServer {
			if err := l.awaitAPIServer(ctx, host); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Lab) writePlane(r record) error {
	if err := l.plane(r).Write(); err != nil {
		return err
	}
	if err := os.MkdirAll(l.kubectlDir(r), 0o700); err != nil {
		return fmt.Errorf("link kubectl: %w", err)
	}
	if err := os.Symlink(r.KubeBinary, filepath.Join(l.kubectlDir(r), "kubectl")); err != nil {
		return fmt.Errorf("link kubectl: %w", err)
	}
	return nil
}

// awaitAPIServer waits until the API server is ready. When it or etcd has ended
// that is an error at once.
func (l *Lab) awaitAPIServer(ctx context.Context, host string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	blame := kubeapi.APIServer
	err = poll(ctx, "the API server", func() error {
		for _, c := range []kubeapi.Component{kubeapi.Etcd, kubeapi.APIServer} {
			if !r.Processes[host+"/"+string(c)].alive() {
				blame = c
				cancel(fmt.Errorf("%s has ended", c))
			}
		}
		return l.plane(r).Ready(ctx, l.namespace(host).dial)
	})
	if err != nil {
		return fmt.Errorf("%w; the log of %s ends:\n%s", err, blame, tail(l.logFile(host, string(blame)), 20))
	}
	return nil
}

// registerKube creates what a cluster with Seamark installed has: the CRDs, the
// rights of the daemons and their credentials; and the Nodes and Pods of the lab.
func (l *Lab) registerKube(ctx context.Context, r record) error {
	rbac, err := readRBAC()
	if err != nil {
		return err
	}
	crds, err := readCRDs()
	if err != nil {
		return err
	}
	if err := l.kubectlApply(ctx, crds+"\n---\n"+rbac); err != nil {
		return err
	}
	if err := l.registerNodes(ctx, r, r.Topology); err != nil {
		return err
	}
	token, err := l.kubectl(ctx, "", "create", "token", daemonAccount, "-n", daemonNamespace, "--duration=8760h")
	if err != nil {
		return err
	}
	for _, h := range r.Topology.nodes() {
		if err := os.MkdirAll(l.hostDir(h.Name), 0o700); err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
		if err := l.plane(r).WriteKubeconfig(l.nodeKubeconfig(h.Name), strings.TrimSpace(token)); err != nil {
			return err
		}
	}
	return nil
}

// registerNodes creates Nodes and their Pods, where they are not there, as the
// kubelet does with its Node when it starts.
func (l *Lab) registerNodes(ctx context.Context, r record, t Topology) error {
	return l.kubectlApply(ctx, nodeManifests(t)+namespaceManifests(t)+podManifests(t, r.Pods))
}

func readRBAC() (string, error) {
	root, err := kubeapi.Checkout()
	if err != nil {
		return "", fmt.Errorf("read %s: %w", rbacFile, err)
	}
	data, err := os.ReadFile(filepath.Join(root, rbacFile))
	if err != nil {
		return "", fmt.Errorf("read the daemon's rights: %w", err)
	}
	return string(data), nil
}

func readCRDs() (string, error) {
	files, err := fs.Glob(v1alpha1.CRDs, "crds/*.yaml")
	if err != nil {
		return "", fmt.Errorf("read CRDs: %w", err)
	}
	var all []string
	for _, file := range files {
		data, err := fs.ReadFile(v1alpha1.CRDs, file)
		if err != nil {
			return "", fmt.Errorf("read CRDs: %w", err)
		}
		all = append(all, string(data))
	}
	return strings.Join(all, "\n---\n"), nil
}

// kubectlApply applies manifests, server-side, over whatever others wrote.
func (l *Lab) kubectlApply(ctx context.Context, manifests string, more ...string) error {
	_, err := l.kubectl(ctx, manifests, append([]string{"apply", "--server-side", "--force-conflicts", "-f", "-"}, more...)...)
	return err
}

// kubectl runs kubectl on the control-plane host, as administrator, and returns
// its output.
func (l *Lab) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	api, err := l.apiHost()
	if err != nil {
		return "", err
	}
	h, err := l.Host(api)
	if err != nil {
		return "", err
	}
	cmd := h.Command(ctx, "kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run kubectl %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// ExecKubectl replaces this process by kubectl on the control-plane host. It
// returns only when it fails.
func (l *Lab) ExecKubectl(args []string) error {
	if _, ok := l.Kubeconfig(); !ok {
		return fmt.Errorf("run kubectl: the control plane of lab %s is not Kubernetes: use seamark, or run testlab up --control-plane kube", l.Name)
	}
	api, err := l.apiHost()
	if err != nil {
		return err
	}
	h, err := l.Host(api)
	if err != nil {
		return err
	}
	return h.Exec(append([]string{"kubectl"}, args...))
}
