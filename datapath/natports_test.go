package datapath

import (
	"strings"
	"testing"
)

func TestNATPorts(t *testing.T) {
	for name, row := range map[string]struct {
		local, reserved string
		cure            string // "": nothing to be cured
	}{
		"as kernels come":             {"32768\t60999\n", "\n", ""},
		"to the last":                 {"1024\t65535\n", "\n", "ip_local_reserved_ports=61000-65535, or"},
		"one too many":                {"32768\t61000\n", "\n", "ip_local_reserved_ports=61000-65535, or"},
		"above them begins":           {"65000\t65535\n", "\n", "end ip_local_port_range at 60999"},
		"reserved":                    {"1024\t65535\n", "61000-65535\n", ""},
		"reserved with others":        {"1024\t65535\n", "6443,10250,30000-32767,61000-65535\n", ""},
		"reserved piece by piece":     {"1024\t65535\n", "60000-61499,61500,61501-65535\n", ""},
		"a hole in what is reserved":  {"1024\t65535\n", "61000-61499,61501-65535\n", "=61000-61499,61501-65535,61000-65535,"},
		"as far as the range goes":    {"1024\t62000\n", "61000-62000\n", ""},
		"others are reserved":         {"1024\t65535\n", "30000-32767\n", "=30000-32767,61000-65535,"},
		"reserved from the middle on": {"1024\t65535\n", "62000-65535\n", "=62000-65535,61000-65535,"},
	} {
		problems, err := NATPorts("w1", row.local, row.reserved)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if row.cure == "" && len(problems) != 0 {
			t.Errorf("%s: %v", name, problems)
		}
		if row.cure != "" && (len(problems) != 1 || !strings.Contains(problems[0].Cure, row.cure) || problems[0].Object.Name != "w1") {
			t.Errorf("%s: %v, want the cure %s", name, problems, row.cure)
		}
	}
	for _, row := range [][2]string{{"", ""}, {"1024", ""}, {"1024 65535", "61000-"}, {"1024 65535", "all"}} {
		if problems, err := NATPorts("w1", row[0], row[1]); err == nil || !strings.Contains(err.Error(), "net.ipv4.ip_local_") {
			t.Errorf("%q: %v, %v, want an error that names the sysctl", row, problems, err)
		}
	}
}
