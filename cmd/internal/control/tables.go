package control

import (
	"fmt"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// maxErrors bounds the failed rows that a table's status names.
const maxErrors = 10

// view is how one table is shown.
type view struct {
	name   string
	status func(state.Snapshot) TableStatus
	rows   func(state.Snapshot) any
}

func views(db *state.DB) []view {
	return []view{
		plain(db.Services), plain(db.EndpointSlices), plain(db.Nodes), plain(db.Namespaces), plain(db.Agents), plain(db.Pools),
		plain(db.L2Policies), plain(db.NodeLeases), plain(db.Assigned), plain(db.Devices), plain(db.BackendHealth), plain(db.BFDStates),
		reconciled(db.Endpoints), reconciled(db.Allocations), reconciled(db.PoolStatuses), reconciled(db.PolicyStatuses), reconciled(db.ObjectStatuses), reconciled(db.AnnouncedStatuses), reconciled(db.BGPPeerStatuses),
		reconciled(db.Assignments), reconciled(db.Frontends), reconciled(db.Announcements), reconciled(db.HealthChecks), reconciled(db.Probes), reconciled(db.Routes),
		reconciled(db.Attachments), reconciled(db.BFDSessions), plain(db.BGPInstances), plain(db.BGPPeers), plain(db.BGPAdvertisements), plain(db.BFDProfiles), plain(db.Secrets), plain(db.ForeignObjects), reconciled(db.BGPSpeakers),
		reconciled(db.BGPSessions), reconciled(db.BGPRoutes), plain(db.BGPSessionStates), plain(db.BGPReceived), reconciled(db.KernelRoutes), plain(db.NodeProblems), plain(db.ClusterProblems), plain(db.SourceProblems),
	}
}

func plain[T state.Row](t state.Table[T]) view {
	return view{
		name:   t.Name(),
		status: func(s state.Snapshot) TableStatus { return TableStatus{Name: t.Name(), Rows: len(t.Rows(s))} },
		rows:   func(s state.Snapshot) any { return emptyNotNull(t.Rows(s)) },
	}
}

func reconciled[T state.Reconcilable[T]](t state.Table[T]) view {
	v := plain(t)
	v.status = func(s state.Snapshot) TableStatus {
		ts := TableStatus{Name: t.Name()}
		for row := range t.All(s) {
			ts.Rows++
			st := row.RowStatus()
			switch st.Phase {
			case state.Pending:
				ts.Pending++
			case state.Failed:
				ts.Failed++
			case state.Deleting:
				ts.Deleting++
			}
			if st.Err != "" && len(ts.Errors) < maxErrors {
				ts.Errors = append(ts.Errors, RowError{Row: row.RowKey(), Err: st.Err, Tries: st.Tries})
			}
		}
		return ts
	}
	return v
}

func emptyNotNull[T any](rows []T) []T {
	if rows == nil {
		return []T{}
	}
	return rows
}

func tableStatuses(db *state.DB, snap state.Snapshot) []TableStatus {
	var all []TableStatus
	for _, v := range views(db) {
		all = append(all, v.status(snap))
	}
	return all
}

// problems are said once each, whoever found them.
func problems(db *state.DB, snap state.Snapshot) []string {
	var lines []string
	for _, t := range []state.Table[state.Problem]{db.NodeProblems, db.ClusterProblems, db.SourceProblems} {
		for p := range t.All(snap) {
			if line := p.String(); !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func tableRows(db *state.DB, snap state.Snapshot, name string) (any, error) {
	all := views(db)
	i := slices.IndexFunc(all, func(v view) bool { return v.name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i, v := range all {
			names[i] = v.name
		}
		return nil, fmt.Errorf("table %q: %w; there are %s", name, source.ErrNotFound, strings.Join(names, ", "))
	}
	return all[i].rows(snap), nil
}

// announcements are the coordinator's decisions, in the order of the
// addresses, with the MACs that the holders' leases report.
func announcements(db *state.DB, snap state.Snapshot) []Announcement {
	all := []Announcement{}
	for a := range db.Assigned.All(snap) {
		ann := Announcement{
			Address: a.Addr, Service: a.Service.String(), Node: a.Node, Interfaces: a.Interfaces,
			Since: a.Since, Generation: a.Generation, Reason: a.Reason, Previous: a.Previous,
		}
		if lease, ok := db.NodeLeases.Get(snap, a.Node); ok {
			ann.MACs = macs(lease, a.Interfaces)
		}
		all = append(all, ann)
	}
	slices.SortFunc(all, func(a, b Announcement) int { return a.Address.Compare(b.Address) })
	return all
}

func macs(lease state.NodeLease, interfaces []string) []string {
	out := make([]string, len(interfaces))
	for i, name := range interfaces {
		for _, iface := range lease.Interfaces {
			if iface.Name == name {
				out[i] = iface.MAC
			}
		}
	}
	return out
}
