package main

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/datapath"
	"github.com/seamark-lb/seamark/datapath/collect"
	"github.com/seamark-lb/seamark/state"
)

// counter reads the datapath's counters, and what the last pass over its tables
// has counted.
type counter struct {
	maps      datapath.Maps
	db        *state.DB
	collector *collect.Collector
}

// counts is control.Server's Counts. What was sent to Services and backends
// that are gone is not among them.
func (c counter) counts() (counts control.Counts, err error) {
	if counts, err = c.services(); err != nil {
		return counts, err
	}
	addrs, err := backendAddrs(c.maps)
	if err != nil {
		return counts, err
	}
	sent, err := sentTo(c.maps.BackendCounts, "backend_counts", maps.Keys(addrs))
	counts.Backends = backendCounts(addrs, sent, c.collector.Report().Flows.Backends)
	return counts, err
}

// services are the counts without those of backends, of which there may be very many.
func (c counter) services() (control.Counts, error) {
	names, err := namesOf(c.maps, c.db)
	if err != nil {
		return control.Counts{}, err
	}
	sent, err := sentTo(c.maps.ServiceCounts, "service_counts", maps.Keys(names.services))
	report := c.collector.Report()
	return control.Counts{
		Services: serviceCounts(names, sent, report.Flows.Frontends),
		Backends: []control.BackendCount{},
		Tables:   tableFills(report),
		Counted:  report.At,
	}, err
}

// sentTo reads the counts of those that there are: the maps have room for very
// many more, and that for each CPU.
func sentTo(counters datapath.Counters, name string, indexes iter.Seq[uint32]) (map[uint32]datapath.Count, error) {
	sent := map[uint32]datapath.Count{}
	for index := range indexes {
		count, err := counters.Lookup(index)
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", name, err)
		}
		sent[index] = count
	}
	return sent, nil
}

// serviceCounts has each port of a Service once, also while it has two numbers.
func serviceCounts(names names, sent map[uint32]datapath.Count, flows map[collect.Place]uint64) []control.ServiceCount {
	byNumber := map[uint32]uint64{}
	for at, n := range flows {
		if number, ok := names.numbers[at]; ok {
			byNumber[number] += n
		}
	}
	ports := map[control.ServiceCount]control.ServiceCount{}
	for number, row := range names.services {
		port := control.ServiceCount{Service: row.Service.String(), Port: row.PortName, Protocol: row.Protocol.String()}
		sum := cmp.Or(ports[port], port)
		sum.Packets += sent[number].Packets
		sum.Bytes += sent[number].Bytes
		sum.Flows += byNumber[number]
		ports[port] = sum
	}
	return slices.SortedFunc(maps.Values(ports), func(a, b control.ServiceCount) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
}

// backendCounts has each address and port once, whatever its ids and protocols.
func backendCounts(backends map[uint32]netip.AddrPort, sent map[uint32]datapath.Count, flows map[collect.Place]uint64) []control.BackendCount {
	sums := map[netip.AddrPort]control.BackendCount{}
	for id, addr := range backends {
		sum := sums[addr]
		sum.Addr = addr
		sum.Packets += sent[id].Packets
		sum.Bytes += sent[id].Bytes
		sums[addr] = sum
	}
	for at, n := range flows {
		if sum, ok := sums[at.Addr]; ok {
			sum.Flows += n
			sums[at.Addr] = sum
		}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b control.BackendCount) int { return a.Addr.Compare(b.Addr) })
}

func tableFills(report collect.Report) []control.TableFill {
	fills := []control.TableFill{}
	for _, t := range report.Tables {
		fills = append(fills,
			control.TableFill{Name: t.Name, Entries: uint64(t.Entries.IPv4), Max: uint64(t.Size.IPv4)},
			control.TableFill{Name: t.Name + "6", Entries: uint64(t.Entries.IPv6), Max: uint64(t.Size.IPv6)})
	}
	return fills
}
