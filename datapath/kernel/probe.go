package kernel

import (
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
)

// Feature is something that this kernel has, or not.
type Feature struct {
	Name string
	Have bool
	// Note says what it is good for, or what is used instead.
	Note string
}

// Probe looks at what the kernel has of what Seamark uses. It changes nothing.
// Whether a driver has native XDP is known when it is attached (Attachment).
func Probe() []Feature {
	release, err := kernelRelease()
	if err == nil {
		err = checkRelease(release)
	}
	jit, _ := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	_, btf := os.Stat("/sys/kernel/btf/vmlinux")
	return []Feature{
		{"kernel " + release, err == nil, "6.1 or newer"},
		{"rights", checkRights() == nil, "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"},
		{"xdp", features.HaveProgramType(ebpf.XDP) == nil, "native where the driver has it, else generic"},
		{"tcx", haveTCX() == nil, "else clsact filters"},
		{"ringbuf", features.HaveMapType(ebpf.RingBuf) == nil, "foreign claims"},
		{"jit", strings.TrimSpace(string(jit)) != "0", "else forwarding is slow: sysctl net.core.bpf_jit_enable=1"},
		{"btf", btf == nil, "names in bpftool"},
	}
}
