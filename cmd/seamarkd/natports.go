package main

import (
	"context"
	"os"

	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/state"
)

// natPorts looks whether this node has the ports of translated flows to itself, now and
// then: anybody may change that.
func (d *deciders) natPorts(ctx context.Context) error {
	return d.db.Follow(ctx, redecide, func(state.Snapshot) {
		problems, err := natPortProblems(d.node)
		if err != nil {
			d.log.Warn("look at the ports of this node's own sockets", "retry", redecide, "err", err)
			return
		}
		d.report("ports of translated flows", problems)
	})
}

func natPortProblems(node string) ([]state.Problem, error) {
	const dir = "/proc/sys/net/ipv4/"
	local, err := os.ReadFile(dir + "ip_local_port_range")
	if err != nil {
		return nil, err
	}
	reserved, err := os.ReadFile(dir + "ip_local_reserved_ports")
	if err != nil {
		return nil, err
	}
	return datapath.NATPorts(node, string(local), string(reserved))
}
