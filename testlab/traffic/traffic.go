// Package traffic drives load through a lab and says what a user would have
// noticed: connections that broke or stalled, time without service, who
// answered ARP.
package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Namespace is where a driver's sockets are opened; testlab.Host is one.
type Namespace interface {
	// Do runs fn on a thread in the namespace.
	Do(fn func() error) error
}

// Here is the namespace that the process is in.
type Here struct{}

// Do runs fn.
func (Here) Do(fn func() error) error { return fn() }

// dial connects from the namespace.
func dial(ctx context.Context, ns Namespace, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = ns.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// milliseconds rounds a duration for people.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
