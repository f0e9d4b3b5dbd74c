package control

import (
	"net/netip"
	"time"

	"github.com/seamark-lb/seamark/state"
)

// DefaultSocket is where seamarkd listens unless it is told otherwise.
const DefaultSocket = "/run/seamark/seamark.sock"

// Status is what a daemon says of itself.
type Status struct {
	// Version of the daemon; the Server fills it in when empty.
	Version string    `json:"version"`
	Node    string    `json:"node"`
	Started time.Time `json:"started"`
	// Ready: the daemon serves what it should. NotReady says what is missing
	// when it does not, a line each.
	Ready    bool     `json:"ready"`
	NotReady []string `json:"notReady,omitempty"`

	Store       StoreStatus    `json:"store"`
	Lease       LeaseStatus    `json:"lease"`
	Coordinator Coordinator    `json:"coordinator"`
	Wire        WireStatus     `json:"wire"`
	Devices     []DeviceStatus `json:"devices,omitempty"`
	// Tables is filled in by the Server from its DB.
	Tables []TableStatus `json:"tables,omitempty"`
	// Problems that a person should mend, a line each; filled in by the Server from its DB.
	Problems []string `json:"problems,omitempty"`
	// Notes are what there is to know of other programs beside Seamark, a line each.
	Notes []string `json:"notes,omitempty"`
	// Balanced sums up the datapath's Counts; filled in by the Server, unless
	// they cannot be read.
	Balanced *Balanced `json:"balanced,omitempty"`
	// Verdicts count packets by reason; the reasons without any may be left out.
	Verdicts []VerdictCount `json:"verdicts,omitempty"`
}

// StoreStatus is the daemon's connection to where the objects are.
type StoreStatus struct {
	// Engine: "embedded", "etcd" or "kube".
	Engine    string   `json:"engine"`
	Endpoints []string `json:"endpoints,omitempty"`
	// Synced: every table holds what the store has.
	Synced bool `json:"synced"`
	// Err of the last contact, "" when it went well.
	Err string `json:"err,omitempty"`
	// Requests sent to the API server since the daemon started; 0 when they are not counted.
	Requests uint64 `json:"requests,omitempty"`
}

// LeaseStatus is this node's right to announce.
type LeaseStatus struct {
	// State: "valid", "expired", "released", or "none" before the first renewal.
	State string `json:"state"`
	// Drained: somebody asked that the node have no addresses.
	Drained bool `json:"drained,omitempty"`
	// Left is how long it is still valid without a renewal.
	Left time.Duration `json:"leftNanoseconds"`
	// Renewed is when it was last renewed (wall clock; for people).
	Renewed time.Time `json:"renewed,omitzero"`
	// Err of the last renewal, "" when it went well.
	Err string `json:"err,omitempty"`
}

// Coordinator is who decides which node announces what.
type Coordinator struct {
	// Identity of the elected coordinator, "" while there is none.
	Identity string `json:"identity"`
	// Self: it is this daemon.
	Self bool `json:"self"`
}

// WireStatus counts what was said and heard by ARP about the announced
// addresses since the daemon started.
type WireStatus struct {
	// Gratuitous announcements sent.
	Gratuitous uint64 `json:"gratuitous"`
	// ClusterClaims by other nodes of the cluster, and how they were settled.
	ClusterClaims uint64 `json:"clusterClaims"`
	Kept          uint64 `json:"kept"`
	Yielded       uint64 `json:"yielded"`
	// StrangerClaims by others, and those that were answered.
	StrangerClaims uint64 `json:"strangerClaims"`
	Defences       uint64 `json:"defences"`
}

// DeviceStatus is a network interface and how Seamark's programs are on it.
type DeviceStatus struct {
	Name string `json:"name"`
	MAC  string `json:"mac,omitempty"`
	Up   bool   `json:"up"`
	// Attach is how, such as "XDP native, tcx", and why not better; "" when nothing is attached.
	Attach string `json:"attach"`
	// Err says why it is not attached, or not natively.
	Err string `json:"err,omitempty"`
}

// TableStatus counts the rows of one table by what became of them. Tables
// without a status column have Rows alone.
type TableStatus struct {
	Name     string     `json:"name"`
	Rows     int        `json:"rows"`
	Pending  int        `json:"pending"`
	Failed   int        `json:"failed"`
	Deleting int        `json:"deleting"`
	Errors   []RowError `json:"errors,omitempty"`
}

// RowError is a row whose last try failed.
type RowError struct {
	Row   string `json:"row"`
	Err   string `json:"err"`
	Tries int    `json:"tries"`
}

// VerdictCount counts the packets and bytes of one reason (bpf/reasons.h).
type VerdictCount struct {
	Reason  string `json:"reason"`
	Dropped bool   `json:"dropped"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Announcement is one address and who announces it.
type Announcement struct {
	Address    netip.Addr   `json:"address"`
	Service    string       `json:"service"`
	Node       string       `json:"node,omitempty"`
	Interfaces []string     `json:"interfaces,omitempty"`
	Since      time.Time    `json:"since"`
	Generation int64        `json:"generation"`
	Reason     state.Reason `json:"reason"`
	Previous   string       `json:"previous,omitempty"`
	// MACs of Interfaces, in their order, as the node's lease reports them;
	// "" where it does not.
	MACs []string `json:"macs,omitempty"`
}

// Maglev is the active Maglev table of one frontend.
type Maglev struct {
	Addr     netip.AddrPort  `json:"addr"`
	Protocol string          `json:"protocol"`
	Service  string          `json:"service,omitempty"`
	Backends []MaglevBackend `json:"backends"`
	// Slots of the whole table, each an index into Backends, or -1 when empty.
	Slots []int `json:"slots"`
}

// MaglevBackend is a backend that a Maglev table can choose.
type MaglevBackend struct {
	Addr   netip.AddrPort `json:"addr"`
	Node   string         `json:"node,omitempty"`
	Weight uint16         `json:"weight,omitempty"`
}
