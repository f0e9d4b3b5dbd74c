package control

import (
	"context"
	"io"
	"log/slog"
	"net/netip"

	"github.com/seamark-lb/seamark/internal/unixhttp"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
)

// Server answers the CLI. What is nil is answered with an Error that says so.
type Server struct {
	// Socket is the path to listen on; DefaultSocket when "".
	Socket string
	Log    *slog.Logger

	// Objects that source.Kinds are kept in.
	Objects source.Objects
	// DB is where the tables and the announcements are read from.
	DB *state.DB
	// Status says how the daemon is. Version, Tables and
	// Problems are filled in by the Server.
	Status func() Status
	// Drain has a node give its addresses up, or takes that back. A node that
	// never kept a lease is an error that wraps source.ErrNotFound; without force,
	// one whose addresses nobody else may announce is ErrStranded.
	Drain func(ctx context.Context, node string, drained, force bool) error
	// Explain says how every node stands with an address.
	Explain func(netip.Addr) (Explanation, error)
	// ExplainAdvertisement says how each advertisement of this node stands with an
	// address, towards each of its peers.
	ExplainAdvertisement func(netip.Addr) ([]AdvertisementStanding, error)
	// DumpLB writes the datapath's load-balancer maps as text; with a Service, what
	// is in them for it.
	DumpLB func(w io.Writer, service state.ObjectName) error
	// Maglev reads the active table of one frontend from the datapath. An
	// address without a frontend is an error that wraps source.ErrNotFound.
	Maglev func(netip.AddrPort, state.Protocol) (Maglev, error)
	// List calls row for each row of a table of the datapath, as ListQuery says,
	// and returns how many more there are. An unknown table is an error that
	// wraps source.ErrNotFound.
	List func(ctx context.Context, table string, query ListQuery, row func(any) error) (more int, err error)
	// Counts reads the datapath's counters.
	Counts func() (Counts, error)
	// BGPPaths are the routes that peers have sent, or were sent; of one peer, or of all.
	BGPPaths func(ctx context.Context, received bool, peer string) ([]BGPPath, error)
	// Monitor returns the packets that the filter means, from now until ctx
	// ends; then, and when there can be no more, it closes the channel.
	Monitor func(ctx context.Context, filter MonitorFilter) (<-chan PacketEvent, error)
}

// Run listens on the socket and answers until ctx ends, then removes the
// socket. It refuses to take the socket of a daemon that is alive.
func (s *Server) Run(ctx context.Context) error {
	path := s.Socket
	if path == "" {
		path = DefaultSocket
	}
	return unixhttp.Serve(ctx, path, s.handler(), s.Log)
}
