package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
)

// tableSizes are what a Maglev table's size may be fixed to.
var tableSizes = []uint64{251, 1021, 4093, 10007, 16381, 65521, 131071}

// Seconds that a client may be kept with its backend, and the default of
// spec.sessionAffinityConfig (API reference).
const (
	maxAffinity     = 86400
	defaultAffinity = corev1.DefaultClientIPServiceAffinitySeconds
)

// setBalancing fills in how the Service's packets are balanced and forwarded.
func setBalancing(row *state.Service, s *corev1.Service, settings foreign.ServiceSettings) Problems {
	var wrong Problems
	row.Affinity = affinity(&wrong, s)
	setSourceRanges(row, &wrong, s)
	if set := settings.Forwarding; set.Value != "" {
		if choose(&wrong, set, &row.Forwarding, state.ForwardDSR, state.ForwardSNAT, state.ForwardHybrid, state.ForwardKubeProxy) {
			row.ForwardingField = set.Field()
		}
	}
	if set := settings.Dispatch; set.Value != "" {
		if choose(&wrong, set, &row.Dispatch, state.DispatchIPIP, state.DispatchGeneve) {
			row.DispatchField = set.Field()
		}
	}
	if set := settings.Unserved; set.Value != "" {
		choose(&wrong, set, &row.Unserved, state.UnservedDrop, state.UnservedRefuse)
	}
	if set := settings.TableSize; set.Value != "" {
		size, err := strconv.ParseUint(set.Value, 10, 32)
		if err != nil || !slices.Contains(tableSizes, size) {
			wrong.add(set.Field(), "write one of "+strings.Trim(fmt.Sprint(tableSizes), "[]"), "%q is no size of a table", set.Value)
		} else {
			row.TableSize = uint32(size)
		}
	}
	var unchecked Problems
	row.Probing, unchecked = probing(settings)
	return append(wrong, unchecked...)
}

// choose sets to to the setting's value, if that is one of those allowed.
func choose[S ~string](wrong *Problems, set foreign.Setting, to *S, allowed ...S) bool {
	if !slices.Contains(allowed, S(set.Value)) {
		oneOf(wrong, set.Field(), S(set.Value), allowed...)
		return false
	}
	*to = S(set.Value)
	return true
}

// affinity is how long a client keeps its backend.
func affinity(wrong *Problems, s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(defaultAffinity)
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	if seconds < 1 || seconds > maxAffinity {
		wrong.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds", fmt.Sprintf("write seconds from 1 to %d", maxAffinity), "%d is no such time", seconds)
		seconds = defaultAffinity
	}
	return time.Duration(seconds) * time.Second
}

// setSourceRanges reads the clients that are let in: those of the spec or, when
// that has none, of the annotation (API reference). Where something is written
// and all of it is wrong, nobody is.
func setSourceRanges(row *state.Service, wrong *Problems, s *corev1.Service) {
	const annotation = corev1.AnnotationLoadBalancerSourceRangesKey
	var texts, fields []string
	if ranges := s.Spec.LoadBalancerSourceRanges; len(ranges) > 0 {
		texts, row.SourceRangesField = ranges, "spec.loadBalancerSourceRanges"
		for i := range ranges {
			fields = append(fields, fmt.Sprintf("%s[%d]", row.SourceRangesField, i))
		}
	} else if text := strings.TrimSpace(s.Annotations[annotation]); text != "" {
		texts, row.SourceRangesField = strings.Split(text, ","), "metadata.annotations["+annotation+"]"
		fields = slices.Repeat([]string{row.SourceRangesField}, len(texts))
	} else {
		return
	}
	row.SourceRanges = []netip.Prefix{}
	for i, text := range texts {
		text = strings.TrimSpace(text)
		if p, err := netip.ParsePrefix(text); err == nil && !p.Addr().Is4In6() {
			row.SourceRanges = append(row.SourceRanges, p.Masked())
		} else {
			checkPrefix(wrong, fields[i], text)
		}
	}
	slices.SortFunc(row.SourceRanges, netip.Prefix.Compare)
	row.SourceRanges = slices.Compact(row.SourceRanges)
}
