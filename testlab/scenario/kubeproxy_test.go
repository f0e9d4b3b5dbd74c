package scenario

import (
	"errors"
	"testing"
)

// TestLeftToKubeProxy: Seamark gives the address and announces it, and kube-proxy,
// here its rules, brings the packets to the pods, as it would to those of any CNI.
// The rest of the address is Seamark's.
func TestLeftToKubeProxy(t *testing.T) {
	t.Parallel()
	l := withClients(t, "--forwarding-mode=kube-proxy")
	kubeProxy.install(l)
	l.announceDemo()
	holder := l.holder()

	l.reaches(podCtr, podW1, podW0)
	if kubeProxy.packets(l, holder, kubeProxy.translated) == 0 {
		t.Errorf("%s announces the VIP, and kube-proxy has translated nothing there", holder)
	}
	l.run(router, "ping", "-q", "-c", "3", "-i", "0.2", "-W", "5", vipText)
	if _, _, err := l.page(router, "http://"+vipText+":81/"); err == nil {
		t.Error("a port that no Service has answers")
	}

	l.must(l.PowerOff(holder))
	l.eventually("another node announces the VIP", func() error {
		node, err := l.tryHolder(other(holder), vipText)
		if err == nil && node == holder {
			err = errors.New("not yet")
		}
		return err
	})
	l.reaches(podOf[other(holder)], podW0)
}
