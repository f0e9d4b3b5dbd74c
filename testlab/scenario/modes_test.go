package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/testlab/traffic"
)

// TestForwardingModes: a Service with live connections is forwarded in one way after the
// other. Those of each way go on in all that follow, to pods on the node that announces
// the VIP, on another one and behind the router.
func TestForwardingModes(t *testing.T) {
	t.Parallel()
	l := upServing(t)
	pods := []string{podCtr, podW1, podW0}
	ways := []struct{ mode, dispatch, flags, counted string }{
		{"dsr", "ipip", "", "forward_remote"},
		{"dsr", "geneve", "geneve", "forward_remote"},
		{"snat", "ipip", "snat", "forward_snat"},
		{"hybrid", "ipip", "", "forward_remote"}, // TCP as with dsr
	}
	var streams []*traffic.Streams
	for _, way := range ways {
		l.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata:
  name: webpod
  namespace: default
  annotations: {seamark.dev/forwarding-mode: %q, seamark.dev/dsr-dispatch: %q}
spec:
  type: LoadBalancer
  selector: {app: webpod}
  ports: [{name: http, port: 80, targetPort: 80, protocol: TCP}]
`, way.mode, way.dispatch))
		for _, node := range nodes {
			l.eventually(node+" forwards by "+way.mode+" "+way.dispatch, func() error { return l.forwardsBy(node, way.flags) })
		}
		before := l.counted(l.holder(), way.counted)
		streams = append(streams, l.streams(40))
		if now := l.counted(l.holder(), way.counted); now == before {
			t.Errorf("%s %s: no packet was counted as %s", way.mode, way.dispatch, way.counted)
		}
		for _, s := range streams {
			l.flowing(s, pods...)
		}
	}
	for _, s := range streams {
		l.unbroken(s, generously, pods...)
	}
}

// forwardsBy wants the VIP's frontend on a node to have of the flags geneve and snat that one.
func (l lab) forwardsBy(node, flag string) error {
	dump, err := l.try(node, "seamark", "bpf", "lb", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(dump) {
		if !strings.HasPrefix(line, "frontend "+vipText+":80/TCP ") {
			continue
		}
		for _, f := range []string{"geneve", "snat"} {
			if strings.Contains(line, f) != (f == flag) {
				return fmt.Errorf("its row is %s", line)
			}
		}
		return nil
	}
	return fmt.Errorf("no frontend %s:80/TCP in\n%s", vipText, dump)
}
