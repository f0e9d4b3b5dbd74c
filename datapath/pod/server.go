package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/seamark-lb/seamark/internal/unixhttp"
	"github.com/seamark-lb/seamark/state"
)

// Server does the work of seamark-cni: it wires pods up and keeps the
// Endpoints table. It serves HTTP on a unix socket: POST /cni/COMMAND (add,
// del, check, status, gc) with a skel.CmdArgs as JSON is answered with 200 and
// the command's result, or with another status and a types.Error.
type Server struct {
	DB     *state.DB
	Writer *state.Writer
	Log    *slog.Logger
	// Node is this node's name in the Nodes table.
	Node string
	// Socket is the path to listen on.
	Socket string
	// StateDir is where the attachments are recorded, in endpoints/.
	StateDir string
	// ProgramTimeout is how long ADD waits for the datapath to have the
	// pod's row; 15 s when 0.
	ProgramTimeout time.Duration

	mu sync.Mutex // held while addresses are chosen and the kernel is changed
	// veths are the attachments there are, by Endpoint key.
	veths map[string]veth
	// stray are the addresses of veths without a record, by host device.
	stray map[string]netip.Addr
	// freed are the addresses given back, the longest ago first.
	freed []netip.Addr
}

const maxRequest = 1 << 20 // bytes

// Run restores the recorded attachments to the Endpoints table, marks it
// synced, and serves until ctx ends. Pods stay wired when it returns.
func (s *Server) Run(ctx context.Context) error {
	if err := s.restore(); err != nil {
		return fmt.Errorf("restore attachments: %w", err)
	}

	// An ADD that waits gives up, and undoes what it did, when ctx ends.
	return unixhttp.Serve(ctx, s.Socket, s.handler(), s.Log)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for command, serve := range map[string]func(context.Context, *skel.CmdArgs) (any, error){
		"add":    s.add,
		"del":    s.del,
		"check":  s.check,
		"status": s.status,
		"gc":     s.gc,
	} {
		mux.HandleFunc("POST /cni/"+command, func(w http.ResponseWriter, r *http.Request) {
			var args skel.CmdArgs
			err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&args)
			if err != nil {
				s.answer(w, command, args, nil, types.NewError(types.ErrDecodingFailure, "read request: "+err.Error(), ""))
				return
			}
			result, err := serve(r.Context(), &args)
			s.answer(w, command, args, result, err)
		})
	}
	return mux
}

func (s *Server) answer(w http.ResponseWriter, command string, args skel.CmdArgs, result any, err error) {
	log := s.Log.With("command", command, "container", args.ContainerID, "interface", args.IfName)
	status, body := http.StatusOK, result
	if err != nil {
		var refusal *types.Error
		if !errors.As(err, &refusal) {
			refusal = types.NewError(types.ErrInternal, err.Error(), "")
		}
		status, body = http.StatusInternalServerError, refusal
		log.Warn("cni", "code", refusal.Code, "err", err)
	} else if command != "status" {
		log.Info("cni")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body == nil {
		return
	}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Warn("answer cni", "err", err)
	}
}
