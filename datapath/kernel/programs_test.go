package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// Every program loads by itself, configured as a daemon does. Where one does not,
// the end of the verifier's walk says why.
func TestEveryProgramLoads(t *testing.T) {
	newHost(t)
	cfg := Config{MSSClamp: 1440}
	spec, err := (&Kernel{cfg: cfg}).spec()
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Programs {
		t.Run(name, func(t *testing.T) {
			alone := spec.Copy()
			alone.Programs = map[string]*ebpf.ProgramSpec{name: alone.Programs[name]}
			loaded, err := ebpf.NewCollection(alone)
			if verifier, ok := errors.AsType[*ebpf.VerifierError](err); ok {
				log := verifier.Log[max(0, len(verifier.Log)-60):]
				t.Fatalf("%v, after\n%s", verifier.Cause, strings.Join(slices.Clip(log), "\n"))
			}
			if err != nil {
				t.Fatal(err)
			}
			defer loaded.Close()
			info, err := loaded.Programs[name].Info()
			if err != nil {
				t.Fatal(err)
			}
			walked, _ := info.VerifiedInstructions()
			t.Logf("the verifier walked %d instructions", walked)
			if walked > 500_000 {
				t.Error("which is close to the million that it gives up at")
			}
		})
	}
}
