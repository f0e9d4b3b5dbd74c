package datapath

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// The ports of this node that translated flows are given, first and last (bpf/pair.h):
// answers to them come to the node's address.
const (
	firstNATPort = 61000
	lastNATPort  = 65535
)

// NATPorts reports that the node gives ports of translated flows to its own sockets, too:
// a connection of the node itself to a backend could then have the addresses and ports of
// a client's, and lose its answers to it. local and reserved are what is in the files
// ip_local_port_range and ip_local_reserved_ports of /proc/sys/net/ipv4.
func NATPorts(node, local, reserved string) ([]state.Problem, error) {
	var low, high int
	if _, err := fmt.Sscan(local, &low, &high); err != nil {
		return nil, fmt.Errorf("read net.ipv4.ip_local_port_range %q: %w", local, err)
	}
	kept, err := portRanges(reserved)
	if err != nil {
		return nil, fmt.Errorf("read net.ipv4.ip_local_reserved_ports %q: %w", reserved, err)
	}
	from := max(low, firstNATPort)
	for _, r := range kept { // in order
		if r.first <= from && from <= r.last {
			from = r.last + 1
		}
	}
	if from > min(high, lastNATPort) {
		return nil, nil
	}
	wanted := fmt.Sprintf("%d-%d", firstNATPort, lastNATPort)
	if reserved = strings.TrimSpace(reserved); reserved != "" {
		reserved += ","
	}
	return []state.Problem{{
		Object: state.NodeRef(node),
		Message: fmt.Sprintf("its own connections may have ports of %s, which translated flows are given: net.ipv4.ip_local_port_range is %d-%d; "+
			"now and then one to a backend will hang", wanted, low, high),
		Cure: "sysctl -w net.ipv4.ip_local_reserved_ports=" + reserved + wanted + ", or end ip_local_port_range at " + strconv.Itoa(firstNATPort-1),
	}}, nil
}

type portRange struct{ first, last int }

// portRanges reads a list like "8080,9148-9150", as the kernel writes it: in order.
func portRanges(text string) (all []portRange, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if part == "" {
			continue
		}
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		var r portRange
		if r.first, err = strconv.Atoi(first); err != nil {
			return nil, err
		}
		if r.last, err = strconv.Atoi(last); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}
