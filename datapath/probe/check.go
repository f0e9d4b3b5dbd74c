package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/seamark-lb/seamark/state"
)

// maxHeader bounds what is read of an answer's header, in bytes.
const maxHeader = 64 << 10

// checker makes checks. Its client opens a connection for each request, as the
// backend's own do, by no proxy, and follows no redirect: where that leads is
// another's health.
type checker struct{ client *http.Client }

func newChecker() checker {
	return checker{&http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// check makes one check, and returns why the backend is not up.
func (c checker) check(ctx context.Context, row state.Probe) error {
	at := netip.AddrPortFrom(row.Addr, row.Port).String()
	var err error
	if row.Probing.By == state.ProbeHTTP {
		err = c.get(ctx, "http://"+at+row.Probing.Path)
	} else {
		err = connect(ctx, at)
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no answer within %v", row.Probing.Timeout)
	}
	return bare(err)
}

// bare leaves out where it went wrong: the row says that, and a port of our own is
// another each time.
func bare(err error) error {
	var op *net.OpError
	var request *url.Error
	switch {
	case errors.As(err, &op):
		return op.Err
	case errors.As(err, &request):
		return request.Err
	}
	return err
}

func connect(ctx context.Context, at string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	return conn.Close()
}

// get wants an answer with a status of 200 to 399.
func (c checker) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "seamark")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close() // the status is the answer
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("HTTP status %s", resp.Status)
	}
	return nil
}
