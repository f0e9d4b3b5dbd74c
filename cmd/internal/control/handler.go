package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/version"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// maxBody bounds an object, in bytes; etcd takes no request above 1.5 MiB.
const maxBody = 2 << 20

// ErrNoDatapath is answered by a daemon that keeps the store and forwards nothing.
var ErrNoDatapath = errors.New("this daemon has no datapath (store only)")

// handler routes requests. A handler returns what to answer, or an error.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			answer, err := h(r)
			if err != nil {
				writeError(w, err)
				return
			}
			if text, ok := answer.(*bytes.Buffer); ok {
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				w.Write(text.Bytes())
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(answer)
		})
	}
	handle("GET /v1/status", s.status)
	handle("GET /v1/health", s.health)
	handle("GET /v1/announcements", s.announcements)
	handle("GET /v1/announcements/{address}/explanation", s.explain)
	handle("GET /v1/bgp/advertisements/{address}/explanation", s.explainAdvertisement)
	handle("PUT /v1/nodes/{node}/drain", s.drain)
	handle("DELETE /v1/nodes/{node}/drain", s.drain)
	handle("GET /v1/tables/{table}", s.table)
	handle("GET /v1/bpf/lb", s.dumpLB)
	handle("GET /v1/bpf/maglev", s.maglev)
	mux.HandleFunc("GET /v1/bpf/tables/{table}", s.listTable)
	mux.HandleFunc("GET /v1/monitor", s.monitor)
	handle("GET /v1/counts", s.counts)
	handle("GET /v1/bgp/routes/{direction}", s.bgpPaths)
	handle("GET /v1/objects/{resource}", s.list)
	handle("POST /v1/objects/{resource}", s.create)
	handle("GET /v1/objects/{resource}/{name}", s.get)
	handle("PUT /v1/objects/{resource}/{name}", s.update)
	handle("DELETE /v1/objects/{resource}/{name}", s.delete)
	return mux
}

func (s *Server) status(*http.Request) (any, error) {
	var st Status
	if s.Status != nil {
		st = s.Status()
	}
	if st.Version == "" {
		st.Version = version.Version
	}
	if s.DB != nil {
		snap := s.DB.Snapshot()
		st.Tables, st.Problems = tableStatuses(s.DB, snap), problems(s.DB, snap)
	}
	if s.Counts != nil && st.Balanced == nil {
		if counts, err := s.Counts(); err == nil {
			st.Balanced = counts.sum()
		}
	}
	return st, nil
}

func (s *Server) announcements(*http.Request) (any, error) {
	if s.DB == nil {
		return nil, ErrNoDatapath
	}
	return announcements(s.DB, s.DB.Snapshot()), nil
}

func (s *Server) table(r *http.Request) (any, error) {
	if s.DB == nil {
		return nil, ErrNoDatapath
	}
	return tableRows(s.DB, s.DB.Snapshot(), r.PathValue("table"))
}

func (s *Server) dumpLB(r *http.Request) (any, error) {
	if s.DumpLB == nil {
		return nil, ErrNoDatapath
	}
	service, err := parseService(r.FormValue("service"))
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := s.DumpLB(&text, service); err != nil {
		return nil, err
	}
	return &text, nil
}

func (s *Server) maglev(r *http.Request) (any, error) {
	if s.Maglev == nil {
		return nil, ErrNoDatapath
	}
	addr, err := netip.ParseAddrPort(r.FormValue("addr"))
	if err != nil {
		return nil, fmt.Errorf("%w: read addr %q: want ADDRESS:PORT, as in 192.168.10.211:80", errInvalid, r.FormValue("addr"))
	}
	proto, err := ParseProtocol(r.FormValue("protocol"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	return s.Maglev(addr, proto)
}

// ParseProtocol reads TCP, UDP or SCTP in any case.
func ParseProtocol(name string) (state.Protocol, error) {
	for _, p := range []state.Protocol{state.TCP, state.UDP, state.SCTP} {
		if strings.EqualFold(name, p.String()) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("unknown protocol %q: want tcp, udp or sctp", name)
}

func (s *Server) list(r *http.Request) (any, error) {
	kind, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	objs, err := s.Objects.List(r.Context(), kind, r.FormValue("namespace"))
	if err != nil {
		return nil, err
	}
	list := make([]map[string]any, len(objs))
	for i, obj := range objs {
		list[i] = obj.Object
	}
	return list, nil
}

func (s *Server) get(r *http.Request) (any, error) {
	kind, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	return content(s.Objects.Get(r.Context(), kind, r.FormValue("namespace"), r.PathValue("name")))
}

func (s *Server) create(r *http.Request) (any, error) {
	obj, err := s.body(r)
	if err != nil {
		return nil, err
	}
	return content(s.Objects.Create(r.Context(), obj))
}

func (s *Server) update(r *http.Request) (any, error) {
	obj, err := s.body(r)
	if err != nil {
		return nil, err
	}
	if obj.GetName() != r.PathValue("name") {
		return nil, fmt.Errorf("%w: the object is called %q, the path says %q", errInvalid, obj.GetName(), r.PathValue("name"))
	}
	return content(s.Objects.Update(r.Context(), obj))
}

func (s *Server) delete(r *http.Request) (any, error) {
	kind, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, s.Objects.Delete(r.Context(), kind, r.FormValue("namespace"), r.PathValue("name"))
}

func content(obj *unstructured.Unstructured, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return obj.Object, nil
}

// kind finds the request's {resource} among the kinds the store holds.
func (s *Server) kind(r *http.Request) (source.Kind, error) {
	if s.Objects == nil {
		return source.Kind{}, errors.New("this daemon keeps no objects")
	}
	resource := r.PathValue("resource")
	kind, ok := source.FindKind(resource)
	if !ok {
		return source.Kind{}, fmt.Errorf("%w: this daemon knows no kind %q", errInvalid, resource)
	}
	return kind, nil
}

// Resource is a kind's name in paths: plural.group, or plural alone for the core group.
func Resource(k source.Kind) string {
	if k.Group == "" {
		return k.Plural
	}
	return k.Plural + "." + k.Group
}

// body reads the object of a request and holds it against the path.
func (s *Server) body(r *http.Request) (*unstructured.Unstructured, error) {
	kind, err := s.kind(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: read object: %w", errInvalid, err)
	}
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("%w: read object: %w", errInvalid, err)
	}
	if gvk := obj.GroupVersionKind(); gvk.Group != kind.Group || gvk.Kind != kind.Kind {
		return nil, fmt.Errorf("%w: the object is a %s, the path says %s", errInvalid, gvk.GroupKind(), Resource(kind))
	}
	return obj, nil
}
