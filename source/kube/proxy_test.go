package kube_test

import (
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/testlab/delay"
	"k8s.io/client-go/tools/clientcmd"
)

// throughProxy has the daemon reach the API server through a proxy, as it would
// be through a load balancer before several.
func (c *cluster) throughProxy(t *testing.T) *delay.Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.LoadFromFile(c.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &delay.Proxy{}
	for _, cluster := range config.Clusters {
		server, err := url.Parse(cluster.Server)
		if err != nil {
			t.Fatal(err)
		}
		proxy.To, cluster.Server = server.Host, "https://"+listener.Addr().String()
	}
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, c.kubeconfig); err != nil {
		t.Fatal(err)
	}
	go proxy.Serve(t.Context(), listener)
	return proxy
}

// An API server that is gone is missed also when something accepts the
// connections to it: whether these are then cut, or nothing comes of them.
func TestOutageBehindProxy(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	proxy := c.throughProxy(t)
	src, db := c.source(t, kube.Config{})
	c.mustCreate(t, plainService("a"))
	waitServices(t, db, "a")
	read(t, src)
	missed := func() {
		t.Helper()
		eventually(t, "the source says what is wrong", func() bool {
			err := src.Err()
			return err != nil && strings.Contains(err.Error(), "reach API server")
		})
	}

	if err := c.api.Stop(); err != nil {
		t.Fatal(err)
	}
	missed()
	if err := renew(t, src); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("renewed over connections that are cut: %v", err)
	}
	if err := c.api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is wrong", func() bool { return src.Err() == nil })
	read(t, src)

	proxy.SetDelay(time.Hour)
	missed()
	waitServices(t, db, "a")
}
