package vm

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// entry reads one entry of an archive, as the kernel does, and returns what is
// behind it.
func entry(t *testing.T, b []byte) (name string, f file, rest []byte) {
	t.Helper()
	if len(b) < 110 || string(b[:6]) != "070701" {
		t.Fatalf("no header at %.20q", b)
	}
	field := func(i int) int {
		n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	align := func(n int) int { return (n + 3) / 4 * 4 }
	data := align(110 + field(11))
	end := data + field(6)
	if b[110+field(11)-1] != 0 {
		t.Errorf("a name does not end where it should")
	}
	f = file{mode: uint32(field(1)), major: uint32(field(9)), minor: uint32(field(10)), data: b[data:end]}
	return string(b[110 : 110+field(11)-1]), f, b[align(end):]
}

func TestArchive(t *testing.T) {
	var out bytes.Buffer
	if err := archive(&out, map[string]file{
		"init":        {mode: typeFile | 0o755, data: []byte("#!")},
		"a/b/c":       {mode: typeFile | 0o644, data: []byte("12345")},
		"a/b/empty":   {mode: typeFile | 0o600},
		"dev/console": {mode: typeConsole | 0o600, major: 5, minor: 1},
		"dev":         {mode: typeFolder | 0o700},
	}); err != nil {
		t.Fatal(err)
	}
	var names []string
	files := map[string]file{}
	for rest := out.Bytes(); ; {
		var name string
		var f file
		name, f, rest = entry(t, rest)
		if name == "TRAILER!!!" {
			if len(rest) != 0 {
				t.Errorf("%d bytes behind the trailer", len(rest))
			}
			break
		}
		names = append(names, name)
		files[name] = f
	}
	if want := []string{"a", "a/b", "a/b/c", "a/b/empty", "dev", "dev/console", "init"}; !slices.Equal(names, want) {
		t.Errorf("entries are %v, want %v", names, want)
	}
	if f := files["a/b/c"]; string(f.data) != "12345" || f.mode != typeFile|0o644 {
		t.Errorf("a/b/c = %+v", f)
	}
	if f := files["a"]; f.mode != typeFolder|0o755 {
		t.Errorf("a = %+v, want a folder", f)
	}
	if f := files["dev"]; f.mode != typeFolder|0o700 {
		t.Errorf("dev = %+v, want it as given", f)
	}
	if f := files["dev/console"]; f.major != 5 || f.minor != 1 || f.mode != typeConsole|0o600 {
		t.Errorf("dev/console = %+v", f)
	}
}

func TestDependsOn(t *testing.T) {
	for modinfo, want := range map[string][]string{
		"license=GPL\x00depends=libcrc32c,udp_tunnel\x00name=sctp\x00": {"libcrc32c", "udp_tunnel"},
		"depends=\x00": nil,
		"softdep=pre: crc32c post: other\x00depends=a\x00": {"crc32c", "a"},
		"softdep=post: other\x00":                          nil,
		"":                                                 nil,
	} {
		if got := dependsOn([]byte(modinfo)); !slices.Equal(got, want) {
			t.Errorf("%q depends on %q, want %q", modinfo, got, want)
		}
	}
}

func TestMirrorOf(t *testing.T) {
	for targets, want := range map[string]string{
		"Other http://x/ bookworm\nDebian http://m/debian/ bookworm-updates\nDebian http://m/debian/ bookworm\n": "http://m/debian/",
		"Debian http://s/ bookworm-security\n": "",
		"":                                     "",
	} {
		got, err := mirrorOf(targets)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("of %q the mirror is %q, %v, want %q", targets, got, err, want)
		}
	}
}

func TestConsole(t *testing.T) {
	for console, want := range map[string]struct {
		code  int
		ended bool
		lines []string
	}{
		"hello\r\n\r\nseamark-vm: exit code 3\r\n[ 1.0] reboot\r\n": {3, true, []string{"hello", "[ 1.0] reboot"}},
		"seamark-vm: exit code 0\n":                                 {0, true, nil},
		"Kernel panic":                                              {0, false, []string{"Kernel panic"}},
		"seamark-vm: exit code \n":                                  {0, false, nil},
	} {
		var lines []string
		code, ended := read(strings.NewReader(console), func(line string) { lines = append(lines, line) })
		if code != want.code || ended != want.ended || !slices.Equal(lines, want.lines) {
			t.Errorf("of %q: %d, %v, %q", console, code, ended, lines)
		}
	}
}

// A run in which what it is for was skipped is none that went well.
func TestMissing(t *testing.T) {
	all := ""
	for _, name := range required {
		all += "--- PASS: " + name + " (1.00s)\n    --- SKIP: " + name + "/some (0.00s)\n"
	}
	for name, row := range map[string]struct {
		out, run string
		want     []string
	}{
		"all":                   {out: all},
		"one skipped":           {out: strings.Replace(all, "--- PASS: TestBond ", "--- SKIP: TestBond ", 1), want: []string{"TestBond"}},
		"one that never ran":    {out: strings.Replace(all, "--- PASS: TestSCTP (1.00s)\n", "", 1), want: []string{"TestSCTP"}},
		"others chosen":         {run: "TestFragments|TestMSS"},
		"chosen, and skipped":   {out: "--- SKIP: TestVLANDevice (0.00s)\n", run: "VLAN", want: []string{"TestVLANDevice"}},
		"chosen with a subtest": {out: "--- PASS: TestBond (0.00s)\n", run: "Bond/active"},
	} {
		var count tally
		for line := range strings.Lines(row.out) {
			count.add(strings.TrimSuffix(line, "\n"))
		}
		if got := missing(&count, row.run); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
}
