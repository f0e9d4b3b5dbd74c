package kernel

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestParseModes(t *testing.T) {
	for _, row := range []struct {
		texts []string
		want  map[string]Mode
		wrong string
	}{
		{nil, map[string]Mode{"eth0": ModeAuto}, ""},
		{[]string{"generic"}, map[string]Mode{"eth0": ModeGeneric}, ""},
		{[]string{"^eth=native", "tc", "^e.*0$=generic"}, map[string]Mode{"eth0": ModeNative, "eno0": ModeGeneric, "bond1": ModeTC}, ""},
		{[]string{"^(a=b)$=tc"}, map[string]Mode{"a=b": ModeTC, "a": ModeAuto}, ""},
		{[]string{"fast"}, nil, `"fast": want auto, native, generic or tc`},
		{[]string{"eth0=fast"}, nil, `"eth0=fast": want auto`},
		{[]string{"(=tc"}, nil, `"(" is no RE2 expression`},
		{[]string{""}, nil, `"": want auto`},
	} {
		modes, err := ParseModes(row.texts)
		if (err == nil) != (row.wrong == "") || err != nil && !strings.Contains(err.Error(), row.wrong) {
			t.Errorf("ParseModes(%q) = %v, want %q", row.texts, err, row.wrong)
		}
		for device, want := range row.want {
			if got := modes.of(device); got != want {
				t.Errorf("with %q the mode of %s is %s, want %s", row.texts, device, got, want)
			}
		}
	}
}

func TestUnfit(t *testing.T) {
	ether := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth1", EncapType: "ether"}}
	master := netlink.LinkAttrs{Name: "up0"}
	for name, row := range map[string]struct {
		dev, master netlink.Link
		want        string
	}{
		"ethernet":      {ether, nil, ""},
		"tun":           {&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{EncapType: "none"}}, nil, "no Ethernet header (none): name a device that has"},
		"bridge port":   {ether, &netlink.Bridge{LinkAttrs: master}, "it is a port of the bridge up0: name up0 in its place"},
		"bond member":   {ether, &netlink.Bond{LinkAttrs: master}, "it is a member of the bond up0: name up0 in its place"},
		"of a vrf":      {ether, &netlink.Vrf{LinkAttrs: master}, ""},
		"of another's":  {ether, &netlink.GenericLink{LinkAttrs: master, LinkType: "openvswitch"}, "part of up0, a device of type openvswitch"},
		"bridge itself": {&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", EncapType: "ether"}}, nil, ""},
	} {
		if got := unfit(row.dev, row.master); (got == "") != (row.want == "") || !strings.Contains(got, row.want) {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
}

func TestAttachmentInWords(t *testing.T) {
	for want, at := range map[string]Attachment{
		"XDP native, tcx":         {XDP: "native", TC: "tcx"},
		"XDP native on eth1, tcx": {XDP: "native", Carrier: "eth1", TC: "tcx"},
		"XDP generic, clsact (not native: no driver), members eth0, eth1": {XDP: "generic", TC: "clsact", Why: "not native: no driver", Members: "eth0, eth1"},
		"tcx alone (as configured)":                                       {TC: "tcx", Why: asConfigured},
	} {
		if got := at.String(); got != want {
			t.Errorf("%+v is %q, want %q", at, got, want)
		}
	}
}
