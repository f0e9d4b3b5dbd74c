package scenario

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"

	"github.com/seamark-lb/seamark/testlab"
	"golang.org/x/sys/unix"
)

// binDir holds the programs under test: those of this tree, not what an earlier
// `make build` left, unless make has just built them, and says so in SEAMARK_BIN.
var binDir string

// interrupted ends when this process is told to end.
var interrupted context.Context

func TestMain(m *testing.M) {
	flag.Parse() // for testing.Short
	if whyNot() != "" {
		os.Exit(m.Run())
	}
	code, err := runWithPrograms(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "scenario:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// whyNot is the reason for which labs cannot be, or "".
func whyNot() string {
	switch {
	case testing.Short():
		return "whole labs are not short"
	case os.Geteuid() != 0:
		return "labs are network namespaces: making them needs root"
	}
	return ""
}

func runWithPrograms(m *testing.M) (int, error) {
	interrupted, _ = signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	remove, err := programs()
	if err != nil {
		return 0, err
	}
	defer remove()
	go downWhenInterrupted(remove)
	return m.Run(), nil
}

// programs builds them, unless they have been built; remove leaves nothing of that.
func programs() (remove func(), err error) {
	if binDir = os.Getenv("SEAMARK_BIN"); binDir != "" {
		return func() {}, nil
	}
	if binDir, err = os.MkdirTemp("", "seamark-scenario-"); err != nil {
		return nil, fmt.Errorf("make a folder for the programs: %w", err)
	}
	remove = func() { os.RemoveAll(binDir) }
	build := exec.CommandContext(interrupted, "go", "build", "-ldflags", "-s -w", "-o", binDir+"/",
		"./cmd/seamarkd", "./cmd/seamark", "./cmd/seamark-cni", "./testlab/cmd/testlab")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		remove()
		return nil, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return remove, nil
}

// downWhenInterrupted takes this process's labs down when it is told to end
// early: they do not live in it. No more are brought up by then.
func downWhenInterrupted(removePrograms func()) {
	<-interrupted.Done()
	for {
		labs, _ := filepath.Glob(filepath.Join(labsDir, labPrefix+"*"))
		if len(labs) == 0 {
			removePrograms()
			os.Exit(130)
		}
		for _, dir := range labs {
			if err := testlab.Down(filepath.Base(dir)); err != nil {
				fmt.Fprintln(os.Stderr, "scenario:", err)
			}
		}
	}
}
