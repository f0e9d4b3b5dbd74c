package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// patience is how long the daemon may take: longer than it gives its datapath
// to program a pod, shorter than a runtime waits for a plugin.
const patience = 90 * time.Second

// daemon is seamarkd, behind its CNI socket.
type daemon struct{ socket string }

// call posts the command and returns the body of the answer. Errors are *types.Error.
func (d daemon) call(command string, args *skel.CmdArgs) ([]byte, error) {
	body, err := json.Marshal(args)
	if err != nil {
		return nil, types.NewError(types.ErrInternal, "encode arguments: "+err.Error(), "")
	}
	client := http.Client{
		Timeout: patience,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		}},
	}
	resp, err := client.Post("http://seamarkd/cni/"+command, "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, d.unreachable(command, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, d.unreachable(command, err)
	}
	if resp.StatusCode == http.StatusOK {
		return answer, nil
	}
	var refusal types.Error
	if err := json.Unmarshal(answer, &refusal); err != nil || refusal.Msg == "" {
		return nil, types.NewError(types.ErrInternal, fmt.Sprintf("seamarkd answered %s: %.200s", resp.Status, answer),
			"the socket may be another program's: see the field \"socket\" of the network config")
	}
	return nil, &refusal
}

// unreachable is ErrTryAgainLater, since a daemon that restarts comes back;
// for STATUS it is what the specification has for "no ADD can be served".
func (d daemon) unreachable(command string, cause error) *types.Error {
	code := types.ErrTryAgainLater
	if command == "status" {
		code = types.ErrPluginNotAvailable
	}
	return types.NewError(code, fmt.Sprintf("reach seamarkd on %s: %v", d.socket, cause),
		"start seamarkd on this node, or set the field \"socket\" of the network config to the path it listens on")
}
