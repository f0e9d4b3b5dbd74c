package announce

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// Inputs is all that Place looks at.
type Inputs struct {
	Services []state.Service
	Slices   []state.EndpointSlice
	Nodes    []state.Node
	Policies []state.L2Policy
	Pools    []state.Pool
	Leases   []state.NodeLease
	Verdicts map[string]Verdict
	// Isolated are the interfaces of nodes that are confirmed not to hear their
	// segment.
	Isolated map[nodeInterface]bool
	// Unrenewed are the nodes whose word on their segments may be old.
	Unrenewed map[string]bool
	// Decided is the latest decision for each address.
	Decided []state.Assignment
	// DrainCordoned: a node that is cordoned is no candidate.
	DrainCordoned bool
}

// readInputs takes the inputs of Place from the tables, and from what was seen of the leases.
func readInputs(db *state.DB, r state.Reader, seen *view) Inputs {
	in := Inputs{
		Nodes:     withAppliances(db.Nodes.Rows(r), db.NodeLeases.All(r)),
		Policies:  db.L2Policies.Rows(r),
		Pools:     db.Pools.Rows(r),
		Leases:    db.NodeLeases.Rows(r),
		Verdicts:  maps.Clone(seen.verdicts),
		Isolated:  seen.isolated,
		Unrenewed: seen.unrenewed,
		Decided:   latest(db.Assigned.Rows(r), db.Assignments.Rows(r)),
	}
	for _, l := range in.Leases { // which may have said so since the leases were last looked at
		if in.Verdicts[l.Node] == Live && (l.Released || l.Drained) {
			in.Verdicts[l.Node] = Released
		}
	}
	in.Services, _ = state.Rightful(db, r) // every node's datapath says which are not
	withdraws := slices.ContainsFunc(in.Policies, func(p state.L2Policy) bool { return p.Withdraw })
	for _, s := range in.Services {
		if s.ExternalTrafficPolicyLocal || withdraws {
			in.Slices = slices.AppendSeq(in.Slices, db.EndpointSlices.By(r, state.IndexService, s.Name.String()))
		}
	}
	return in
}

// withAppliances adds the machines that announce and are no Nodes: they have no
// labels that a policy could select or exclude them by.
func withAppliances(nodes []state.Node, leases iter.Seq[state.NodeLease]) []state.Node {
	registered := nodesByName(nodes)
	for l := range leases {
		if _, known := registered[l.Node]; l.Appliance && !known {
			nodes = append(nodes, state.Node{Name: l.Node})
		}
	}
	return nodes
}

// placeable says whether the sources have told all that Place looks at. By a
// part of it, addresses would be withdrawn.
func placeable(db *state.DB, r state.Reader) bool {
	return db.Services.Synced(r) && db.EndpointSlices.Synced(r) && db.Nodes.Synced(r) &&
		db.L2Policies.Synced(r) && db.Pools.Synced(r) && db.Agents.Synced(r) && db.NodeLeases.Synced(r) && db.Assigned.Synced(r)
}

// latest merges what the store holds with what was decided and may not be in
// the store yet: the higher generation, and at the same one the store's, which
// another coordinator may have written.
func latest(stored, decided []state.Assignment) []state.Assignment {
	byAddr := make(map[netip.Addr]state.Assignment, len(stored))
	for _, a := range stored {
		byAddr[a.Addr] = a
	}
	for _, a := range decided {
		if b, ok := byAddr[a.Addr]; a.Status.Wanted() && (!ok || a.Generation > b.Generation) {
			byAddr[a.Addr] = a
		}
	}
	rows := make([]state.Assignment, 0, len(byAddr))
	for _, a := range byAddr {
		rows = append(rows, a)
	}
	sortByAddr(rows)
	return rows
}

func sortByAddr(rows []state.Assignment) {
	slices.SortFunc(rows, func(a, b state.Assignment) int { return a.Addr.Compare(b.Addr) })
}

// Place decides which node announces each address that a policy announces: the
// one that does, for as long as it may, and, if the policies fail back, no other
// is preferred to it; else, of those that may, the one that is preferred, or has
// the fewest addresses of the Service, or the fewest of all, the first by name
// when several have. What is decided,
// and no policy announces any more, stays as it is while there is a policy that
// cannot be read: it may be the one. now is for people. Sorted by address.
func Place(in Inputs, now time.Time) []state.Assignment {
	site := survey(in)
	decided := make(map[netip.Addr]state.Assignment, len(in.Decided))
	for _, a := range in.Decided {
		decided[a.Addr] = a
	}
	wanted := site.wanted()
	rows := make([]state.Assignment, len(wanted))
	load := newLoad()
	var homeless []int
	for i, w := range wanted {
		was := decided[w.addr]
		rows[i] = was
		rows[i].Addr, rows[i].Service, rows[i].Status = w.addr, w.service(), state.Status{}
		candidates := site.candidates(w)
		stand, ok := candidates[was.Node]
		if ok && !(w.failback && stand.Preference < highestPreference(candidates, site.verdicts)) {
			rows[i].Interfaces = stand.Interfaces
			load.add(was.Node, w.service())
		} else {
			homeless = append(homeless, i)
		}
	}
	for _, i := range homeless {
		w, candidates := wanted[i], site.candidates(wanted[i])
		last := ""
		if stand, ok := candidates[rows[i].Previous]; ok && rows[i].Node == "" && site.verdicts[stand.Node] == Live &&
			!(w.failback && stand.Preference < highestPreference(candidates, site.verdicts)) {
			last = stand.Node
		}
		bar := site.stand(w, cmp.Or(rows[i].Node, rows[i].Previous)).Bar
		move(&rows[i], cmp.Or(last, choose(candidates, site.verdicts, load, w.service())), bar, candidates, site.verdicts, now)
		load.add(rows[i].Node, w.service())
	}
	if slices.ContainsFunc(in.Policies, state.L2Policy.Unread) {
		rows = append(rows, left(in, wanted)...)
		sortByAddr(rows)
	}
	return rows
}

// left are the decisions about addresses that are not wanted, and that Services
// still have.
func left(in Inputs, wanted []wantedAddr) []state.Assignment {
	skip := map[netip.Addr]bool{}
	for _, w := range wanted {
		skip[w.addr] = true
	}
	had := map[netip.Addr]bool{}
	for _, svc := range in.Services {
		for _, addr := range slices.Concat(svc.Ingress, svc.ExternalIPs) {
			had[addr] = had[addr] || forL2(svc)
		}
	}
	var rows []state.Assignment
	for _, row := range in.Decided {
		if had[row.Addr] && !skip[row.Addr] {
			row.Status = state.Status{}
			rows = append(rows, row)
		}
	}
	return rows
}

// load counts the addresses of nodes.
type load struct {
	all       map[string]int
	ofService map[nodeService]int
}

type nodeService struct {
	node    string
	service state.ObjectName
}

func newLoad() load { return load{map[string]int{}, map[nodeService]int{}} }

func (l load) add(node string, service state.ObjectName) {
	l.all[node]++
	l.ofService[nodeService{node, service}]++
}

// highestPreference of the candidates that may take an address.
func highestPreference(candidates map[string]Standing, verdicts map[string]Verdict) int {
	highest := 0
	for node, stand := range candidates {
		if verdicts[node] == Live {
			highest = max(highest, stand.Preference)
		}
	}
	return highest
}

// choose returns the candidate that is to take an address of the Service, ""
// when there is none. (An address that nobody held goes back to its last holder
// instead, whose hardware address the neighbours have.)
func choose(candidates map[string]Standing, verdicts map[string]Verdict, l load, service state.ObjectName) string {
	var best string
	for node, stand := range candidates {
		if verdicts[node] != Live {
			continue
		}
		if best == "" || cmp.Or(cmp.Compare(candidates[best].Preference, stand.Preference),
			cmp.Compare(l.ofService[nodeService{node, service}], l.ofService[nodeService{best, service}]),
			cmp.Compare(l.all[node], l.all[best]), cmp.Compare(node, best)) < 0 {
			best = node
		}
	}
	return best
}

// move hands row to node, "" for nobody. bar is what keeps the last holder from it.
func move(row *state.Assignment, node string, bar Bar, candidates map[string]Standing, verdicts map[string]Verdict, now time.Time) {
	was := row.Node
	if node == was && !row.Since.IsZero() {
		return // still nobody
	}
	if was != "" {
		row.Previous = was
	}
	switch {
	case node == "":
		row.Reason = state.ReasonNoCandidate
	case row.Previous == "" || row.Previous == node:
		row.Reason = state.ReasonFirstAssignment
	case verdicts[row.Previous] == Released:
		row.Reason = state.ReasonReleased
	case verdicts[row.Previous] == Expired || verdicts[row.Previous] == NoLease:
		row.Reason = state.ReasonLeaseExpired
	case bar == BarCutOff:
		row.Reason = state.ReasonCutOff
	case bar == "":
		row.Reason = state.ReasonPreferred
	default:
		row.Reason = state.ReasonNotCandidate
	}
	if node != was {
		row.Generation++
	}
	row.Node, row.Since, row.Interfaces = node, now, candidates[node].Interfaces
}
