package datapath

import (
	"fmt"
	"time"
)

// usage counts the users of things, and knows since when a thing has had none.
type usage[K comparable] struct {
	users map[K]int
	idle  map[K]time.Time
}

func newUsage[K comparable]() usage[K] {
	return usage[K]{map[K]int{}, map[K]time.Time{}}
}

func (u usage[K]) take(things ...K) {
	for _, k := range things {
		u.users[k]++
		delete(u.idle, k)
	}
}

func (u usage[K]) release(now time.Time, things ...K) {
	for _, k := range things {
		if u.users[k]--; u.users[k] <= 0 {
			delete(u.users, k)
			u.idle[k] = now
		}
	}
}

func (u usage[K]) used(k K) bool { return u.users[k] > 0 }

// note remembers a thing that exists; without users, from now on if not already.
func (u usage[K]) note(now time.Time, k K) {
	if _, known := u.idle[k]; !known && u.users[k] == 0 {
		u.idle[k] = now
	}
}

// expire drops what has had no user for grace. What cannot be dropped stays for the next time.
func (u usage[K]) expire(now time.Time, grace time.Duration, drop func(K) error) error {
	for k, since := range u.idle {
		if now.Before(since.Add(grace)) {
			continue
		}
		if err := drop(k); err != nil {
			return err
		}
		delete(u.idle, k)
	}
	return nil
}

// indexPool gives out the lowest free index from 1 on; 0 means none in every map.
type indexPool struct {
	limit uint32 // indexes below it
	taken map[uint32]bool
	next  uint32 // no index below it is free
}

func newIndexPool[V any](limit uint32, taken map[uint32]V) indexPool {
	p := indexPool{limit: limit, taken: make(map[uint32]bool, len(taken)), next: 1}
	for i := range taken {
		p.taken[i] = true
	}
	return p
}

func (p *indexPool) take() (uint32, error) {
	for p.next < p.limit && p.taken[p.next] {
		p.next++
	}
	if p.next >= p.limit {
		return 0, fmt.Errorf("all %d are in use or draining", p.limit-1)
	}
	p.taken[p.next] = true
	return p.next, nil
}

func (p *indexPool) give(i uint32) {
	delete(p.taken, i)
	p.next = min(p.next, i)
}
