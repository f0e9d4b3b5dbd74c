package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"seamark-cni": main})
}

// The scripts run the plugin as a runtime does, with its environment and
// stdin, against no daemon or one that answers as it is told.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("CNI_CONTAINERID", "c1")
			env.Setenv("CNI_NETNS", env.WorkDir+"/netns")
			env.Setenv("CNI_IFNAME", "eth0")
			env.Setenv("CNI_PATH", "/opt/cni/bin")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"daemon": startDaemon},
	})
}

// startDaemon is "daemon SOCKET STATUS ANSWER": every request is answered with
// the HTTP status and the content of the file ANSWER, and noted, its path in
// the first line and its body after, in the file "request".
func startDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: daemon SOCKET STATUS ANSWER")
	}
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	answer := ts.ReadFile(args[2])
	noted := ts.MkAbs("request")
	l, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = os.WriteFile(noted, []byte(r.Method+" "+r.URL.Path+"\n"+string(body)+"\n"), 0o600)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer) // a plugin that hung up fails its script
	})}
	go func() { _ = srv.Serve(l) }() // until Close
	ts.Defer(func() { srv.Close() })
}
