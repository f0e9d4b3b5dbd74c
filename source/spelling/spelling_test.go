package spelling

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"ips", "pool", "pools", "Priority"}
	for _, c := range []struct {
		name string
		most int
		want string
	}{
		{"ip", 2, "ips"}, {"pol", 2, "pool"}, {"poo", 2, "pool"}, {"priority", 0, "Priority"}, {"prioritiy", 1, "Priority"},
		{"prioritiy", 0, ""}, {"something-else", 3, ""}, {"", 2, ""}, {"", 3, "ips"}, {"sip", 2, "ips"},
	} {
		if got := Nearest(c.name, known, c.most); got != c.want {
			t.Errorf("%q within %d edits: %q, want %q", c.name, c.most, got, c.want)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		if got := editDistance(c.a, c.b); got != c.want || editDistance(c.b, c.a) != c.want {
			t.Errorf("%q to %q: %d, want %d both ways", c.a, c.b, got, c.want)
		}
	}
}
