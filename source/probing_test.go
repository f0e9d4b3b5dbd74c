package source_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How a Service has its backends outside the cluster checked. In the annotations
// and the fields of problems, seamark.dev/health-check is left out.
func TestProbing(t *testing.T) {
	const defaults = " 0 5s/2s 3/3"
	for _, test := range []struct {
		annotations string // each as key=value
		want        string // by path port interval/timeout rise/fall
		problem     string // field and cure
	}{
		{"", "  0 0s/0s 0/0", ""},
		{"=none", "  0 0s/0s 0/0", ""},
		{"-interval=1s", "  0 0s/0s 0/0", ""}, // of no check
		{"=tcp", "tcp " + defaults, ""},
		{"=tcp -path=/healthz", "tcp " + defaults, ""},
		{"=http", "http /" + defaults, ""},
		{"=http -path=/healthz?a=b -port=8081 -interval=10s -timeout=500ms -rise=1 -fall=100", "http /healthz?a=b 8081 10s/500ms 1/100", ""},
		{"=tcp -interval=1s", "tcp  0 1s/1s 3/3", ""}, // the timeout is no longer than that
		{"=icmp", "  0 0s/0s 0/0", ": write one of tcp, http, none"},
		{"=http -path=healthz", "http /" + defaults, "-path: write a path such as /healthz"},
		{"=http -path=http://10.0.0.1/", "http /" + defaults, "-path: write a path such as /healthz"},
		{"=http -path=/a\x01b", "http /" + defaults, "-path: write a path such as /healthz"},
		{"=http -path=//10.0.0.1/", "http //10.0.0.1/" + defaults, ""}, // a path all the same
		{"=http -path=/" + strings.Repeat("a", 2048), "http /" + defaults, "-path: write a path such as /healthz"},
		{"=tcp -port=0", "tcp " + defaults, "-port: write a number from 1 to 65535"},
		{"=tcp -port=65536", "tcp " + defaults, "-port: write a number from 1 to 65535"},
		{"=tcp -port=http", "tcp " + defaults, "-port: write a number from 1 to 65535"},
		{"=tcp -interval=5", "tcp " + defaults, "-interval: write a time such as 5s, from 1s to 1h0m0s"},
		{"=tcp -interval=500ms", "tcp " + defaults, "-interval: write a time such as 5s, from 1s to 1h0m0s"},
		{"=tcp -timeout=6s", "tcp " + defaults, "-timeout: write a time such as 2s, from 10ms to 5s"},
		{"=tcp -interval=1h -timeout=11s", "tcp  0 1h0m0s/2s 3/3", "-timeout: write a time such as 2s, from 10ms to 10s"},
		{"=tcp -timeout=-1s", "tcp " + defaults, "-timeout: write a time such as 2s, from 10ms to 5s"},
		{"=tcp -rise=0", "tcp " + defaults, "-rise: write a number from 1 to 100"},
		{"=tcp -fall=1000", "tcp " + defaults, "-fall: write a number from 1 to 100"},
	} {
		t.Run(test.annotations, func(t *testing.T) {
			annotations := map[string]string{}
			for _, setting := range strings.Split(test.annotations, " ") {
				if key, value, ok := strings.Cut(setting, "="); ok {
					annotations["seamark.dev/health-check"+key] = value
				}
			}
			row, problems := source.ServiceRow(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: annotations}})
			p := row.Probing
			if got := fmt.Sprintf("%s %s %d %v/%v %d/%d", p.By, p.Path, p.Port, p.Interval, p.Timeout, p.Rise, p.Fall); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			var got []string
			for _, problem := range problems {
				got = append(got, problem.Field+": "+problem.Cure)
			}
			var want []string
			if test.problem != "" {
				field, cure, _ := strings.Cut(test.problem, ": ")
				want = []string{"metadata.annotations[seamark.dev/health-check" + field + "]: " + cure}
			}
			if !slices.Equal(got, want) || p.Invalid != (test.problem != "") {
				t.Errorf("problems %q, invalid %v; want %q", got, p.Invalid, want)
			}
		})
	}
}

// What is wrong changes nothing of how backends are checked, until it is mended.
func TestProbingKeepsLast(t *testing.T) {
	s := newStore(t)
	put := func(by, fall string) state.Probing {
		s.put(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: default
  annotations: {seamark.dev/health-check: "%s", seamark.dev/health-check-fall: "%s"}
spec: {type: LoadBalancer, ports: [{port: 80}]}`, by, fall))
		svc, _ := s.db.Services.Get(s.db.Snapshot(), "default/web")
		return svc.Probing
	}
	good := put("http", "7")
	if good.Fall != 7 || good.Invalid || len(s.problems()) > 0 {
		t.Fatalf("%+v, problems %v", good, s.problems())
	}
	kept := good
	kept.Invalid = true
	for _, wrong := range [][2]string{{"http", "many"}, {"ping", "2"}, {"tcp", "0"}} {
		if got := put(wrong[0], wrong[1]); got != kept || len(s.problems()) != 1 {
			t.Errorf("%v: %+v, problems %v; want %+v", wrong, got, s.problems(), kept)
		}
	}
	if got := put("none", ""); got != (state.Probing{}) || len(s.problems()) > 0 {
		t.Errorf("mended: %+v, problems %v", got, s.problems())
	}
}
