// Package kubeapi runs a real Kubernetes control plane: kube-apiserver with its
// etcd, and, for those who ask, kube-controller-manager and kube-scheduler. All
// are one binary, built once from testlab/kube into the user's cache (Build).
// A lab runs them on a host of its own; Start runs them on loopback for tests
// that need an API server and no lab.
package kubeapi

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

// Component is one process of a control plane.
type Component string

// The components, in the order they start in.
const (
	Etcd              Component = "etcd"
	APIServer         Component = "kube-apiserver"
	ControllerManager Component = "kube-controller-manager"
	Scheduler         Component = "kube-scheduler"
)

// Plane is a control plane: its files, and the command lines of its components.
type Plane struct {
	// Binary is the multi-call binary that Build makes.
	Binary string
	// Dir holds keys, kubeconfigs and etcd's data.
	Dir string
	// Listen is where the API server listens; Server is where its clients
	// reach it, which may be a proxy.
	Listen, Server netip.AddrPort
	// Store is where etcd listens.
	Store netip.AddrPort
}

// The API server's ranges of ClusterIPs.
const serviceCIDRs = "10.96.0.0/16,fd00:10:96::/112"

func (p Plane) file(name string) string { return filepath.Join(p.Dir, name) }

// Kubeconfig is the path of the administrator's kubeconfig.
func (p Plane) Kubeconfig() string { return p.file("kubeconfig") }

// Write makes the directory with keys and kubeconfigs in it.
func (p Plane) Write() error {
	if err := p.write(); err != nil {
		return fmt.Errorf("write files of the control plane: %w", err)
	}
	return nil
}

func (p Plane) write() error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return err
	}
	if err := writeKey(p.file("service-account.key")); err != nil {
		return err
	}
	if err := writeCertificate(p.file("server.crt"), p.file("server.key"), p.Listen.Addr(), p.Server.Addr()); err != nil {
		return err
	}
	var tokens strings.Builder
	for _, u := range []struct {
		kubeconfig, name, groups string
		server                   netip.AddrPort
	}{
		{p.Kubeconfig(), "admin", "system:masters", p.Server},
		{p.kubeconfigOf(ControllerManager), "system:kube-controller-manager", "", p.Listen},
		{p.kubeconfigOf(Scheduler), "system:kube-scheduler", "", p.Listen},
	} {
		secret := make([]byte, 16)
		rand.Read(secret)
		token := hex.EncodeToString(secret)
		fmt.Fprintf(&tokens, "%s,%s,%s,%s\n", token, u.name, u.name, u.groups)
		if err := p.writeKubeconfig(u.kubeconfig, u.server, token); err != nil {
			return err
		}
	}
	if err := os.WriteFile(p.file("tokens.csv"), []byte(tokens.String()), 0o600); err != nil {
		return err
	}
	return os.WriteFile(p.file("audit.yaml"), []byte(auditPolicy), 0o600)
}

// auditPolicy has each request of the daemons written to the audit log, with
// what came of it.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: [system:serviceaccounts:seamark-system]
- level: None
`

// AuditLog is the path of the API server's audit log: a JSON object a line, of
// audit.k8s.io/v1.
func (p Plane) AuditLog() string { return p.file("audit.log") }

func (p Plane) kubeconfigOf(c Component) string { return p.file(string(c) + ".kubeconfig") }

var kubeconfigTemplate = template.Must(template.New("kubeconfig").Parse(`apiVersion: v1
kind: Config
clusters:
- name: seamark
  cluster:
    server: https://{{.Server}}
    certificate-authority-data: {{.CA}}
users:
- name: seamark
  user:
    token: {{.Token}}
contexts:
- name: seamark
  context: {cluster: seamark, user: seamark}
current-context: seamark
`))

// WriteKubeconfig writes a kubeconfig for whoever the token is of.
func (p Plane) WriteKubeconfig(path, token string) error {
	if err := p.writeKubeconfig(path, p.Server, token); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

func (p Plane) writeKubeconfig(path string, server netip.AddrPort, token string) error {
	ca, err := os.ReadFile(p.file("server.crt"))
	if err != nil {
		return err
	}
	var b strings.Builder
	err = kubeconfigTemplate.Execute(&b, struct {
		Server    netip.AddrPort
		CA, Token string
	}{server, base64.StdEncoding.EncodeToString(ca), token})
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}

// Args is the command line of a component.
func (p Plane) Args(c Component) []string {
	argv := []string{p.Binary, string(c)}
	store := "http://" + p.Store.String()
	switch c {
	case Etcd:
		return append(argv, "--data-dir", p.file("etcd"), "--listen", store)
	case APIServer:
		return append(argv,
			"--etcd-servers="+store,
			"--bind-address="+p.Listen.Addr().String(),
			fmt.Sprintf("--secure-port=%d", p.Listen.Port()),
			"--advertise-address="+p.Server.Addr().String(),
			"--tls-cert-file="+p.file("server.crt"),
			"--tls-private-key-file="+p.file("server.key"),
			"--token-auth-file="+p.file("tokens.csv"),
			"--authorization-mode=Node,RBAC",
			"--audit-policy-file="+p.file("audit.yaml"),
			"--audit-log-path="+p.AuditLog(),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-signing-key-file="+p.file("service-account.key"),
			"--service-account-key-file="+p.file("service-account.key"),
			"--service-cluster-ip-range="+serviceCIDRs,
			"--allow-privileged=true",
			// The Service kubernetes has no endpoint: pods have no way to the API server.
			"--endpoint-reconciler-type=none",
			// Pods are made without waiting for the default ServiceAccount.
			"--disable-admission-plugins=ServiceAccount",
			// A stop ends watches, or it would wait a minute for them.
			"--shutdown-watch-termination-grace-period=1s",
			"--profiling=false",
		)
	case ControllerManager:
		return append(argv, p.controllerArgs(c)...)
	default:
		return append(argv, p.clientArgs(c)...)
	}
}

// clientArgs are what controller-manager and scheduler have in common: there is
// one of each, and it serves nothing.
func (p Plane) clientArgs(c Component) []string {
	return []string{"--kubeconfig=" + p.kubeconfigOf(c), "--leader-elect=false", "--secure-port=0", "--profiling=false"}
}

func (p Plane) controllerArgs(c Component) []string {
	return append(p.clientArgs(c),
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+p.file("service-account.key"),
		"--root-ca-file="+p.file("server.crt"),
		// Nodes come with their podCIDRs, and without a kubelet that renews leases.
		"--allocate-node-cidrs=false",
		"--node-monitor-grace-period=8760h",
		"--node-startup-grace-period=8760h",
		// Enough for a thousand Services at once.
		"--kube-api-qps=500", "--kube-api-burst=1000",
	)
}

// Ready is an error until the API server, reached by dial, says that it is ready.
func (p Plane) Ready(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error)) error {
	ca, err := os.ReadFile(p.file("server.crt"))
	if err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	// It listens long before it answers, and does not when it never gets there.
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.Listen.String()+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask the API server: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the API server: %s: %s", resp.Status, body)
	}
	return nil
}
