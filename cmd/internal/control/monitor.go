package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/frame"
	"github.com/seamark-lb/seamark/state"
)

// MonitorFilter says which packets are to be told of. What is zero, excludes none.
type MonitorFilter struct {
	// Drops: dropped packets. Without a Service there are no others to tell of.
	Drops bool
	// Service: packets from and to its frontends; without Drops, all of them.
	Service state.ObjectName
	// Reason is one of bpf/reasons.h, such as "no_backend".
	Reason string
	// Device is the name of the interface that the packet came in by, or went out of.
	Device string
}

// PacketEvent is one packet that was dropped or traced.
type PacketEvent struct {
	At time.Time `json:"at"`
	// Device is the name of the interface, or "ifindex N" of one that is gone.
	Device string `json:"device"`
	// Hook, Reason and Action as in kernel.Event.
	Hook   string       `json:"hook"`
	Action string       `json:"action"`
	Reason string       `json:"reason"`
	Length int          `json:"length"`
	Packet frame.Packet `json:"packet"`
	// Head is the beginning of the frame.
	Head []byte `json:"head"`
	// Lost events before this one, of those that might have been told.
	Lost uint64 `json:"lost,omitempty"`
}

// Monitor calls each for every packet that the filter means, until ctx ends,
// which is no error, or the daemon does. started is called as soon as nothing
// is missed any more.
func (c *Client) Monitor(ctx context.Context, filter MonitorFilter, started func(), each func(PacketEvent) error) error {
	query := url.Values{"drops": {strconv.FormatBool(filter.Drops)}, "reason": {filter.Reason}, "device": {filter.Device}}
	if filter.Service != (state.ObjectName{}) {
		query.Set("service", filter.Service.String())
	}
	_, err := lines(ctx, c, "monitor", query, started, each)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return fmt.Errorf("monitor: seamarkd on %s has stopped", c.socket)
}

func (s *Server) monitor(w http.ResponseWriter, r *http.Request) {
	out := lineWriter{w: w}
	filter, err := monitorFilter(r)
	if err == nil && s.Monitor == nil {
		err = ErrNoDatapath
	}
	var events <-chan PacketEvent
	if err == nil {
		events, err = s.Monitor(r.Context(), filter)
	}
	if err == nil {
		err = out.flush() // it has begun
	}
	if err != nil {
		out.end(0, err)
		return
	}
	for e := range events { // until the client is gone, or the daemon ends
		if out.write(line[PacketEvent]{Row: &e}) != nil || out.flush() != nil {
			return
		}
	}
}

func monitorFilter(r *http.Request) (f MonitorFilter, err error) {
	f.Reason, f.Device = r.FormValue("reason"), r.FormValue("device")
	if f.Drops, err = strconv.ParseBool(r.FormValue("drops")); err != nil {
		return f, fmt.Errorf("%w: drops: %w", errInvalid, err)
	}
	f.Service, err = parseService(r.FormValue("service"))
	return f, err
}

// parseService reads NAMESPACE/NAME, or nothing.
func parseService(text string) (name state.ObjectName, err error) {
	if text == "" {
		return name, nil
	}
	namespace, service, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || service == "" {
		return name, fmt.Errorf("%w: service %q: want NAMESPACE/NAME", errInvalid, text)
	}
	return state.ObjectName{Namespace: namespace, Name: service}, nil
}
