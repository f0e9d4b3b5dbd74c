package scenario

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/traffic"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestDrain: an address leaves its node because somebody drains it, gives it the
// label that excludes it from load balancing, or cordons it. Nobody notices: not
// one datagram is lost, no connection breaks.
func TestDrain(t *testing.T) {
	t.Parallel()
	l := upServing(t, "--drain-on-cordon")
	l.shareVIP()
	first := l.holder()
	second := other(first)
	streams, arp, datagrams := l.streams(60), l.watchARP(), l.datagrams(router, web, 100)

	out := l.seamark(second, "drain", first) // any node's daemon can be asked
	if want := first + " is drained: it has given up 1 address, and it stays drained until seamark undrain " + first; !strings.Contains(out, want) {
		t.Errorf("drain says %q, want %q", out, want)
	}
	if a := l.announcement(first, vipText); a.Node != second || a.Reason != "Released" || a.Generation != 2 {
		t.Errorf("when drain returns: %+v", a)
	}
	if dump := l.seamark(first, "bpf", "lb", "list"); strings.Contains(dump, "\nannounced ") {
		t.Errorf("when drain returns, the node still answers:\n%s", dump)
	}
	l.flowing(streams, podCtr, podW1, podW0)
	l.refused(first, []string{"seamark", "drain", second}, "no other node may announce what it does", vipText+" (default/", "--force")
	l.refused(first, []string{"seamark", "drain", "k8s-w9"}, `no seamarkd of a node "k8s-w9" ever kept a lease`, first)
	explained := l.seamark(w0, "explain", "announcement", vipText)
	for _, want := range []string{"Announced by: ", second + " since ", "no: Drained", "seamark undrain " + first, "no: OffLink"} {
		if !strings.Contains(explained, want) {
			t.Errorf("no %q in\n%s", want, explained)
		}
	}

	l.eventually("the Service names the node", func() error {
		var svc struct {
			Status struct{ Conditions []metav1.Condition }
		}
		l.must(l.tryJSON(&svc, ctr, "get", "service", "webpod"))
		if c := meta.FindStatusCondition(svc.Status.Conditions, "seamark.dev/Announced"); c == nil || c.Status != "True" || !strings.Contains(c.Message, "by node "+second) {
			return fmt.Errorf("conditions %+v", svc.Status.Conditions)
		}
		return nil
	})

	l.daemon(first, testlab.Stop)
	l.daemon(first, testlab.Start)
	l.leased(first)
	l.watchQuiet(second, second)
	l.seamark(first, "undrain", first)
	l.watchQuiet(second, second)

	l.changeNode(second, func(node *unstructured.Unstructured) {
		node.SetLabels(map[string]string{"node.kubernetes.io/exclude-from-external-load-balancers": ""})
	})
	l.movedFrom(second)
	l.changeNode(second, func(node *unstructured.Unstructured) { node.SetLabels(nil) })
	l.changeNode(first, func(node *unstructured.Unstructured) {
		l.must(unstructured.SetNestedField(node.Object, true, "spec", "unschedulable"))
	})
	l.movedFrom(first)
	l.changeNode(first, func(node *unstructured.Unstructured) {
		unstructured.RemoveNestedField(node.Object, "spec", "unschedulable")
	})
	l.watchQuiet(second, second)
	l.eventually(first+" answers no longer", func() error {
		if dump := l.seamark(first, "bpf", "lb", "list"); strings.Contains(dump, "\nannounced ") {
			return errors.New(dump)
		}
		return nil
	})

	l.flowing(streams, podCtr, podW1, podW0)
	l.unbroken(streams, generously, podCtr, podW1, podW0)
	l.handedOver(arp(), l.mac(second))
	l.noneLost(datagrams())
}

// TestMachineShutsDown: a daemon that is stopped because its machine shuts down
// hands its addresses over first. One that is only stopped keeps them.
func TestMachineShutsDown(t *testing.T) {
	t.Parallel()
	l := upWith(t, testlab.Config{BinDir: withSystemctl(t)})
	l.applyDemo()
	l.shareVIP()
	old := l.holder()
	datagrams := l.datagrams(router, web, 100)
	l.must(os.WriteFile(filepath.Join(l.dir(old), "run", "stopping"), nil, 0o600))
	l.daemon(old, testlab.Stop)
	now := other(old)
	if a := l.announcement(now, vipText); a.Node != now || a.Reason != "Released" || a.Previous != old {
		t.Errorf("when the daemon has stopped: %+v", a)
	}
	l.noneLost(datagrams())
	l.must(os.Remove(filepath.Join(l.dir(old), "run", "stopping")))
	l.daemon(old, testlab.Start)
	l.leased(old)
	l.seamark(now, "drain", now) // the machine is back, and may have addresses
	l.movedFrom(now)
}

// withSystemctl is a folder with the programs under test and a systemctl, which
// says that the machine of a host shuts down while there is a file "stopping" in
// the host's run directory.
func withSystemctl(t *testing.T) string {
	t.Helper()
	if reason := whyNot(); reason != "" {
		t.Skip(reason)
	}
	dir := t.TempDir()
	programs, err := os.ReadDir(binDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		if err := os.Symlink(filepath.Join(binDir, p.Name()), filepath.Join(dir, p.Name())); err != nil {
			t.Fatal(err)
		}
	}
	const script = "#!/bin/sh\nif [ -e \"${SEAMARK_SOCKET%/*}/stopping\" ]; then echo stopping; exit 1; fi\necho running\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// noneLost wants every datagram to have come back.
func (l lab) noneLost(sent int, lost []string) {
	l.t.Helper()
	l.t.Logf("%d datagrams, %d lost", sent, len(lost))
	if sent == 0 || len(lost) > 0 {
		l.t.Errorf("%d of %d datagrams were lost: %s", len(lost), sent, strings.Join(lost[:min(len(lost), 20)], ", "))
	}
}

// handedOver wants ARP answered without a noticeable pause, in the end by one
// MAC. While the address is handed over both may answer: both forward.
func (l lab) handedOver(r traffic.ARPResult, to string) {
	l.t.Helper()
	l.t.Logf("ARP: %s", r)
	if len(r.Holders) == 0 || r.Holders[len(r.Holders)-1].MAC != to {
		l.t.Errorf("ARP was answered by %+v, want %s in the end", r.Holders, to)
	}
	if r.Silence > 2*time.Second { // less than a lease
		l.t.Errorf("nobody answered ARP for %s", ms(r.Silence))
	}
}

// shareVIP gives the VIP to a Service of UDP as well.
func (l lab) shareVIP() {
	l.t.Helper()
	const share = `, annotations: {seamark.dev/sharing-key: drain, seamark.dev/ips: ` + vipText + `}}`
	l.apply(`apiVersion: v1
kind: Service
metadata: {name: webpod, namespace: default` + share + `
spec: {type: LoadBalancer, selector: {app: webpod}, ports: [{name: http, port: 80}]}
`)
	l.apply(strings.Replace(l.udpService("echo"), "namespace: default}", "namespace: default"+share, 1))
	missing := map[string]bool{podCtr: true, podW1: true, podW0: true}
	l.eventually("each pod echoes datagrams", func() error { // each node serves the Service then
		pod, err := l.echo(router, web)
		if err != nil {
			return err
		}
		if delete(missing, pod); len(missing) > 0 {
			return fmt.Errorf("never %v", missing)
		}
		return nil
	})
}

// changeNode changes a Node as it is in the store.
func (l lab) changeNode(name string, change func(*unstructured.Unstructured)) {
	l.t.Helper()
	var node unstructured.Unstructured
	l.must(json.Unmarshal([]byte(l.seamark(ctr, "get", "node", name, "-o", "json")), &node.Object))
	change(&node)
	data, err := json.Marshal(node.Object)
	l.must(err)
	l.apply(string(data))
}

// datagrams sends datagrams from a host to an echo, rate a second in ten flows, until stop
// is called, which returns how many there were, and when those were sent that
// never came back. It waits for late ones: the machine may be busy, which loses nothing.
func (l lab) datagrams(from string, to netip.AddrPort, rate int) (stop func() (sent int, lost []string)) {
	l.t.Helper()
	const flows = 10
	var back sync.Map // numbers
	var conns [flows]net.Conn
	for i := range conns {
		l.must(l.host(from).Do(func() (err error) {
			conns[i], err = net.Dial("udp", to.String())
			return err
		}))
		l.t.Cleanup(func() { conns[i].Close() })
		go func() {
			for buf := make([]byte, 1500); ; {
				n, err := conns[i].Read(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil && n >= 4 {
					back.Store(binary.BigEndian.Uint32(buf), nil)
				}
			}
		}()
	}
	finish := background(l, func(ctx context.Context) (times []time.Time, err error) {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			times = append(times, time.Now())
			n := len(times) - 1
			// What an earlier one met, such as an ICMP error, is not this one's: it counts as lost anyway.
			_, _ = conns[n%flows].Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
			select {
			case <-ctx.Done():
				return times, nil
			case <-tick.C:
			}
		}
	})
	return func() (int, []string) {
		l.t.Helper()
		times := finish()
		for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
			var lost []string
			for n, sent := range times {
				if _, ok := back.Load(uint32(n)); !ok {
					lost = append(lost, fmt.Sprintf("#%d of %s from %s", n, sent.UTC().Format("15:04:05.000"), conns[n%flows].LocalAddr()))
				}
			}
			if len(lost) == 0 || time.Now().After(end) {
				return len(times), lost
			}
		}
	}
}
