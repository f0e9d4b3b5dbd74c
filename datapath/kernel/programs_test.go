package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
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

// The stacks of functions that call one another fit 512 bytes together, as Linux 6.1 counts
// them: each is a multiple of 32. Newer kernels count in sixteens, and would take more.
func TestStacksFitTheFloor(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range spec.Programs {
		functions := map[string]*function{}
		var in *function
		moved := asm.Register(255) // that r10 was put into by the instruction before
		for _, ins := range program.Instructions {
			if symbol := ins.Symbol(); symbol != "" {
				in = &function{}
				functions[symbol] = in
			}
			if ins.IsFunctionCall() || ins.IsFunctionReference() {
				in.calls = append(in.calls, ins.Reference())
			}
			class := ins.OpCode.Class()
			if class.IsLoad() && ins.Src == asm.R10 || class.IsStore() && ins.Dst == asm.R10 {
				in.stack = max(in.stack, -int(ins.Offset))
			}
			if ins.OpCode.ALUOp() == asm.Add && ins.Dst == moved {
				in.stack = max(in.stack, -int(ins.Constant))
			}
			moved = 255
			if ins.OpCode.ALUOp() == asm.Mov && ins.OpCode.Source() == asm.RegSource && ins.Src == asm.R10 {
				moved = ins.Dst
			}
		}
		if depth, chain := deepest(functions, program.Name); depth > 512 || depth < 128 {
			t.Errorf("%s: %d bytes by %s", name, depth, strings.Join(chain, ", "))
		}
	}
}

// function is what a function has on the stack, and calls or has called.
type function struct {
	stack int
	calls []string
}

// deepest is the chain of calls from a function that takes the most, in bytes.
func deepest(functions map[string]*function, name string) (depth int, chain []string) {
	f := functions[name]
	for _, called := range f.calls {
		if below, by := deepest(functions, called); below > depth {
			depth, chain = below, by
		}
	}
	return depth + (max(f.stack, 1)+31)/32*32, append([]string{fmt.Sprintf("%s (%d)", name, f.stack)}, chain...)
}
