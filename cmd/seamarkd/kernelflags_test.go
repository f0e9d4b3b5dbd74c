package main

import (
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/datapath/kernel"
	"github.com/spf13/pflag"
)

func TestKernelFlags(t *testing.T) {
	for _, row := range []struct {
		args  string
		wrong string
		want  func(kernel.Config) bool
	}{
		{"", "", func(c kernel.Config) bool {
			return c.Modes.Default == kernel.ModeAuto && c.MapMemory > 0 && c.Sizes == kernel.Sizes{}
		}},
		{"--datapath-mode=generic,^eth1$=tc", "", func(c kernel.Config) bool { return c.Modes.Default == kernel.ModeGeneric && len(c.Modes.Of) == 1 }},
		{"--map-size-ratio=0 --flows=5 --translated-flows=6", "", func(c kernel.Config) bool {
			return c.MapMemory == 0 && c.Sizes == kernel.Sizes{Flows: 5, NAT: 6}
		}},
		{"--datapath-mode=fast", `--datapath-mode "fast": want auto`, nil},
		{"--map-size-ratio=25", "--map-size-ratio 25: want a share", nil},
		{"--map-size-ratio=-1", "--map-size-ratio -1: want a share", nil},
	} {
		var f kernelFlags
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		f.register(fs)
		if err := fs.Parse(strings.Fields(row.args)); err != nil {
			t.Fatal(err)
		}
		var c kernel.Config
		err := f.config(&c)
		if row.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), row.wrong) {
				t.Errorf("%s: %v, want %s", row.args, err, row.wrong)
			}
			continue
		}
		if err != nil || !row.want(c) {
			t.Errorf("%s: %+v, %v", row.args, c, err)
		}
	}
}
