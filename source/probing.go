package source

import (
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/seamark-lb/seamark/state"
)

// What checks are like that the Service says no more of.
const (
	probeInterval = 5 * time.Second
	probeTimeout  = 2 * time.Second
	probeCount    = 3
)

// Bounds of what it can say.
const (
	minProbeInterval, maxProbeInterval = time.Second, time.Hour
	// A check that waits keeps others waiting (probe.Prober makes so many at once).
	minProbeTimeout, maxProbeTimeout = 10 * time.Millisecond, 10 * time.Second
	maxProbeCount                    = 100
	maxProbePath                     = 2048 // bytes
)

// probing reads how the backends outside the cluster are checked. With a
// Problem, what it returns is Invalid, and has the defaults of what is wrong.
func probing(s foreign.ServiceSettings) (state.Probing, Problems) {
	var wrong Problems
	const none state.ProbeKind = "none"
	by := none
	if s.HealthCheck.Value != "" {
		choose(&wrong, s.HealthCheck, &by, state.ProbeTCP, state.ProbeHTTP, none)
	}
	p := state.Probing{By: by, Path: probePath(&wrong, s.HealthCheckPath),
		Port:     uint16(numberOf(&wrong, s.HealthCheckPort, 0, 65535)),
		Interval: durationOf(&wrong, s.HealthCheckInterval, probeInterval, minProbeInterval, maxProbeInterval),
		Rise:     numberOf(&wrong, s.HealthCheckRise, probeCount, maxProbeCount),
		Fall:     numberOf(&wrong, s.HealthCheckFall, probeCount, maxProbeCount)}
	p.Timeout = durationOf(&wrong, s.HealthCheckTimeout, min(probeTimeout, p.Interval), minProbeTimeout, min(maxProbeTimeout, p.Interval))
	if p.Invalid = len(wrong) > 0; by == none {
		p = state.Probing{Invalid: p.Invalid}
	}
	if by != state.ProbeHTTP {
		p.Path = ""
	}
	return p, wrong
}

// probePath is what is asked for, / unless something else is written.
func probePath(wrong *Problems, s foreign.Setting) string {
	if s.Value == "" {
		return "/"
	}
	u, err := url.ParseRequestURI(s.Value)
	if err != nil || !strings.HasPrefix(s.Value, "/") || u.Host != "" || len(s.Value) > maxProbePath {
		wrong.add(s.Field(), "write a path such as /healthz", "%q is no path", s.Value)
		return "/"
	}
	return s.Value
}

// numberOf reads a number from 1 to most.
func numberOf(wrong *Problems, s foreign.Setting, unset, most int) int {
	if s.Value == "" {
		return unset
	}
	n, err := strconv.Atoi(s.Value)
	if err != nil || n < 1 || n > most {
		wrong.add(s.Field(), "write a number from 1 to "+strconv.Itoa(most), "%q is no such number", s.Value)
		return unset
	}
	return n
}

// durationOf reads a duration from least to most.
func durationOf(wrong *Problems, s foreign.Setting, unset, least, most time.Duration) time.Duration {
	if s.Value == "" {
		return unset
	}
	d, err := time.ParseDuration(s.Value)
	if err != nil || d < least || d > most {
		wrong.add(s.Field(), "write a time such as "+unset.String()+", from "+least.String()+" to "+most.String(), "%q is no such time", s.Value)
		return unset
	}
	return d
}
