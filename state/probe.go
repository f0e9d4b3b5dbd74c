package state

import (
	"cmp"
	"net/netip"
	"time"
)

// Probing is how a Service has its backends outside the cluster checked, which
// nobody else says of whether they are ready. The zero Probing: not at all.
type Probing struct {
	By ProbeKind
	// Path is asked for, by HTTP.
	Path string
	// Port that is checked; 0: the one that packets are sent to.
	Port uint16
	// Interval from the beginning of one check to that of the next, and the
	// Timeout of each.
	Interval, Timeout time.Duration
	// Rise is how many checks in a row must go well for a backend that is down to
	// be up again, Fall how many must fail for one that is up to be down.
	Rise, Fall int
	// Invalid: what the Service asks for is wrong. The rest is as it was the last
	// time that it was right.
	Invalid bool
}

// ProbeKind is what a check consists of.
type ProbeKind string

// The kinds of check.
const (
	ProbeTCP  ProbeKind = "tcp"  // a connection is accepted
	ProbeHTTP ProbeKind = "http" // and a request answered with a status of 200 to 399
)

// Probe is a check that this node makes of a backend outside the cluster, over
// and over.
type Probe struct {
	Service ObjectName
	Addr    netip.Addr
	Port    uint16 // that is checked
	Probing Probing
	Status  Status
}

func probeKey(service ObjectName, addr netip.Addr, port uint16) string {
	return service.String() + " " + netip.AddrPortFrom(addr, port).String()
}

// RowKey of a Probe is its Service and addr:port: two Services may have the same
// backend checked in two ways.
func (p Probe) RowKey() string { return probeKey(p.Service, p.Addr, p.Port) }

// Compare orders Probes by Service, address and port.
func (p Probe) Compare(q Probe) int {
	return cmp.Or(p.Service.Compare(q.Service), p.Addr.Compare(q.Addr), cmp.Compare(p.Port, q.Port))
}

// RowStatus and WithStatus make a Probe reconcilable.
func (p Probe) RowStatus() Status { return p.Status }

// WithStatus returns p with its status replaced.
func (p Probe) WithStatus(s Status) Probe { p.Status = s; return p }

// SameSpec compares everything but the status.
func (p Probe) SameSpec(q Probe) bool {
	p.Status, q.Status = Status{}, Status{}
	return p == q
}

// BackendHealth is what a Probe has found. A backend that was not checked yet
// has none.
type BackendHealth struct {
	Service ObjectName
	Addr    netip.Addr
	Port    uint16 // that is checked
	Up      bool
	// Since is when it became so (wall clock; for people).
	Since time.Time
	// Err of the last check, "" when it went well.
	Err string
}

// RowKey of a BackendHealth is its Probe's.
func (h BackendHealth) RowKey() string { return probeKey(h.Service, h.Addr, h.Port) }
