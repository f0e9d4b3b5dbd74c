// Package deps holds no code: its test keeps the direction that data flows in
// (DESIGN §1, §2) true of the imports.
package deps

import (
	"encoding/json"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

const module = "github.com/seamark-lb/seamark/"

// rule forbids the packages under From to import any package under one of
// Deny, other than those under Allow. Paths without a dot in their first
// element are of this module.
type rule struct {
	From   string
	Deny   []string
	Allow  []string
	Reason string
}

var rules = []rule{
	{From: "api", Deny: []string{""}, Allow: []string{"api"},
		Reason: "outsiders import the API types and must not get the daemon with them"},
	{From: "state", Deny: []string{""}, Allow: []string{"state", "api"},
		Reason: "the vocabulary is below everything that speaks it"},
	{From: "source", Deny: []string{""}, Allow: []string{"source", "state", "api"},
		Reason: "a source writes rows; it knows no decider and no target"},
	{From: "lbipam", Deny: []string{""}, Allow: []string{"lbipam", "state", "api"},
		Reason: "a decider reads a snapshot and returns rows"},
	{From: "news", Deny: []string{""}, Allow: []string{"news", "state", "api"},
		Reason: "a decider reads snapshots and returns rows; cmd hands its Events to the source"},
	{From: "announce", Deny: []string{""}, Allow: []string{"announce", "state", "api"},
		Reason: "siblings speak through rows; cmd wires them"},
	{From: "bfd", Deny: []string{""}, Allow: []string{"bfd", "state", "api"},
		Reason: "rows go in and out; announce and bgp read the rows, not the package"},
	{From: "bgp", Deny: []string{""}, Allow: []string{"bgp", "state", "api"},
		Reason: "siblings speak through rows; cmd wires them"},
	{From: "coexist", Deny: []string{""}, Allow: []string{"coexist", "state", "api"},
		Reason: "siblings speak through rows; cmd wires them"},
	{From: "datapath", Deny: []string{""}, Allow: []string{"datapath", "state", "api", "internal/unixhttp"},
		Reason: "siblings speak through rows; cmd wires them"},
	{From: "lbipam", Deny: []string{"time/tzdata", "net/http", "os", "log/slog", "sync", "context"},
		Reason: "the allocator is pure: no clock, client, lock or log of its own"},
	{From: "news", Deny: []string{"time", "net/http", "os", "log/slog", "sync", "context"},
		Reason: "what is told depends on the rows alone: no clock, client, lock or log of its own"},
	{From: "", Deny: []string{"k8s.io/client-go"}, Allow: []string{
		"k8s.io/client-go/tools/leaderelection"},
		Reason: "only source talks to Kubernetes; announce may elect with leaderelection"},
	{From: "", Deny: []string{"go.etcd.io"},
		Reason: "only source/etcd talks to etcd"},
	{From: "", Deny: []string{"testlab"},
		Reason: "the lab is for tests and its own main"},
	{From: "cmd/seamark-cni", Deny: []string{"state", "source", "announce", "lbipam", "github.com/cilium/ebpf", "k8s.io"},
		Reason: "the plugin runs once per pod and only talks to the daemon's socket"},
}

// exempt are packages that a rule over everything ("") does not mean.
func (r rule) exempt(pkg string) bool {
	if r.From != "" {
		return false
	}
	switch r.Deny[0] {
	case "k8s.io/client-go":
		return under(pkg, "source")
	case "go.etcd.io":
		return under(pkg, "source/etcd")
	case "testlab":
		return under(pkg, "testlab")
	}
	return false
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		seen[strings.SplitN(p.name, "/", 2)[0]] = true
		for _, imp := range p.imports {
			for _, r := range rules {
				if r.forbids(p.name, imp) {
					t.Errorf("%s imports %s: %s", p.name, imp, r.Reason)
				}
			}
		}
	}
	for _, room := range []string{"api", "state", "source", "lbipam", "news", "announce", "bfd", "coexist", "datapath", "cmd", "testlab"} {
		if !seen[room] {
			t.Errorf("folder %s has no package: the rules above no longer mean anything for it", room)
		}
	}
	for folder := range seen {
		switch folder {
		case "util", "utils", "common", "helpers", "misc", "pkg":
			t.Errorf("folder %s is named for nothing", folder)
		}
	}
}

// The rules themselves, so that a rule that forbids nothing is noticed.
func TestRules(t *testing.T) {
	for _, tc := range []struct {
		pkg, imp string
		want     bool
	}{
		{"announce", module + "datapath", true},
		{"announce", module + "state", false},
		{"datapath/kernel", module + "datapath", false},
		{"datapath", module + "announce", true},
		{"announce", module + "bfd", true},
		{"bfd", module + "announce", true},
		{"coexist", module + "datapath", true},
		{"coexist", module + "state", false},
		{"lbipam", "net/http", true},
		{"news", module + "source", true},
		{"news", "time", true},
		{"news", module + "state", false},
		{"announce", "k8s.io/client-go/kubernetes", true},
		{"announce", "k8s.io/client-go/tools/leaderelection", false},
		{"source/etcd", "go.etcd.io/etcd/client/v3", false},
		{"source", "go.etcd.io/etcd/client/v3", true},
		{"cmd/seamarkd", "go.etcd.io/etcd/client/v3", true},
		{"cmd/seamarkd", module + "testlab", true},
		{"testlab/cmd/testlab", module + "testlab", false},
		{"statement", module + "source", false},
	} {
		got := false
		for _, r := range rules {
			got = got || r.forbids(tc.pkg, tc.imp)
		}
		if got != tc.want {
			t.Errorf("%s importing %s: forbidden %v, want %v", tc.pkg, tc.imp, got, tc.want)
		}
	}
}

func (r rule) forbids(pkg, imp string) bool {
	if !under(pkg, r.From) || r.exempt(pkg) {
		return false
	}
	imp, own := strings.CutPrefix(imp, module)
	for _, allow := range r.Allow {
		if under(imp, allow) {
			return false
		}
	}
	for _, deny := range r.Deny {
		if deny == "" && own || deny != "" && under(imp, deny) {
			return true
		}
	}
	return false
}

func under(pkg, dir string) bool {
	return dir == "" || pkg == dir || strings.HasPrefix(pkg, dir+"/")
}

type pkg struct {
	name    string
	imports []string
}

// packages lists what every package of the module imports, its tests left out.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = path.Join("..", "..")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, pkg{strings.TrimPrefix(p.ImportPath, module), p.Imports})
	}
}
