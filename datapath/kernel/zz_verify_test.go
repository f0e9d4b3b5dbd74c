package kernel

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

func TestZZVerify(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if m.MaxEntries > 1000 && m.Type != ebpf.RingBuf {
			m.MaxEntries = 1000
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelInstruction, LogSizeStart: 1 << 26}})
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		os.WriteFile("/tmp/core/verifier.log", []byte(fmt.Sprintf("%+v", ve)), 0o644)
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, p := range c.Programs {
		info, _ := p.Info()
		n, _ := info.VerifiedInstructions()
		ins, _ := info.JitedSize()
		fmt.Println(name, "verified", n, "jited", ins, len(spec.Programs[name].Instructions), "insns")
	}
}
