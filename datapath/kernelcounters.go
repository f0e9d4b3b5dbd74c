package datapath

import (
	"errors"

	"github.com/cilium/ebpf"
)

// kernelCounters are a per-CPU array of counts.
type kernelCounters struct{ m *ebpf.Map }

func (c kernelCounters) Lookup(index uint32) (Count, error) {
	var perCPU []Count
	if err := c.m.Lookup(index, &perCPU); err != nil {
		return Count{}, err
	}
	return sum(perCPU), nil
}

func (c kernelCounters) Reset(index uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	return c.m.Put(index, make([]Count, cpus))
}

func (c kernelCounters) All() (map[uint32]Count, error) {
	all := map[uint32]Count{}
	err := c.batches(all)
	if errors.Is(err, ebpf.ErrNotSupported) {
		clear(all)
		var index uint32
		var perCPU []Count
		it := c.m.Iterate()
		for it.Next(&index, &perCPU) {
			addCount(all, index, perCPU)
		}
		err = it.Err()
	}
	return all, err
}

func (c kernelCounters) batches(into map[uint32]Count) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	n := min(batchSize, int(c.m.MaxEntries()))
	keys, values := make([]uint32, n), make([]Count, n*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		got, err := c.m.BatchLookup(&cursor, keys, values, nil)
		for i := range got {
			addCount(into, keys[i], values[i*cpus:(i+1)*cpus])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func addCount(into map[uint32]Count, index uint32, perCPU []Count) {
	if count := sum(perCPU); count != (Count{}) {
		into[index] = count
	}
}

func sum(perCPU []Count) (all Count) {
	for _, c := range perCPU {
		all.Packets += c.Packets
		all.Bytes += c.Bytes
	}
	return all
}
