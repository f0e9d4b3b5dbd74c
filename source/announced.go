package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AnnouncedStatuses are what is to be said on Services of who announces their
// addresses, as the AnnouncementSlices have it. A Service of which there is
// nothing to say, and on which something was said once, has a row for that to go.
func AnnouncedStatuses(db *state.DB, r state.Reader) []state.AnnouncedStatus {
	var rows []state.AnnouncedStatus
	for svc := range db.Services.All(r) {
		row := state.AnnouncedStatus{Service: svc.Name, UID: svc.UID}
		var by, nobody []string
		for _, addr := range slices.Compact(slices.SortedFunc(slices.Values(slices.Concat(svc.Ingress, svc.ExternalIPs)), netip.Addr.Compare)) {
			switch a, ok := db.Assigned.Get(r, addr.String()); {
			case !ok:
			case a.Node == "":
				nobody = append(nobody, addr.String())
			default:
				by = append(by, fmt.Sprintf("%s by node %s on %s", addr, a.Node, strings.Join(a.Interfaces, ", ")))
			}
		}
		switch {
		case len(nobody) > 0:
			row.Reason = state.ReasonNoCandidate
			row.Message = fmt.Sprintf("no node may announce %s: seamark explain announcement %s says why", someOf(nobody), nobody[0])
		case len(by) > 0:
			row.Reason, row.Message = state.ReasonAnnounced, someOf(by)
		case meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionAnnounced) == nil:
			continue
		}
		rows = append(rows, row)
	}
	return rows
}

// someOf joins the first of the items and counts the others: a message is for people.
func someOf(items []string) string {
	const most = 8
	if more := len(items) - most; more > 0 {
		items = append(slices.Clip(items[:most]), fmt.Sprintf("and %d more", more))
	}
	return strings.Join(items, "; ")
}

// AnnouncedStatusChange is what the Service's status is to say; false when it does already.
func AnnouncedStatusChange(db *state.DB, r state.Reader, row state.AnnouncedStatus) (StatusChange, bool) {
	svc, ok := db.Services.Get(r, row.Service.String())
	if !ok || svc.UID != row.UID {
		return StatusChange{}, false // the row goes as soon as it is decided anew
	}
	change := StatusChange{Kind: KindService(), Namespace: row.Service.Namespace, Name: row.Service.Name}
	said := meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionAnnounced)
	if row.Reason == "" {
		change.Remove = []string{v1alpha1.ConditionAnnounced}
		return change, said != nil
	}
	c := metav1.Condition{Type: v1alpha1.ConditionAnnounced, Status: metav1.ConditionFalse, Reason: string(row.Reason), Message: row.Message}
	if row.Reason == state.ReasonAnnounced {
		c.Status = metav1.ConditionTrue
	}
	change.Conditions = []metav1.Condition{c}
	return change, said == nil || said.Status != c.Status || said.Reason != c.Reason || said.Message != c.Message
}
