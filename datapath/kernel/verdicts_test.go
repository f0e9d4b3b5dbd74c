package kernel

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What counts as dropped is what bpf/reasons.h says is.
func TestDrops(t *testing.T) {
	if emulated() {
		t.Skip("the sources are not in an emulated machine")
	}
	text, err := os.ReadFile("../../bpf/reasons.h")
	if err != nil {
		t.Fatal(err)
	}
	group := regexp.MustCompile(`^\t// .*\b(Dropped|Forwarded or answered|[Pp]assed on,? with something to say)\.$`)
	entry := regexp.MustCompile(`^\tREASON_([A-Z_]+),`)
	dropped, reason := false, bpfReason(0)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if m := group.FindStringSubmatch(line); m != nil {
			dropped = m[1] == "Dropped"
		}
		m := entry.FindStringSubmatch(line)
		if m == nil || m[1] == "MAX" {
			continue
		}
		if drops(reason) != dropped {
			t.Errorf("%s counts as dropped: %v", m[1], !dropped)
		}
		reason++
	}
	if reason != bpfReasonREASON_MAX {
		t.Errorf("found %d reasons, there are %d", reason, bpfReasonREASON_MAX)
	}
	if got := newHost(t).open(t).Reasons(); len(got) != int(bpfReasonREASON_MAX)-1 || !got["no_backend"] || got["forward_pinned"] {
		t.Errorf("Reasons = %v", got)
	}
}
