package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Streams are long-lived HTTP connections, on each of which a webpod sends
// lines at an interval.
type Streams struct {
	conns []*stream
	done  sync.WaitGroup
}

// stream is one connection.
type stream struct {
	conn  net.Conn
	lines *bufio.Scanner

	mu     sync.Mutex
	state  Stream
	last   time.Time // of the last line
	closed bool      // by us
}

// Stream is what one connection has seen.
type Stream struct {
	// Pod at the other end.
	Pod   string         `json:"pod"`
	Local netip.AddrPort `json:"local"`
	// Lines that came, each the successor of the one before.
	Lines int `json:"lines"`
	// LongestGap between two lines, or since the last one; in JSON, ns.
	LongestGap time.Duration `json:"longestGap"`
	// Error that broke the connection: "reset", "closed" or another; "" while it lives.
	Error string `json:"error,omitempty"`
}

// StreamsResult is what all connections have seen.
type StreamsResult struct {
	Streams []Stream `json:"streams"`
}

// OpenStreams opens count connections from the namespace to a webpod's
// /stream, with a line each interval (at least 1 ms), and returns when every
// one has its first line. They stay open when ctx ends.
func OpenStreams(ctx context.Context, from Namespace, to netip.AddrPort, count int, interval time.Duration) (*Streams, error) {
	s := &Streams{}
	for range count {
		c, err := openStream(ctx, from, to, interval)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("open stream %d of %d to %s: %w", len(s.conns)+1, count, to, err)
		}
		s.conns = append(s.conns, c)
		s.done.Go(c.read)
	}
	return s, nil
}

func openStream(ctx context.Context, from Namespace, to netip.AddrPort, interval time.Duration) (*stream, error) {
	conn, err := dial(ctx, from, "tcp", to)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	c := &stream{conn: conn}
	if err := c.begin(to, interval); err != nil {
		conn.Close()
		return nil, err
	}
	conn.SetDeadline(time.Time{})
	return c, nil
}

// begin sends the request and reads the first line.
func (c *stream) begin(to netip.AddrPort, interval time.Duration) error {
	_, err := fmt.Fprintf(c.conn, "GET /stream?interval=%d HTTP/1.1\r\nHost: %s\r\n\r\n", interval.Milliseconds(), to)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c.conn), nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("server answered %s", resp.Status)
	}
	c.lines = bufio.NewScanner(resp.Body)
	if !c.lines.Scan() {
		return cmpErr(c.lines.Err(), io.ErrUnexpectedEOF)
	}
	c.state.Local = c.conn.LocalAddr().(*net.TCPAddr).AddrPort()
	c.last = time.Now()
	return c.take(c.lines.Text())
}

// cmpErr is err, or instead if there is none.
func cmpErr(err, instead error) error {
	if err == nil {
		return instead
	}
	return err
}

// take notes a line, "N POD".
func (c *stream) take(line string) error {
	var n int
	var pod string
	if _, err := fmt.Sscanf(line, "%d %s", &n, &pod); err != nil {
		return fmt.Errorf("line %q is no stream's: %w", line, err)
	}
	if n != c.state.Lines+1 || c.state.Pod != "" && pod != c.state.Pod {
		return fmt.Errorf("line %q after line %d of %s", line, c.state.Lines, c.state.Pod)
	}
	c.state.Pod, c.state.Lines = pod, n
	return nil
}

func (c *stream) read() {
	for c.lines.Scan() {
		now := time.Now()
		c.mu.Lock()
		c.state.LongestGap = max(c.state.LongestGap, now.Sub(c.last))
		c.last = now
		err := c.take(c.lines.Text())
		c.mu.Unlock()
		if err != nil {
			c.end(err.Error())
			return
		}
	}
	switch err := c.lines.Err(); {
	case err == nil, errors.Is(err, io.ErrUnexpectedEOF):
		c.end("closed")
	case errors.Is(err, syscall.ECONNRESET):
		c.end("reset")
	default:
		c.end(err.Error())
	}
}

func (c *stream) end(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.state.Error = why
		c.closed = true
	}
}

// Result is what the connections have seen until now.
func (s *Streams) Result() StreamsResult {
	var r StreamsResult
	for _, c := range s.conns {
		c.mu.Lock()
		state := c.state
		if !c.closed {
			state.LongestGap = max(state.LongestGap, time.Since(c.last))
		}
		c.mu.Unlock()
		r.Streams = append(r.Streams, state)
	}
	return r
}

// Close closes the connections; what they saw until then stays in Result.
func (s *Streams) Close() {
	for _, c := range s.conns {
		c.mu.Lock()
		if !c.closed {
			c.closed = true
			c.state.LongestGap = max(c.state.LongestGap, time.Since(c.last))
		}
		c.mu.Unlock()
		c.conn.Close()
	}
	s.done.Wait()
}

// Broken are the connections that did not live.
func (r StreamsResult) Broken() []Stream {
	return slices.DeleteFunc(slices.Clone(r.Streams), func(s Stream) bool { return s.Error == "" })
}

// Stalled are the connections with a gap longer than that.
func (r StreamsResult) Stalled(gap time.Duration) []Stream {
	return slices.DeleteFunc(slices.Clone(r.Streams), func(s Stream) bool { return s.LongestGap <= gap })
}

// LongestGap is the longest of all connections'.
func (r StreamsResult) LongestGap() time.Duration {
	var longest time.Duration
	for _, s := range r.Streams {
		longest = max(longest, s.LongestGap)
	}
	return longest
}

// On are the connections to one pod.
func (r StreamsResult) On(pod string) StreamsResult {
	return StreamsResult{slices.DeleteFunc(slices.Clone(r.Streams), func(s Stream) bool { return s.Pod != pod })}
}

// String has one line for each pod.
func (r StreamsResult) String() string {
	pods := map[string]bool{}
	for _, s := range r.Streams {
		pods[s.Pod] = true
	}
	var lines []string
	for _, pod := range slices.Sorted(maps.Keys(pods)) {
		on := r.On(pod)
		why := map[string]int{}
		for _, s := range on.Broken() {
			why[s.Error]++
		}
		line := fmt.Sprintf("%s: %d connections, %d broken, longest gap %s", pod, len(on.Streams), len(on.Broken()), milliseconds(on.LongestGap()))
		for _, e := range slices.Sorted(maps.Keys(why)) {
			line += fmt.Sprintf(", %d %s", why[e], e)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
