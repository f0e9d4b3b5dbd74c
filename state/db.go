package state

import (
	"fmt"
	"sync"

	"github.com/hashicorp/go-memdb"
)

// DB holds the tables. Anyone may read it; only its Writer changes it.
type DB struct {
	mem *memdb.MemDB

	// What exists, written by the source.
	Services       Table[Service]
	EndpointSlices Table[EndpointSlice]
	Nodes          Table[Node]
	Namespaces     Table[Namespace]
	Agents         Table[Agent]
	Pools          Table[Pool]
	L2Policies     Table[L2Policy]
	NodeLeases     Table[NodeLease]
	// Assigned is what the AnnouncementSlices hold.
	Assigned          Table[Assignment]
	BGPInstances      Table[BGPInstance]
	BGPPeers          Table[BGPPeer]
	BGPAdvertisements Table[BGPAdvertisement]
	BFDProfiles       Table[BFDProfile]
	// Secrets are those that are known; a BGPPeer may name one that is not yet.
	Secrets        Table[Secret]
	ForeignObjects Table[ForeignObject]
	// SourceProblems are what of the objects cannot be honoured as it is written.
	SourceProblems Table[Problem]

	// What this node is, written by the datapath.
	Devices   Table[Device]
	Endpoints Table[Endpoint]

	// BackendHealth is what the Probes found, written by their target.
	BackendHealth Table[BackendHealth]
	// BFDStates are how the BFDSessions stand, written by theirs.
	BFDStates Table[BFDState]

	// BGPSessionStates are how the BGPSessions stand, written by their target, and
	// BGPReceived what of the peers' routes is to be imported.
	BGPSessionStates Table[BGPSessionState]
	BGPReceived      Table[BGPReceived]

	// What was decided, with what came of it in each row's Status. The first
	// seven are empty on every node but the coordinator.
	Allocations    Table[Allocation]
	PoolStatuses   Table[PoolStatus]
	PolicyStatuses Table[PolicyStatus]
	ObjectStatuses Table[ObjectStatus]
	// AnnouncedStatuses follow Assigned, and are written in their own time.
	AnnouncedStatuses Table[AnnouncedStatus]
	BGPPeerStatuses   Table[BGPPeerStatus]
	Assignments       Table[Assignment]
	Frontends         Table[Frontend]
	Announcements     Table[Announcement]
	HealthChecks      Table[HealthCheck]
	Probes            Table[Probe]
	Routes            Table[Route]
	Attachments       Table[Attachment]
	BFDSessions       Table[BFDSession]
	BGPSpeakers       Table[BGPSpeaker]
	BGPSessions       Table[BGPSession]
	BGPRoutes         Table[BGPRoute]
	KernelRoutes      Table[KernelRoute]
	// NodeProblems are what this node's deciders found, ClusterProblems what
	// the coordinator's did.
	NodeProblems, ClusterProblems Table[Problem]

	marks Table[mark]
}

// The indexes.
const (
	IndexService = "service" // EndpointSlices and Frontends by namespace/name of their Service
	IndexAddr    = "addr"    // Frontends and Announcements by address, BFDStates by that of the remote system
	IndexObject  = "object"  // SourceProblems by their object
)

// New returns an empty DB and its Writer.
func New() (*DB, *Writer) {
	schema := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	db := &DB{
		Services: newTable[Service](schema, "services"),
		EndpointSlices: newTable(schema, "endpointslices", Index[EndpointSlice]{IndexService,
			func(s EndpointSlice) []string { return []string{s.Service.String()} }}),
		Nodes:      newTable[Node](schema, "nodes"),
		Namespaces: newTable[Namespace](schema, "namespaces"),
		Agents:     newTable[Agent](schema, "agents"),
		Pools:      newTable[Pool](schema, "pools"),
		L2Policies: newTable[L2Policy](schema, "l2policies"),
		NodeLeases: newTable[NodeLease](schema, "nodeleases"),
		Assigned:   newTable[Assignment](schema, "assigned"),
		SourceProblems: newTable(schema, "sourceproblems", Index[Problem]{IndexObject,
			func(p Problem) []string { return []string{p.Object.String()} }}),
		Devices:           newTable[Device](schema, "devices"),
		Endpoints:         newTable[Endpoint](schema, "endpoints"),
		Allocations:       newTable[Allocation](schema, "allocations"),
		PoolStatuses:      newTable[PoolStatus](schema, "poolstatuses"),
		PolicyStatuses:    newTable[PolicyStatus](schema, "policystatuses"),
		ObjectStatuses:    newTable[ObjectStatus](schema, "objectstatuses"),
		AnnouncedStatuses: newTable[AnnouncedStatus](schema, "announcedstatuses"),
		Assignments:       newTable[Assignment](schema, "assignments"),
		Frontends: newTable(schema, "frontends",
			Index[Frontend]{IndexService, func(f Frontend) []string { return []string{f.Service.String()} }},
			Index[Frontend]{IndexAddr, func(f Frontend) []string { return []string{f.Addr.String()} }}),
		Announcements: newTable(schema, "announcements",
			Index[Announcement]{IndexAddr, func(a Announcement) []string { return []string{a.Addr.String()} }}),
		HealthChecks:  newTable[HealthCheck](schema, "healthchecks"),
		Probes:        newTable[Probe](schema, "probes"),
		BackendHealth: newTable[BackendHealth](schema, "backendhealth"),
		BFDSessions:   newTable[BFDSession](schema, "bfdsessions"),
		BFDStates: newTable(schema, "bfdstates",
			Index[BFDState]{IndexAddr, func(b BFDState) []string { return []string{b.Remote.String()} }}),
		Routes:            newTable[Route](schema, "routes"),
		Attachments:       newTable[Attachment](schema, "attachments"),
		NodeProblems:      newTable[Problem](schema, "nodeproblems"),
		ClusterProblems:   newTable[Problem](schema, "clusterproblems"),
		BGPInstances:      newTable[BGPInstance](schema, "bgpinstances"),
		BGPPeers:          newTable[BGPPeer](schema, "bgppeers"),
		BGPAdvertisements: newTable[BGPAdvertisement](schema, "bgpadvertisements"),
		BFDProfiles:       newTable[BFDProfile](schema, "bfdprofiles"),
		Secrets:           newTable[Secret](schema, "secrets"),
		BGPPeerStatuses:   newTable[BGPPeerStatus](schema, "bgppeerstatuses"),
		ForeignObjects:    newTable[ForeignObject](schema, "foreignobjects"),
		BGPSpeakers:       newTable[BGPSpeaker](schema, "bgpspeakers"),
		BGPSessions:       newTable[BGPSession](schema, "bgpsessions"),
		BGPRoutes: newTable(schema, "bgproutes", Index[BGPRoute]{IndexAddr, func(r BGPRoute) []string {
			addrs := make([]string, len(r.Addrs))
			for i, a := range r.Addrs {
				addrs[i] = a.String()
			}
			return addrs
		}}),
		BGPSessionStates: newTable[BGPSessionState](schema, "bgpsessionstates"),
		BGPReceived:      newTable[BGPReceived](schema, "bgpreceived"),
		KernelRoutes:     newTable[KernelRoute](schema, "kernelroutes"),
		marks:            newTable[mark](schema, "marks"),
	}
	mem, err := memdb.NewMemDB(schema)
	if err != nil {
		panic(fmt.Sprintf("build schema: %v", err)) // the schema is a constant of this file
	}
	db.mem = mem
	return db, &Writer{db: db}
}

// Snapshot is all tables at one moment. It never changes.
type Snapshot struct{ mem *memdb.Txn }

func (s Snapshot) txn() *memdb.Txn { return s.mem }

// Snapshot returns the tables as they are now.
func (db *DB) Snapshot() Snapshot { return Snapshot{db.mem.Txn(false)} }

// Writer is the only way to change a DB. It is safe for concurrent use;
// updates happen one after another.
type Writer struct {
	db *DB
	mu sync.Mutex
	// commit is held while what was changed becomes visible. collectors change
	// under both locks.
	commit     sync.Mutex
	collectors []*Collector
}

// Tx is one update in progress.
type Tx struct{ mem *memdb.Txn }

func (tx *Tx) txn() *memdb.Txn { return tx.mem }

// Update runs f and makes its changes visible all at once.
func (w *Writer) Update(f func(*Tx)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	txn := w.db.mem.Txn(true)
	defer txn.Abort() // does nothing after Commit
	if len(w.collectors) > 0 {
		txn.TrackChanges()
	}
	f(&Tx{txn})
	w.collect(txn)
}

// Mark records a fact without content, such as "synced/services".
func (tx *Tx) Mark(name string) {
	if !Marked(tx, name) {
		if err := tx.mem.Insert("marks", mark(name)); err != nil {
			panic(fmt.Sprintf("insert mark: %v", err))
		}
	}
}

// Marked says whether the fact was recorded.
func Marked(r Reader, name string) bool {
	raw, err := r.txn().First("marks", idIndex, name)
	return err == nil && raw != nil
}

// MarksChanged returns a channel that closes at the next Mark.
func (db *DB) MarksChanged(s Snapshot) <-chan struct{} { return db.marks.Changed(s) }

type mark string

func (m mark) RowKey() string { return string(m) }
