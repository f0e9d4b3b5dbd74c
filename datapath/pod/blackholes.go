package pod

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A blackhole is to drop what others send here for an address of an aggregate that
// nobody has: the default route would take it back to the router, which has it
// from here. But processes of this node go by the router to addresses of Services,
// and are not to meet it. So blackholes are not in the main table. For each length
// of them, longest first, two rules stand before the main table's own:
//
//	10000+…  from all lookup main suppress_prefixlength LENGTH-1
//	10001+…  from all lookup TABLE
//
// What has a route of that length or longer goes there, as it would; of the rest,
// what is in a blackhole is dropped; all else goes on to the default route. Before
// all of these, what this node itself sends is sent past them.
const (
	priorityPast  = 32400 // of the rule for this node's own packets
	priorityFirst = 32401 // of the two for length 128
	priorityMain  = 32766 // of the kernel's rule for the main table
	tableFirst    = 0x5ea00
)

// blackholeTable has the blackholes of a length.
func blackholeTable(length int) int { return tableFirst + length }

// rulesFor are those of one length.
type rulesFor struct {
	v6     bool
	length int
}

func (r rulesFor) family() int {
	if r.v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// rule is one of ours.
func (r rulesFor) rule(priority int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Protocol = r.family(), priority, uint8(ProtocolBGP)
	return rule
}

// all are the rules in the order in which they are added: past the others first,
// and before a blackhole what leads around it.
func (r rulesFor) all() []*netlink.Rule {
	past := r.rule(priorityPast)
	past.IifName, past.Goto = "lo", priorityMain
	at := priorityFirst + 2*(128-r.length)
	longer := r.rule(at)
	longer.Table, longer.SuppressPrefixlen = unix.RT_TABLE_MAIN, r.length-1
	dropped := r.rule(at + 1)
	dropped.Table = blackholeTable(r.length)
	return []*netlink.Rule{past, longer, dropped}
}

// haveRules adds those that are missing.
func (k *kernelHeld) haveRules(r rulesFor) error {
	for _, rule := range r.all() {
		if k.rule(rule) {
			continue
		}
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add rule %d: %w", rule.Priority, err)
		}
		k.rules = append(k.rules, *rule)
	}
	return nil
}

func (k *kernelHeld) rule(rule *netlink.Rule) bool {
	for _, there := range k.rules {
		if there.Family == rule.Family && there.Priority == rule.Priority {
			return true
		}
	}
	return false
}

// pruneRules removes ours that no blackhole needs.
func (k *kernelHeld) pruneRules(needed map[rulesFor]bool) error {
	keep := kernelHeld{}
	for r := range needed {
		for _, rule := range r.all() {
			keep.rules = append(keep.rules, *rule)
		}
	}
	var errs []error
	for _, rule := range k.rules {
		if keep.rule(&rule) {
			continue
		}
		del := netlink.NewRule()
		del.Family, del.Priority, del.Protocol = rule.Family, rule.Priority, rule.Protocol
		if err := netlink.RuleDel(del); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove rule %d: %w", rule.Priority, err))
		}
	}
	return errors.Join(errs...)
}
