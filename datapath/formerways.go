package datapath

import "fmt"

// flagsAfter returns flags with what the kernel's entry, if there is one, adds:
// that somebody watches it, and that flows may be older than its way of forwarding.
func flagsAfter(old FrontendEntry, flags FrontendFlags) FrontendFlags {
	if old != (FrontendEntry{}) && (old.Flags^flags)&FrontendSNAT != 0 {
		flags |= FrontendSwitched
	}
	return flags | old.Flags&(FrontendTraced|FrontendSwitched)
}

// noteSwitch begins the time in which flows of the way of forwarding that a frontend
// has until entry is written may still be there.
func (t *FrontendTarget) noteSwitch(key FrontendKey, entry FrontendEntry) error {
	old := t.frontends.have[key]
	if t.Ticks == nil || entry.Flags&FrontendSwitched == 0 || (old.Flags^entry.Flags)&FrontendSNAT == 0 {
		return nil
	}
	if err := t.maps.FormerWays.Update(entry.Service, t.Ticks()); err != nil {
		return fmt.Errorf("write map former_ways: %w", err)
	}
	return nil
}

// forgetFormerWays lets the frontends that once had another way of forwarding be as
// quick as others again, when no flow can be left that began with it: for as long as
// the tables remember one without a packet, there was none of such a flow.
func (t *FrontendTarget) forgetFormerWays() error {
	if t.Ticks == nil {
		return nil
	}
	now := t.Ticks()
	for key, entry := range t.frontends.have {
		if entry.Flags&FrontendSwitched == 0 {
			continue
		}
		seen, ok, err := t.maps.FormerWays.Lookup(entry.Service)
		if err != nil {
			return fmt.Errorf("read map former_ways: %w", err)
		}
		if !ok { // the daemon that switched it knew no such map
			if err := t.maps.FormerWays.Update(entry.Service, now); err != nil {
				return fmt.Errorf("write map former_ways: %w", err)
			}
			continue
		}
		if int32(now-seen) <= int32(ticks(t.FlowTimeout)) { // a packet may be younger than now
			continue
		}
		entry.Flags &^= FrontendSwitched
		if err := t.putFrontend(key, entry); err != nil {
			return err
		}
	}
	return nil
}
