package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const webpodService = "default/webpod"

// packetEvent is what `seamark monitor -o json` says of a packet, as far as the
// test asks.
type packetEvent struct {
	Device, Hook, Action, Reason string
	Packet                       struct {
		IP []struct{ Src, Dst, Name, Detail string }
	}
}

func (e packetEvent) goesTo(dst string) bool {
	return slices.ContainsFunc(e.Packet.IP, func(ip struct{ Src, Dst, Name, Detail string }) bool { return ip.Dst == dst })
}

func (e packetEvent) comesFrom(src string) bool {
	return slices.ContainsFunc(e.Packet.IP, func(ip struct{ Src, Dst, Name, Detail string }) bool { return ip.Src == src })
}

// watcher is a `seamark monitor` that runs.
type watcher struct {
	l      lab
	cmd    *exec.Cmd
	errors *lockedBuffer
	out    *lockedBuffer
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// monitor starts `seamark monitor` and returns when it watches.
func (l lab) monitor(host string, args ...string) watcher {
	l.t.Helper()
	w := watcher{l, l.host(host).Command(context.Background(), "seamark", append([]string{"monitor", "-o", "json"}, args...)...), &lockedBuffer{}, &lockedBuffer{}}
	w.cmd.Stdout, w.cmd.Stderr = w.out, w.errors
	l.must(w.cmd.Start())
	l.t.Cleanup(func() { w.cmd.Process.Kill() })
	l.eventually("it watches", func() error {
		if !strings.Contains(w.errors.String(), "watching") {
			return fmt.Errorf("it says %q", w.errors)
		}
		return nil
	})
	return w
}

// awaits waits for an event to be told.
func (w watcher) awaits(what string, is func(packetEvent) bool) {
	w.l.t.Helper()
	w.l.eventually(what+" is told", func() error {
		for line := range strings.Lines(w.out.String()) {
			var e packetEvent
			if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &e) == nil && is(e) {
				return nil
			}
		}
		return fmt.Errorf("told so far:\n%s", w.out)
	})
}

// end ends it as Ctrl-C does.
func (w watcher) end() {
	w.l.t.Helper()
	w.l.must(w.cmd.Process.Signal(os.Interrupt))
	if err := w.cmd.Wait(); err != nil {
		w.l.t.Errorf("monitor: %v: %s", err, w.errors)
	}
}

// One who looks sees what the datapath does with packets and flows: drops with
// their reason, a Service's packets while they are watched, its flows, its
// counters, and the same for Prometheus.
func TestLooking(t *testing.T) {
	t.Parallel()
	l := upServing(t, "--metrics-addr", "127.0.0.1:9962", "--metrics-backends")
	holder := l.holder()

	t.Run("drops", func(t *testing.T) {
		l := l.in(t)
		drops := l.monitor(holder, "--reason", "unserved_port", "--device", "eth1")
		if _, err := l.fetch(router, "http://"+vipText+":81/", ""); err == nil {
			t.Error("a port that is not served answers")
		}
		drops.awaits("the drop", func(e packetEvent) bool {
			return e.Device == "eth1" && e.Action == "drop" && e.Reason == "unserved_port" && e.goesTo(vipText+":81")
		})
		drops.end()
	})

	t.Run("trace", func(t *testing.T) {
		l := l.in(t)
		first, second := l.monitor(holder, "--service", webpodService), l.monitor(holder, "--service", webpodService)
		l.reaches(slices.Collect(maps.Values(podOf))...) // also the holder's own
		for _, w := range []watcher{first, second} {
			w.awaits("a packet to another node's pod", func(e packetEvent) bool {
				return e.Reason == "forward_remote" && e.goesTo(vipText+":80")
			})
			w.awaits("a packet to the pod here", func(e packetEvent) bool { return e.Reason == "forward_local" })
			w.awaits("a packet from the VIP", func(e packetEvent) bool { return e.Reason == "reply" && e.comesFrom(vipText+":80") })
		}
		first.end()
		traced := func() bool { return strings.Contains(l.seamark(holder, "bpf", "lb", "list"), "traced") }
		if !traced() {
			t.Error("not traced any more, and somebody watches")
		}
		second.end()
		l.eventually("it is not traced", func() error {
			if traced() {
				return fmt.Errorf("nobody watches")
			}
			return nil
		})
		l.refused(holder, []string{"seamark", "monitor", "--service", "default/none"}, "service default/none: not found")
	})

	t.Run("flows", func(t *testing.T) {
		l := l.in(t)
		streams := l.streams(6)
		local := map[string]bool{}
		for _, s := range streams.Result().Streams {
			local[fmt.Sprint(s.Local)] = true
		}
		type flow struct{ Client, Frontend, Pod, Protocol, State, Service string }
		l.eventually("the flows are listed", func() error {
			found := 0
			for _, node := range nodes {
				var flows []flow
				if err := l.tryJSON(&flows, node, "bpf", "ct", "list", "--service", webpodService); err != nil {
					return err
				}
				for _, f := range flows {
					if local[f.Client] && f.Frontend == web.String() && f.Protocol == "TCP" && f.State == "established" && f.Service == webpodService {
						found++
					}
				}
			}
			if found != len(local) {
				return fmt.Errorf("%d of %d", found, len(local))
			}
			return nil
		})
		streams.Close()
		if out := l.seamark(holder, "bpf", "ct", "list", "--limit", "0"); !strings.HasPrefix(out, "CLIENT ") {
			t.Errorf("without a limit: %s", out)
		}
		if out := l.seamark(holder, "bpf", "maglev", "list", "--service", webpodService); !strings.Contains(out, web.String()) {
			t.Errorf("Maglev tables: %s", out)
		}
	})

	t.Run("counters", func(t *testing.T) {
		l := l.in(t)
		l.answers()
		if out := l.seamark(holder, "bpf", "lb", "list", "--stats"); !sent(out, webpodService) {
			t.Errorf("nothing was sent to %s:\n%s", webpodService, out)
		}
		if out := l.seamark(holder, "describe", "service", "webpod"); !strings.Contains(out, "Sent by this node:") {
			t.Errorf("no counters:\n%s", out)
		}
		metrics, err := l.fetch(holder, "http://127.0.0.1:9962/metrics", "")
		l.must(err)
		for _, want := range []string{
			`seamark_service_packets_total{port="http",protocol="TCP",service="default/webpod"} `,
			`seamark_backend_bytes_total{backend="172.20.`,
			`seamark_packets_total{dropped="true",hook="xdp",reason="unserved_port"} `,
			`seamark_table_max_entries{table="flows"} `,
			`seamark_collect_passes_total `,
		} {
			if !strings.Contains(metrics, want) {
				t.Errorf("metrics lack %s", want)
			}
		}
	})
}

// A full table of translated flows refuses new ones, which is counted, until
// those that are over are collected; those that are open stay.
func TestTranslatedFlowsFull(t *testing.T) {
	t.Parallel()
	const room = 64
	l := upServing(t, "--forwarding-mode", "snat", "--translated-flows", fmt.Sprint(room))
	holder := l.holder()
	streams := l.streams(12)
	var open []string // through a translation
	for _, s := range streams.Result().Streams {
		if s.Pod != podOf[holder] {
			open = append(open, s.Pod)
		}
	}
	if len(open) == 0 {
		t.Fatal("no stream goes to another node's pod")
	}
	for i := 0; l.counted(holder, "nat_table") == 0; i++ {
		if i == 20 {
			t.Fatalf("a table of %d translated flows is never full", room)
		}
		for range room / 8 {
			if _, _, err := l.page(router, "http://"+vipText+"/"); err != nil {
				break // refused, it seems
			}
		}
	}
	l.eventually("there is room again", func() error {
		var flows []struct{ State string }
		if err := l.tryJSON(&flows, holder, "bpf", "nat", "list"); err != nil {
			return err
		}
		if len(flows) > room*3/4 {
			return fmt.Errorf("%d flows", len(flows))
		}
		return nil
	})
	pods := map[string]bool{}
	l.eventually("all pods answer", func() error {
		pod, _, err := l.page(router, "http://"+vipText+"/")
		pods[pod] = err == nil
		if len(pods) < len(podOf) {
			return fmt.Errorf("%v, %v", pods, err)
		}
		return nil
	})
	l.flowing(streams, open...)
	l.unbroken(streams, time.Minute, open...)
}

// sent says whether a line of counters that begins with name has some packets.
func sent(counters, name string) bool {
	for line := range strings.Lines(counters) {
		fields := strings.Fields(line)
		if len(fields) == 6 && fields[0] == name && fields[3] != "0" {
			return true
		}
	}
	return false
}
