package kernel

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/vishvananda/netlink"
)

// Mode is where packets of an outside device are balanced.
type Mode string

// The modes, the best first.
const (
	ModeAuto    Mode = "auto"    // the best that the device has
	ModeNative  Mode = "native"  // XDP in the driver
	ModeGeneric Mode = "generic" // XDP in the stack, for every packet there is already a copy of
	ModeTC      Mode = "tc"      // in tc alone
)

// Modes says which Mode a device gets: that of the first expression that
// matches its name, and else Default, which is ModeAuto when it is "".
type Modes struct {
	Default Mode
	Of      []DeviceMode
}

// DeviceMode is the Mode of the devices whose names match.
type DeviceMode struct {
	Devices *regexp.Regexp
	Mode    Mode
}

// ParseModes reads "mode", for all devices, and "expression=mode".
func ParseModes(texts []string) (Modes, error) {
	var modes Modes
	for _, text := range texts {
		expr, name, some := cutLast(text, "=")
		if !some {
			name = text
		}
		mode := Mode(name)
		switch mode {
		case ModeAuto, ModeNative, ModeGeneric, ModeTC:
		default:
			return Modes{}, fmt.Errorf("%q: want auto, native, generic or tc, or EXPRESSION=MODE such as ^eth1$=generic", text)
		}
		if !some {
			modes.Default = mode
			continue
		}
		re, err := regexp.Compile(expr)
		if err != nil {
			return Modes{}, fmt.Errorf("%q: %q is no RE2 expression (%w)", text, expr, err)
		}
		modes.Of = append(modes.Of, DeviceMode{re, mode})
	}
	return modes, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (m Modes) of(device string) Mode {
	for _, o := range m.Of {
		if o.Devices.MatchString(device) {
			return o.Mode
		}
	}
	if m.Default == "" {
		return ModeAuto
	}
	return m.Default
}

// way is one way for XDP to be on a device, or why it is not tried.
type way struct {
	mode Mode
	bar  string
}

// ways are those to try on a device, the best first. One that is asked for by
// name is the only one.
func (m Mode) ways(dev netlink.Link) []way {
	bar := ""
	if dev.Type() == "bond" {
		// A program on a bond runs on its members, and would take each frame for
		// one of a device that nothing is announced on.
		bar = "a bond's frames come in by its members"
	}
	switch m {
	case ModeAuto:
		return []way{{ModeNative, bar}, {ModeGeneric, ""}}
	case ModeTC:
		return nil
	case ModeNative:
		return []way{{ModeNative, bar}}
	}
	return []way{{m, ""}}
}

// unfit returns why the programs cannot be on a device at all, and the cure;
// "" when they can. master is the device that it is part of, or nil.
func unfit(dev, master netlink.Link) string {
	a := dev.Attrs()
	if a.EncapType != "ether" {
		return fmt.Sprintf("its packets have no Ethernet header (%s): name a device that has, such as the one that they leave by", a.EncapType)
	}
	if master == nil {
		return ""
	}
	switch kind, name := master.Type(), master.Attrs().Name; kind {
	case "vrf":
		return ""
	case "bridge":
		return fmt.Sprintf("it is a port of the bridge %s: name %s in its place", name, name)
	case "bond", "team":
		return fmt.Sprintf("it is a member of the %s %s: name %s in its place", kind, name, name)
	default:
		return fmt.Sprintf("it is part of %s, a device of type %s, which takes its frames: take it out of there", name, kind)
	}
}
