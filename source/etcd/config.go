package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"
)

// Config says which etcd holds the objects, and how to talk to it. The flags
// named in errors are seamarkd's.
type Config struct {
	// Endpoints of the members, as URLs or host:port.
	Endpoints []string
	// Prefix of all keys; /seamark when "".
	Prefix string
	// CAFile verifies the servers; CertFile and KeyFile are what they verify
	// us by. PEM; all optional.
	CAFile, CertFile, KeyFile string
	// User and the file with the user's password, for etcd's own auth.
	User, PasswordFile string
	// RequestTimeout bounds every request; 5 s when 0.
	RequestTimeout time.Duration
	// CheckInterval is the time between looks at whether the store answers, is
	// still the one it was, and how old the tables are; 1 s when 0.
	CheckInterval time.Duration
}

// Flags that errors name.
const (
	flagEndpoints = "--etcd-endpoints"
	flagCA        = "--etcd-ca"
	flagCert      = "--etcd-cert"
	flagKey       = "--etcd-key"
	flagUser      = "--etcd-user"
	flagPassword  = "--etcd-password-file"
)

// withDefaults checks cfg and fills in what may be left out.
func (cfg Config) withDefaults() (Config, error) {
	if len(cfg.Endpoints) == 0 {
		return cfg, fmt.Errorf("read %s: no endpoint: name at least one, such as https://10.0.2.10:2379", flagEndpoints)
	}
	scheme := "http://"
	if cfg.CAFile != "" || cfg.CertFile != "" {
		scheme = "https://"
	}
	endpoints := make([]string, len(cfg.Endpoints))
	for i, e := range cfg.Endpoints {
		if !strings.Contains(e, "://") {
			e = scheme + e
		}
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" {
			return cfg, fmt.Errorf("read %s: %q is no endpoint: write it as https://10.0.2.10:2379", flagEndpoints, cfg.Endpoints[i])
		}
		if u.Scheme == "http" && scheme == "https://" {
			return cfg, fmt.Errorf("read %s: %q is not encrypted, and %s or %s is given: write https://", flagEndpoints, e, flagCA, flagCert)
		}
		endpoints[i] = e
	}
	cfg.Endpoints = endpoints
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return cfg, fmt.Errorf("read %s and %s: one goes with the other: give both", flagCert, flagKey)
	}
	if (cfg.User == "") != (cfg.PasswordFile == "") {
		return cfg, fmt.Errorf("read %s and %s: one goes with the other: give both", flagUser, flagPassword)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "/seamark"
	}
	cfg.Prefix = "/" + strings.Trim(cfg.Prefix, "/")
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 5 * time.Second
	}
	if cfg.CheckInterval == 0 {
		cfg.CheckInterval = time.Second
	}
	return cfg, nil
}

// tlsConfig is nil when no endpoint is encrypted.
func (cfg Config) tlsConfig() (*tls.Config, error) {
	if !strings.HasPrefix(cfg.Endpoints[0], "https://") {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", flagCA, err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read %s: %s holds no PEM certificate", flagCA, cfg.CAFile)
		}
	}
	if cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read %s and %s: %w", flagCert, flagKey, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

func (cfg Config) password() (string, error) {
	if cfg.PasswordFile == "" {
		return "", nil
	}
	data, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", flagPassword, err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", fmt.Errorf("read %s: %w", flagPassword, errors.New(cfg.PasswordFile+" is empty"))
	}
	return password, nil
}
