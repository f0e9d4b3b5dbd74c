package kubescenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/kubeapi/kubetest"
	"k8s.io/client-go/tools/clientcmd"
)

// TestKubeProxy: what Seamark is beside another CNI. It gives a Service its address
// and announces it, and a real kube-proxy forwards to the pods.
func TestKubeProxy(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{DaemonArgs: []string{"--forwarding-mode=kube-proxy"}})
	for _, node := range nodes {
		l.startKubeProxy(node)
	}
	l.applyDemo()

	missing := slices.Clone(pods)
	l.eventually("the VIP leads to every pod", func() error {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		if err != nil {
			return err
		}
		if missing = slices.DeleteFunc(missing, func(p string) bool { return p == pod }); len(missing) > 0 {
			return fmt.Errorf("not yet to %s", strings.Join(missing, ", "))
		}
		return nil
	})
	l.run(router, "ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", vipText)
	for node, problems := range l.problems() {
		if len(problems) > 0 {
			t.Errorf("problems of %s: %q", node, problems)
		}
	}

	// Its announcer's end ends what kube-proxy tracks there, and no more.
	holder := l.holder()
	l.must(l.PowerOff(holder))
	l.eventually("another node announces the VIP", func() error {
		from := ctr
		if holder == ctr {
			from = w1
		}
		node, err := l.tryHolder(from, vipText)
		if err == nil && node == holder {
			err = fmt.Errorf("it is still %s", node)
		}
		return err
	})
	l.answers()
}

// startKubeProxy runs kube-proxy on a node until the test's end.
func (l lab) startKubeProxy(node string) {
	l.t.Helper()
	admin, ok := l.Kubeconfig()
	if !ok {
		l.t.Fatal("the control plane is not Kubernetes")
	}
	config, err := clientcmd.LoadFromFile(admin)
	l.must(err)
	for _, cluster := range config.Clusters {
		cluster.Server = "https://10.0.2.10:6443" // as nodes reach it
	}
	file := filepath.Join(l.t.TempDir(), "kubeconfig")
	l.must(clientcmd.WriteToFile(*config, file))
	log, err := os.Create(filepath.Join(l.t.TempDir(), "log"))
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := l.host(node).Command(ctx, kubetest.Binary(l.t), "kube-proxy", "--kubeconfig", file, "--hostname-override", node, "--proxy-mode", "nftables",
		"--cluster-cidr", "172.20.0.0/16", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s", "--oom-score-adj=0")
	cmd.Stdout, cmd.Stderr = log, log
	l.must(cmd.Start())
	l.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		if said, err := os.ReadFile(log.Name()); err == nil && l.t.Failed() {
			l.t.Logf("kube-proxy of %s:\n%s", node, said[max(0, len(said)-4000):])
		}
		log.Close()
	})
}
