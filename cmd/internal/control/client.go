package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Client asks a daemon. It is a source.Objects.
type Client struct {
	socket string
	http   http.Client
}

var _ source.Objects = (*Client)(nil)

// NewClient returns a Client of the daemon on that socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status asks how the daemon is.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	err = c.call(ctx, http.MethodGet, "status", nil, nil, &st)
	return st, err
}

// Announcements asks who announces what, in the order of the addresses.
func (c *Client) Announcements(ctx context.Context) (all []Announcement, err error) {
	err = c.call(ctx, http.MethodGet, "announcements", nil, nil, &all)
	return all, err
}

// Rows asks for the rows of a table of state.DB. T is the table's row type.
func Rows[T state.Row](ctx context.Context, c *Client, table string) (rows []T, err error) {
	err = c.call(ctx, http.MethodGet, "tables/"+url.PathEscape(table), nil, nil, &rows)
	return rows, err
}

// DumpLB writes the datapath's load-balancer maps as text; with a Service, what is in
// them for it.
func (c *Client) DumpLB(ctx context.Context, w io.Writer, service state.ObjectName) error {
	query := url.Values{}
	if service != (state.ObjectName{}) {
		query.Set("service", service.String())
	}
	return c.call(ctx, http.MethodGet, "bpf/lb", query, nil, w)
}

// Maglev asks for the active table of one frontend.
func (c *Client) Maglev(ctx context.Context, addr netip.AddrPort, proto state.Protocol) (m Maglev, err error) {
	query := url.Values{"addr": {addr.String()}, "protocol": {proto.String()}}
	err = c.call(ctx, http.MethodGet, "bpf/maglev", query, nil, &m)
	return m, err
}

// Get as in source.Objects.
func (c *Client) Get(ctx context.Context, kind source.Kind, namespace, name string) (*unstructured.Unstructured, error) {
	return c.object(ctx, http.MethodGet, objectPath(kind, name), namespace, nil)
}

// List as in source.Objects.
func (c *Client) List(ctx context.Context, kind source.Kind, namespace string) ([]*unstructured.Unstructured, error) {
	var raw []json.RawMessage
	if err := c.call(ctx, http.MethodGet, "objects/"+url.PathEscape(Resource(kind)), inNamespace(namespace), nil, &raw); err != nil {
		return nil, err
	}
	objs := make([]*unstructured.Unstructured, len(raw))
	for i, data := range raw {
		objs[i] = &unstructured.Unstructured{}
		if err := objs[i].UnmarshalJSON(data); err != nil {
			return nil, fmt.Errorf("read answer of seamarkd: %w", err)
		}
	}
	return objs, nil
}

// Create as in source.Objects.
func (c *Client) Create(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	kind, err := source.KindOf(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		return nil, err
	}
	return c.object(ctx, http.MethodPost, "objects/"+url.PathEscape(Resource(kind)), obj.GetNamespace(), obj)
}

// Update as in source.Objects.
func (c *Client) Update(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	kind, err := source.KindOf(obj.GetAPIVersion(), obj.GetKind())
	if err != nil {
		return nil, err
	}
	return c.object(ctx, http.MethodPut, objectPath(kind, obj.GetName()), obj.GetNamespace(), obj)
}

// Delete as in source.Objects.
func (c *Client) Delete(ctx context.Context, kind source.Kind, namespace, name string) error {
	return c.call(ctx, http.MethodDelete, objectPath(kind, name), inNamespace(namespace), nil, nil)
}

func objectPath(kind source.Kind, name string) string {
	return "objects/" + url.PathEscape(Resource(kind)) + "/" + url.PathEscape(name)
}

func inNamespace(namespace string) url.Values {
	if namespace == "" {
		return nil
	}
	return url.Values{"namespace": {namespace}}
}

func (c *Client) object(ctx context.Context, method, path, namespace string, body *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	answer := &unstructured.Unstructured{}
	if err := c.call(ctx, method, path, inNamespace(namespace), body, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

// call sends one request and reads its answer: into an io.Writer as it comes,
// into anything else as JSON.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, body *unstructured.Unstructured, answer any) error {
	res, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	switch answer := answer.(type) {
	case nil:
	case io.Writer:
		_, err = io.Copy(answer, res.Body)
	case json.Unmarshaler: // Unstructured: its own decoder keeps integers integers
		var raw []byte
		if raw, err = io.ReadAll(res.Body); err == nil {
			err = answer.UnmarshalJSON(raw)
		}
	default:
		err = json.NewDecoder(res.Body).Decode(answer)
	}
	if err != nil {
		return fmt.Errorf("read answer of seamarkd: %w", err)
	}
	return nil
}

// send sends one request. The answer, which is no Error, is the caller's to close.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body *unstructured.Unstructured) (*http.Response, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = body.MarshalJSON(); err != nil {
			return nil, fmt.Errorf("send %s %s: %w", body.GetKind(), body.GetName(), err)
		}
	}
	u := "http://seamarkd/v1/" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("ask seamarkd: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if res.StatusCode >= 400 {
		defer res.Body.Close()
		return nil, readError(res)
	}
	return res, nil
}

func readError(res *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(res.Body, maxBody))
	e := &Error{}
	if json.Unmarshal(data, e) != nil || e.Message == "" {
		return fmt.Errorf("ask seamarkd: %s: %s", res.Status, strings.TrimSpace(string(data)))
	}
	return e
}

// unreachable says what to do about a daemon that does not answer.
func (c *Client) unreachable(err error) error {
	const where = "give its socket with --socket or SEAMARK_SOCKET"
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("ask seamarkd on %s: %w", c.socket, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("connect to seamarkd: there is no socket %s: start seamarkd on this node, or %s", c.socket, where)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("connect to seamarkd: no permission to open %s: run seamark as root", c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("connect to seamarkd: nobody listens on %s: seamarkd is not running; start it, or %s", c.socket, where)
	}
	return fmt.Errorf("connect to seamarkd on %s: %w", c.socket, err)
}
