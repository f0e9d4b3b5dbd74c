package source

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/seamark-lb/seamark/state"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// foreignBGP gives rows to other projects' objects for BGP. They mean something
// only together, so all of them are read anew when one changes: they are few.
type foreignBGP struct {
	t *Tables
	// read are the objects as they were when they could last be read, and given the
	// rows that they gave then: what is wrong now changes nothing.
	read  map[state.ObjectRef]*unstructured.Unstructured
	given map[state.ObjectRef]bgpRows
	// admitted is what is wrong with what objects were translated into, by its JSON.
	admitted map[string]Problems
	// rows of all of them.
	rows bgpRows
}

// bgpRows are rows by their keys.
type bgpRows struct {
	instances      map[string]state.BGPInstance
	peers          map[string]state.BGPPeer
	advertisements map[string]state.BGPAdvertisement
	profiles       map[string]state.BFDProfile
	others         map[string]state.ForeignObject
}

func newBGPRows() bgpRows {
	return bgpRows{map[string]state.BGPInstance{}, map[string]state.BGPPeer{}, map[string]state.BGPAdvertisement{},
		map[string]state.BFDProfile{}, map[string]state.ForeignObject{}}
}

// add takes in rows, but no row in place of another: objects of MetalLB's share
// their BGPInstance.
func (b bgpRows) add(c bgpRows) {
	addMissing(b.instances, c.instances)
	addMissing(b.peers, c.peers)
	addMissing(b.advertisements, c.advertisements)
	addMissing(b.profiles, c.profiles)
}

func addMissing[T any](to, from map[string]T) {
	for key, row := range from {
		if _, there := to[key]; !there {
			to[key] = row
		}
	}
}

// foreignBGP says whether the kind is another project's, for BGP.
func (k Kind) foreignBGP() bool {
	return strings.HasPrefix(k.Kind, "CiliumBGP") || k.Group == GroupMetalLB && slices.Contains([]string{"BGPPeer", "BGPAdvertisement", "Community", "BFDProfile"}, k.Kind)
}

// explains says whether objects of the kind mean something only where others name them.
func (k Kind) explains() bool {
	return slices.Contains([]string{"CiliumBGPPeerConfig", "CiliumBGPNodeConfigOverride", "Community"}, k.Kind)
}

func newForeignBGP(t *Tables) *foreignBGP {
	return &foreignBGP{t: t, read: map[state.ObjectRef]*unstructured.Unstructured{}, given: map[state.ObjectRef]bgpRows{}, rows: newBGPRows()}
}

// followForeignBGP gives rows to other projects' objects for BGP.
func (t *Tables) followForeignBGP() {
	for _, kind := range ForeignKinds() {
		if !kind.foreignBGP() {
			continue
		}
		t.kinds = append(t.kinds, kind)
		t.wait(kind, t.db.BGPInstances.Name(), t.db.BGPInstances.MarkSynced)
		t.wait(kind, t.db.BGPPeers.Name(), t.db.BGPPeers.MarkSynced)
		t.wait(kind, t.db.BGPAdvertisements.Name(), t.db.BGPAdvertisements.MarkSynced)
		t.wait(kind, t.db.BFDProfiles.Name(), t.db.BFDProfiles.MarkSynced)
	}
}

func (f *foreignBGP) put(tx *state.Tx, kind Kind, name string, obj any) {
	if f.keep(kind, name, obj) {
		f.settle(tx)
	}
}

func (f *foreignBGP) remove(tx *state.Tx, kind Kind, name string) {
	if _, there := f.t.kept[kind.key()][name]; there {
		delete(f.t.kept[kind.key()], name)
		f.t.setProblems(tx, kind, name, nil)
		f.settle(tx)
	}
}

// replace makes objects all there is of the kind.
func (f *foreignBGP) replace(tx *state.Tx, kind Kind, objects map[string]any) {
	for name := range f.t.kept[kind.key()] {
		if _, there := objects[name]; !there {
			delete(f.t.kept[kind.key()], name)
			f.t.setProblems(tx, kind, name, nil)
		}
	}
	for name, obj := range objects {
		f.keep(kind, name, obj)
	}
	f.settle(tx)
}

// keep returns whether the object could be read.
func (f *foreignBGP) keep(kind Kind, name string, obj any) bool {
	read, err := asObject[unstructured.Unstructured](obj)
	if err == nil && ObjectKey(read.GetNamespace(), read.GetName()) != name {
		err = fmt.Errorf("decode: it calls itself %s", ObjectKey(read.GetNamespace(), read.GetName()))
	}
	if err != nil {
		f.t.log.Error("read object from store", "object", kind.Kind+" "+name, "err", err)
		return false
	}
	if f.t.kept[kind.key()] == nil {
		f.t.kept[kind.key()] = map[string]any{}
	}
	f.t.kept[kind.key()][name] = read
	return true
}

// settle makes rows of all objects there are, and says what is wrong with each.
func (f *foreignBGP) settle(tx *state.Tx) {
	last := *f
	f.read, f.given, f.admitted = map[state.ObjectRef]*unstructured.Unstructured{}, map[state.ObjectRef]bgpRows{}, map[string]Problems{}
	objects := map[string][]*unstructured.Unstructured{} // by group
	each := func(explaining bool, do func(Kind, string, state.ObjectRef, *unstructured.Unstructured)) {
		for _, kind := range ForeignKinds() {
			if _, left := LeftTo(kind, f.t.db.Agents.All(tx)); left || !kind.foreignBGP() || kind.explains() != explaining {
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(f.t.kept[kind.key()])) {
				do(kind, name, kind.ref(name), f.t.kept[kind.key()][name].(*unstructured.Unstructured))
			}
		}
	}
	f.leave(tx)
	rows := newBGPRows()
	each(true, func(kind Kind, name string, ref state.ObjectRef, obj *unstructured.Unstructured) {
		_, findings := foreign.Translate(obj, nil)
		wrong, unhonoured := problemsOfFindings(findings)
		f.t.setProblems(tx, kind, name, append(wrong, unhonoured...))
		if f.read[ref] = obj; len(wrong) > 0 {
			f.read[ref] = last.read[ref]
		}
		other := state.ForeignObject{Object: ref}
		rows.others[other.RowKey()] = other
		if f.read[ref] != nil {
			objects[kind.Group] = append(objects[kind.Group], f.read[ref])
		}
	})
	each(false, func(kind Kind, name string, ref state.ObjectRef, obj *unstructured.Unstructured) {
		given, problems, ok := f.translate(tx, kind, obj, objects[kind.Group], last.admitted)
		if !ok {
			given = last.given[ref]
		}
		f.given[ref] = given
		rows.add(given)
		f.t.setProblems(tx, kind, name, problems)
	})
	become(tx, f.t.db.BGPInstances, f.rows.instances, rows.instances)
	become(tx, f.t.db.BGPPeers, f.rows.peers, rows.peers)
	become(tx, f.t.db.BGPAdvertisements, f.rows.advertisements, rows.advertisements)
	become(tx, f.t.db.BFDProfiles, f.rows.profiles, rows.profiles)
	become(tx, f.t.db.ForeignObjects, f.rows.others, rows.others)
	f.rows = rows
	f.t.secrets.forget(tx)
}

// leave says of the objects that are left to their project's own programs that they are.
func (f *foreignBGP) leave(tx *state.Tx) {
	for _, kind := range ForeignKinds() {
		by, left := LeftTo(kind, f.t.db.Agents.All(tx))
		if !left || !kind.foreignBGP() {
			continue
		}
		for name := range f.t.kept[kind.key()] {
			f.t.setProblems(tx, kind, name, Problems{leftProblem(kind, by)})
		}
	}
}

// become makes of a table's rows, those of before and no others, those of now.
func become[T state.Row](tx *state.Tx, table state.Table[T], before, now map[string]T) {
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if old, there := table.Get(tx, key); !there || !reflect.DeepEqual(old, now[key]) {
			table.Put(tx, now[key])
		}
	}
	for key := range before {
		if _, wanted := now[key]; !wanted {
			table.Delete(tx, key)
		}
	}
}

// translate makes rows of an object, with what of it is not in force. It is not
// ok when the object is wrong.
func (f *foreignBGP) translate(tx *state.Tx, kind Kind, obj *unstructured.Unstructured, others []*unstructured.Unstructured,
	admitted map[string]Problems) (rows bgpRows, problems Problems, ok bool) {
	objects, findings := foreign.Translate(obj, others)
	for _, finding := range findings {
		if finding.Unresolved && strings.Contains(finding.Field, "Secret") {
			continue // whether it can be read is known here
		}
		problems = append(problems, Problem{Field: finding.Field, Message: finding.Message, Cure: finding.Cure})
	}
	if slices.ContainsFunc(findings, func(f foreign.Finding) bool { return f.Fatal }) {
		return rows, problems, false
	}
	var wrong Problems
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			return rows, Problems{{Message: err.Error(), Cure: "correct it"}}, false
		}
		found, known := admitted[string(data)]
		if !known {
			found = admitTranslated(o, kind)
		}
		f.admitted[string(data)] = found
		wrong = append(wrong, found...)
	}
	if len(wrong) > 0 {
		return rows, append(problems, wrong...), false
	}
	rows, more := f.rowsOf(tx, kind, obj, withoutUnconfigured(objects, findings))
	return rows, append(problems, more...), true
}

// withoutUnconfigured leaves out the peers whose CiliumBGPPeerConfig is not there:
// Cilium, too, has no session with them.
func withoutUnconfigured(objects []runtime.Object, findings []foreign.Finding) []runtime.Object {
	var instance, peer int
	missing := map[[2]int]bool{}
	for _, f := range findings {
		if n, _ := fmt.Sscanf(f.Field, fieldPeerConfig, &instance, &peer); n == 2 && f.Unresolved {
			missing[[2]int{instance, peer}] = true
		}
	}
	at := [2]int{-1, -1} // the peers of an instance follow it
	return slices.DeleteFunc(objects, func(o runtime.Object) bool {
		switch o.(type) {
		case *v1alpha1.BGPInstance:
			at = [2]int{at[0] + 1, -1}
		case *v1alpha1.BGPPeer:
			at[1]++
			return missing[at]
		}
		return false
	})
}

// fieldPeerConfig is where a peer of a CiliumBGPClusterConfig names its configuration.
const fieldPeerConfig = "spec.bgpInstances[%d].peers[%d].peerConfigRef.name"

// rowsOf are the rows of what an object was translated into.
func (f *foreignBGP) rowsOf(tx *state.Tx, kind Kind, obj *unstructured.Unstructured, objects []runtime.Object) (rows bgpRows, problems Problems) {
	rows = newBGPRows()
	origin := kind.ref(ObjectKey(obj.GetNamespace(), obj.GetName()))
	name := foreignRowName(kind, obj, 0)
	// named is the name of the row of one of several objects.
	named := func(o string) string {
		if kind.Group == GroupMetalLB {
			return "MetalLB/" + o // a BGPInstance, which several BGPPeers have
		}
		return name + "/" + strings.TrimPrefix(o, obj.GetName()+"-")
	}
	say := func(o runtime.Object, found Problems) {
		for _, p := range found {
			if theirs, ok := metallbPeerFields[p.Field]; ok && kind.Group == GroupMetalLB {
				p.Field = theirs
			} else {
				p.Message = fmt.Sprintf("is %s %s to Seamark, whose %s: %s", o.GetObjectKind().GroupVersionKind().Kind, o.(metav1.Object).GetName(), p.Field, p.Message)
				p.Field = ""
			}
			problems = append(problems, p)
		}
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *v1alpha1.BGPInstance:
			row := BGPInstanceRow(o)
			row.Name, row.Origin = named(o.Name), origin
			rows.instances[row.Name] = row
		case *v1alpha1.BGPPeer:
			row, found := BGPPeerRow(o)
			if row.Name, row.Origin = name, origin; kind.Group == GroupCilium {
				row.Name = named(o.Name)
			}
			for i, instance := range row.Instances {
				row.Instances[i] = named(instance)
			}
			for i := 2; rows.peers[row.Name].Name != ""; i++ { // "b" of "a-b" and "b-b" of "a"
				row.Name = fmt.Sprintf("%s/%d", named(o.Name), i)
			}
			if row.BFDProfile != "" { // of MetalLB's, in the same namespace
				row.BFDProfile = "BFDProfile/" + ObjectKey(obj.GetNamespace(), row.BFDProfile)
			}
			rows.peers[row.Name] = row
			say(o, append(found, passwordProblems(f.t.db, tx, row.PasswordSecret, fieldPasswordSecret)...))
		case *v1alpha1.BFDProfile:
			row, found := BFDProfileRow(o)
			row.Name, row.Origin = name, origin
			rows.profiles[row.Name] = row
			problems = append(problems, found...) // its fields are called the same
		case *v1alpha1.BGPAdvertisement:
			row, found := BGPAdvertisementRow(o)
			row.Name, row.Origin = name, origin
			for i, peer := range row.Peers { // of MetalLB's, in the same namespace
				row.Peers[i] = "BGPPeer/" + ObjectKey(obj.GetNamespace(), peer)
			}
			rows.advertisements[row.Name] = row
			say(o, found)
		}
	}
	return rows, problems
}

// metallbPeerFields are the fields of a MetalLB BGPPeer that ours are from.
var metallbPeerFields = map[string]string{fieldPasswordSecret: "spec.passwordSecret", "spec.bfdProfile": "spec.bfdProfile",
	"spec.timers.holdTimeSeconds": "spec.holdTime"}

// Cilium's conditions of a CiliumBGPClusterConfig.
const (
	kindCiliumClusterConfig = "CiliumBGPClusterConfig"

	conditionNoMatchingNode     = "cilium.io/NoMatchingNode"
	conditionMissingPeerConfigs = "cilium.io/MissingPeerConfigs"
)

// clusterConfigStatus adds what Cilium's users look for on a CiliumBGPClusterConfig.
func clusterConfigStatus(db *state.DB, r state.Reader, row state.ObjectStatus) state.ObjectStatus {
	row.NoNode = true
	for instance := range db.BGPInstances.All(r) {
		if instance.Origin != row.Object {
			continue
		}
		for node := range db.Nodes.All(r) {
			selector, err := metav1.LabelSelectorAsSelector(instance.NodeSelector)
			if instance.NodeSelector == nil || err == nil && selector.Matches(labels.Set(node.Labels)) {
				row.NoNode = false
			}
		}
	}
	var missing []string
	for p := range db.SourceProblems.By(r, state.IndexObject, row.Object.String()) {
		if p.Object == row.Object && strings.HasSuffix(p.Field, ".peerConfigRef.name") {
			missing = append(missing, p.Message)
		}
	}
	slices.Sort(missing)
	row.MissingConfigs = strings.Join(missing, "; ")
	return row
}

// clusterConfigConditions are those of Cilium's.
func clusterConfigConditions(row state.ObjectStatus) []metav1.Condition {
	noNode := metav1.Condition{Type: conditionNoMatchingNode, Status: metav1.ConditionFalse, Reason: "NoMatchingNode"}
	if row.NoNode {
		noNode.Status, noNode.Message = metav1.ConditionTrue, "No node matches spec.nodeSelector"
	}
	missing := metav1.Condition{Type: conditionMissingPeerConfigs, Status: metav1.ConditionFalse, Reason: "MissingPeerConfigs"}
	if row.MissingConfigs != "" {
		missing.Status, missing.Message = metav1.ConditionTrue, row.MissingConfigs
	}
	return []metav1.Condition{noNode, missing}
}
