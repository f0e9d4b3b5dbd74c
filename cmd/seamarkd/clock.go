package main

import (
	"bytes"
	"os"
	"time"

	"github.com/seamark-lb/seamark/announce"
)

// steppedClock is the kernel's clock, whose wall time is off by what a file says,
// if there is one: in the lab all machines have one kernel.
type steppedClock struct {
	announce.SystemClock
	file string
}

// Wall is announce.Clock's.
func (c steppedClock) Wall() time.Time {
	now := c.SystemClock.Wall()
	if c.file == "" {
		return now
	}
	text, err := os.ReadFile(c.file)
	if err != nil {
		return now // no test has begun
	}
	offset, err := time.ParseDuration(string(bytes.TrimSpace(text)))
	if err != nil {
		return now
	}
	// Without the monotonic reading, by which Go compares times rightly over a real
	// step: this is harder.
	return now.Round(0).Add(offset)
}
