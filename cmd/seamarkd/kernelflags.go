package main

import (
	"fmt"

	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// kernelFlags are how the programs run in this node's kernel: where, and how
// large their tables are.
type kernelFlags struct {
	modes []string
	ratio float64
	sizes kernel.Sizes
}

func (f *kernelFlags) register(fs *pflag.FlagSet) {
	fs.StringSliceVar(&f.modes, "datapath-mode", []string{string(kernel.ModeAuto)},
		"where packets from outside are balanced: native (XDP in the driver), generic (XDP in the stack), tc, or auto, the best of them that a device has; EXPRESSION=MODE for the devices whose names match, the first of which counts")
	fs.Float64Var(&f.ratio, "map-size-ratio", 0.0125, "share of the memory that the tables of flows may take when all are full, from a quarter of their usual sizes on (0: those sizes); a change keeps the flows there are")
	for _, size := range []struct {
		value *uint32
		flag  string
		what  string
	}{
		{&f.sizes.Flows, "flows", "established flows to this node's pods (usually 262144 of IPv4)"},
		{&f.sizes.HalfOpen, "half-open-flows", "half-open ones (65536)"},
		{&f.sizes.Pins, "pinned-flows", "flows that stay with a backend when their slot moves (262144)"},
		{&f.sizes.NAT, "translated-flows", "flows to other nodes by address translation (262144)"},
		{&f.sizes.Affinity, "affinity-clients", "clients that keep their backend (65536)"},
		{&f.sizes.Fragments, "fragments", "packets that come in fragments (8192)"},
		{&f.sizes.Endpoints, "endpoints", "pods of this node (4096)"},
	} {
		fs.Uint32Var(size.value, size.flag, 0, "entries of the table of "+size.what+"; 0: by --map-size-ratio")
	}
}

// config fills in what the flags say.
func (f *kernelFlags) config(c *kernel.Config) error {
	modes, err := kernel.ParseModes(f.modes)
	if err != nil {
		return fmt.Errorf("--datapath-mode %w", err)
	}
	if f.ratio < 0 || f.ratio >= 1 {
		return fmt.Errorf("--map-size-ratio %v: want a share of the memory, from 0 to less than 1", f.ratio)
	}
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		return fmt.Errorf("read how much memory there is: %w", err)
	}
	c.Modes, c.Sizes = modes, f.sizes
	c.MapMemory = uint64(f.ratio * float64(host.Totalram) * float64(host.Unit))
	return nil
}
