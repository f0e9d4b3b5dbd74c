package kubescenario

import (
	"fmt"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
)

// TestBadPolicy: what no schema can tell of a policy, its status says, and what
// it announced stays announced: as it was last right, also by daemons that have
// never seen it right.
func TestBadPolicy(t *testing.T) {
	t.Parallel()
	l := up(t, testlab.Config{})
	l.applyDemo()
	holder := l.holder()
	l.kubectlSays("True Announced "+vipText+" by node "+holder+" on eth1", "get", "service", "webpod", "-o",
		`jsonpath={range .status.conditions[?(@.type=="seamark.dev/Announced")]}{.status} {.reason} {.message}{end}`)
	before := l.announcements(ctr)
	arp := l.watchARP()
	accepted := func(want string) {
		t.Helper()
		l.kubectlSays(want, "get", "l2policies.seamark.dev", "lab", "-o",
			`jsonpath={range .status.conditions[?(@.type=="seamark.dev/Accepted")]}{.status} {.reason} {.message}{end}`)
	}
	stays := func(when string) {
		t.Helper()
		for _, node := range nodes {
			if now := l.announcements(node); now != before {
				t.Errorf("%s: announcements, asked from %s\n%swere\n%s", when, node, now, before)
			}
		}
		l.answers()
	}
	for _, tc := range []struct{ spec, want string }{
		{`"interfaces": ["eth("]`, `False Invalid spec.interfaces[0]: "eth(" is no regular expression`},
		{`"interfaces": ["^eth1$"], "nodeSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}`, "False Invalid spec.nodeSelector.matchExpressions[0].values: "},
	} {
		l.kubectl("patch", "l2policies.seamark.dev", "lab", "--type=merge", "-p", fmt.Sprintf(`{"spec": {%s}}`, tc.spec))
		accepted(tc.want)
		stays(tc.spec)
	}
	l.kubectlSays("Warning Invalid L2Policy spec.nodeSelector.matchExpressions[0].values: ", "get", "events.events.k8s.io", "-o",
		"custom-columns=T:.type,R:.reason,O:.regarding.kind,N:.note", "--no-headers", "-A")
	for _, node := range nodes {
		l.daemon(node, testlab.Stop)
	}
	for _, node := range nodes {
		l.daemon(node, testlab.Start)
	}
	for _, node := range nodes {
		l.leased(node)
	}
	stays("after all daemons have started anew")
	l.kubectl("patch", "l2policies.seamark.dev", "lab", "--type=merge", "-p", `{"spec": {"nodeSelector": null}}`)
	accepted("True Valid")
	stays("when the policy is right again")
	l.held(arp(), l.mac(holder))
}
