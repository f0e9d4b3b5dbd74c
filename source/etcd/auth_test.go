package etcd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source/etcd"
	"github.com/seamark-lb/seamark/state"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// authority issues certificates into a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	ca   string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key, a.ca = key, a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func (a authority) issue(name string) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".pem", "CERTIFICATE", der), a.write(name+"-key.pem", "EC PRIVATE KEY", keyDER)
}

// checkErrors asks the store with each configuration, and wants an error
// that says each of the words.
func checkErrors(t *testing.T, rows map[string]struct {
	cfg  etcd.Config
	want []string
}) {
	t.Helper()
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			row.cfg.RequestTimeout = 5 * time.Second // a busy machine answers late, and late is another error
			db, w := state.New()
			src, err := etcd.New(row.cfg, db, w, testLog(t))
			if err == nil {
				defer src.Close()
				begun := time.Now()
				err = src.Check(t.Context())
				if took := time.Since(begun); took > 30*time.Second {
					t.Errorf("it took %v to say so", took)
				}
			}
			if err == nil {
				t.Fatal("the store answered")
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoes not say %q", err, want)
				}
			}
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	cfg := serverConfig(t)
	cfg.ClientURLs = []string{freeURL(t, "https")}
	cfg.ClientTLS.CA = ca.ca
	cfg.ClientTLS.Cert, cfg.ClientTLS.Key = ca.issue("server")
	m := startServer(t, cfg)
	plain := startServer(t, serverConfig(t))

	good := etcd.Config{Endpoints: m.urls, CAFile: ca.ca}
	good.CertFile, good.KeyFile = ca.issue("client")
	src, db := startSource(t, good)
	create(t, src, service("a"))
	waitServices(t, db, "a")
	m.stop()
	startServer(t, m.cfg)
	create(t, src, service("b"))
	waitServices(t, db, "a", "b")

	type row = struct {
		cfg  etcd.Config
		want []string
	}
	change := func(f func(*etcd.Config)) etcd.Config {
		cfg := good
		f(&cfg)
		return cfg
	}
	otherCert, otherKey := stranger.issue("client")
	checkErrors(t, map[string]row{
		"other CA":          {change(func(c *etcd.Config) { c.CAFile = stranger.ca }), []string{"certificate", "--etcd-ca"}},
		"no client cert":    {change(func(c *etcd.Config) { c.CertFile, c.KeyFile = "", "" }), []string{"certificate", "--etcd-cert"}},
		"stranger's cert":   {change(func(c *etcd.Config) { c.CertFile, c.KeyFile = otherCert, otherKey }), []string{"certificate", "--etcd-cert"}},
		"plain to TLS":      {etcd.Config{Endpoints: []string{strings.Replace(m.urls[0], "https", "http", 1)}}, []string{"speaks TLS", "https://", "--etcd-ca"}},
		"TLS to plain":      {change(func(c *etcd.Config) { c.Endpoints = []string{strings.Replace(plain.urls[0], "http", "https", 1)} }), []string{"does not speak TLS", "--etcd-endpoints"}},
		"no such CA file":   {change(func(c *etcd.Config) { c.CAFile = "/nonexistent" }), []string{"/nonexistent", "--etcd-ca"}},
		"CA file is no PEM": {change(func(c *etcd.Config) { c.CAFile = "auth_test.go" }), []string{"auth_test.go", "--etcd-ca"}},
		"cert without key":  {change(func(c *etcd.Config) { c.KeyFile = "" }), []string{"--etcd-cert", "--etcd-key"}},
		"CA and http":       {change(func(c *etcd.Config) { c.Endpoints = plain.urls }), []string{"https://", "--etcd-endpoints"}},
		"no endpoint":       {etcd.Config{}, []string{"--etcd-endpoints"}},
		"no port":           {etcd.Config{Endpoints: []string{"10.0.0.1"}}, []string{`"10.0.0.1"`, "--etcd-endpoints"}},
		"nobody there":      {etcd.Config{Endpoints: []string{freeURL(t, "http")}}, []string{"connection refused", "--etcd-endpoints"}},
	})
}

func TestAuth(t *testing.T) {
	t.Parallel()
	m := startServer(t, serverConfig(t))
	admin := rawClient(t, clientv3.Config{Endpoints: m.urls})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	passwords := t.TempDir()
	user := func(name, role, prefix string) etcd.Config {
		t.Helper()
		_, err := admin.UserAdd(ctx, name, "secret of "+name)
		must(err)
		if prefix != "" {
			_, err = admin.RoleAdd(ctx, role)
			must(err)
			_, err = admin.RoleGrantPermission(ctx, role, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			must(err)
		}
		_, err = admin.UserGrantRole(ctx, name, role)
		must(err)
		file := filepath.Join(passwords, name)
		must(os.WriteFile(file, []byte("secret of "+name+"\n"), 0o600))
		return etcd.Config{Endpoints: m.urls, User: name, PasswordFile: file}
	}
	_, err := admin.RoleAdd(ctx, "root")
	must(err)
	user("root", "root", "")
	good := user("seamark", "seamark", "/seamark/")
	other := user("other", "other", "/other/")
	_, err = admin.AuthEnable(ctx)
	must(err)

	src, db := startSource(t, good)
	create(t, src, service("a"))
	waitServices(t, db, "a")
	// Tokens do not outlive the server; the source logs in again.
	m.stop()
	m = startServer(t, m.cfg)
	create(t, src, service("b"))
	waitServices(t, db, "a", "b")

	type row = struct {
		cfg  etcd.Config
		want []string
	}
	wrong := good
	wrong.PasswordFile = filepath.Join(passwords, "other")
	half := good
	half.PasswordFile = ""
	checkErrors(t, map[string]row{
		"nobody":         {etcd.Config{Endpoints: m.urls}, []string{"--etcd-user", "--etcd-password-file"}},
		"wrong password": {wrong, []string{"seamark", "--etcd-password-file"}},
		"no right":       {other, []string{"permission denied", "other", "/seamark/", "--etcd-user"}},
		"half":           {half, []string{"--etcd-user", "--etcd-password-file"}},
	})
}
