package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SliceSize is how many addresses an AnnouncementSlice holds at most.
const SliceSize = 1000

// AssignmentRows are the rows of an AnnouncementSlice. What does not parse is
// left out and named in the problems.
func AssignmentRows(s *v1alpha1.AnnouncementSlice) ([]state.Assignment, Problems) {
	var problems Problems
	rows := make([]state.Assignment, 0, len(s.Announcements))
	for i, a := range s.Announcements {
		path := fmt.Sprintf("announcements[%d]", i)
		addr, ok := checkAddr(&problems, path+".address", a.Address)
		namespace, name, slash := strings.Cut(a.Service, "/")
		if !slash {
			problems.add(path+".service", "write namespace/name", "%q is no Service's name", a.Service)
		}
		if !ok || !slash {
			continue
		}
		rows = append(rows, state.Assignment{
			Addr:       addr,
			Service:    state.ObjectName{Namespace: namespace, Name: name},
			Node:       a.Node,
			Interfaces: a.Interfaces,
			Since:      a.Since.Time,
			Generation: a.Generation,
			Reason:     state.Reason(a.Reason),
			Previous:   a.Previous,
		})
	}
	return rows, problems
}

// announcement is the slice's entry of a row.
func announcement(a state.Assignment) v1alpha1.Announcement {
	return v1alpha1.Announcement{
		Address:    a.Addr.String(),
		Service:    a.Service.String(),
		Node:       a.Node,
		Interfaces: a.Interfaces,
		Since:      metav1.NewMicroTime(a.Since),
		Generation: a.Generation,
		Reason:     string(a.Reason),
		Previous:   a.Previous,
	}
}

// Packing is how rows are to be written into AnnouncementSlices.
type Packing struct {
	// Changed slices to write, by name; one without announcements is to be deleted.
	Changed []v1alpha1.AnnouncementSlice
	// SliceOf is the changed slice that an address's change is in. An address
	// that is not here needs no write.
	SliceOf map[netip.Addr]string
	// Refused addresses: the slices hold a later decision than the row, made
	// by another coordinator.
	Refused map[netip.Addr]state.Assignment
}

// Pack works out what to write so that the slices hold updates, and do not
// hold deletes. An address stays in the slice it is in, so that few changes
// are few writes; new ones go where there is room, then into new slices. The
// slices handed in are not changed.
func Pack(slicesNow []v1alpha1.AnnouncementSlice, updates, deletes []state.Assignment) Packing {
	p := packer{
		packing: Packing{SliceOf: map[netip.Addr]string{}, Refused: map[netip.Addr]state.Assignment{}},
		where:   map[netip.Addr]string{},
		content: map[string]map[netip.Addr]state.Assignment{},
		base:    map[string]v1alpha1.AnnouncementSlice{},
		changed: map[string]bool{},
	}
	p.load(slicesNow)
	for _, row := range deletes {
		p.remove(row)
	}
	var fresh []state.Assignment
	for _, row := range updates {
		if !p.replace(row) {
			fresh = append(fresh, row)
		}
	}
	p.insert(fresh)
	return p.result()
}

type packer struct {
	packing Packing
	names   []string // of the slices, sorted
	where   map[netip.Addr]string
	content map[string]map[netip.Addr]state.Assignment
	base    map[string]v1alpha1.AnnouncementSlice
	changed map[string]bool
}

func (p *packer) load(slicesNow []v1alpha1.AnnouncementSlice) {
	for _, s := range slicesNow {
		p.names = append(p.names, s.Name)
		p.base[s.Name] = s
		p.content[s.Name] = map[netip.Addr]state.Assignment{}
	}
	slices.Sort(p.names)
	for _, name := range p.names {
		s := p.base[name]
		rows, problems := AssignmentRows(&s)
		if len(problems) > 0 {
			p.changed[name] = true // what does not parse goes at the next write
		}
		for _, row := range rows {
			if other, twice := p.where[row.Addr]; twice {
				// Never written so by us; the later decision stays.
				p.changed[name] = true
				if p.content[other][row.Addr].Generation < row.Generation {
					delete(p.content[other], row.Addr)
					p.changed[other] = true
					p.put(name, row)
				}
				continue
			}
			p.put(name, row)
		}
	}
}

func (p *packer) put(name string, row state.Assignment) {
	row.Status = state.Status{}
	p.content[name][row.Addr] = row
	p.where[row.Addr] = name
}

func (p *packer) change(name string, addr netip.Addr) {
	p.changed[name] = true
	p.packing.SliceOf[addr] = name
}

// later says whether held was decided later than, or beside, row.
func later(held, row state.Assignment) bool {
	return held.Generation > row.Generation ||
		held.Generation == row.Generation && held.Node != row.Node && held.Node != "" && row.Node != ""
}

func (p *packer) remove(row state.Assignment) {
	name, ok := p.where[row.Addr]
	if !ok {
		return
	}
	if held := p.content[name][row.Addr]; later(held, row) {
		p.packing.Refused[row.Addr] = held
		return
	}
	delete(p.content[name], row.Addr)
	delete(p.where, row.Addr)
	p.change(name, row.Addr)
}

// replace returns false when the address is in no slice yet.
func (p *packer) replace(row state.Assignment) bool {
	name, ok := p.where[row.Addr]
	if !ok {
		return false
	}
	held := p.content[name][row.Addr]
	switch {
	case later(held, row):
		p.packing.Refused[row.Addr] = held
	case !sameAnnouncement(held, row):
		p.put(name, row)
		p.change(name, row.Addr)
	}
	return true
}

// sameAnnouncement compares what the slices hold, where times are in microseconds.
func sameAnnouncement(held, row state.Assignment) bool {
	held.Since, row.Since = held.Since.Truncate(time.Microsecond), row.Since.Truncate(time.Microsecond)
	return held.SameSpec(row)
}

func (p *packer) insert(rows []state.Assignment) {
	at := 0
	for _, row := range rows {
		for at < len(p.names) && len(p.content[p.names[at]]) >= SliceSize {
			at++
		}
		if at == len(p.names) {
			p.addSlice()
		}
		name := p.names[at]
		p.put(name, row)
		p.change(name, row.Addr)
	}
}

// addSlice appends an empty slice under the lowest name that is free.
func (p *packer) addSlice() {
	for i := 0; ; i++ {
		name := fmt.Sprintf("announcements-%d", i)
		if _, taken := p.base[name]; !taken {
			p.names = append(p.names, name)
			p.base[name] = v1alpha1.AnnouncementSlice{ObjectMeta: metav1.ObjectMeta{Name: name}}
			p.content[name] = map[netip.Addr]state.Assignment{}
			return
		}
	}
}

func (p *packer) result() Packing {
	for _, name := range slices.Sorted(slices.Values(p.names)) {
		if !p.changed[name] {
			continue
		}
		base := p.base[name]
		s := *base.DeepCopy()
		s.APIVersion, s.Kind = v1alpha1.GroupVersion.String(), "AnnouncementSlice"
		s.Announcements = nil
		addrs := make([]netip.Addr, 0, len(p.content[name]))
		for a := range p.content[name] {
			addrs = append(addrs, a)
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		for _, a := range addrs {
			s.Announcements = append(s.Announcements, announcement(p.content[name][a]))
		}
		p.packing.Changed = append(p.packing.Changed, s)
	}
	return p.packing
}
