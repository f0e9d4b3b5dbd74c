package collect

// pairs are translated flows, each of which has an entry in two maps.
type pairs[K comparable, V any] struct {
	out, in         Map[K, V]
	ofOut, ofAnswer func(K, V) Entry
	// other is the key of a flow in the one map, by its entry in the other.
	other func(K, V) K
}

// NewNAT returns the two tables of translated flows. ofOut and ofAnswer are of
// an entry of out and of in; only the latter says whether both sides have
// spoken, and so what the flow is to be counted for. other is the key that a flow
// has in the one map, by its entry in the other: what a packet becomes, turned
// around.
//
// A flow is over when it is in both directions. It goes from out first, and its
// port is free when it has gone from in, too: a packet of the client's that
// comes in between begins anew, with another port. The other way round, it
// would still be sent from a port that may be another flow's by then.
func NewNAT[K comparable, V any](out, in string, size Size, outs, ins Map[K, V], ofOut, ofAnswer func(K, V) Entry, other func(K, V) K) []Table {
	p := pairs[K, V]{outs, ins, ofOut, ofAnswer, other}
	return []Table{
		natOut[K, V]{profile{name: out, size: size, ports: true}, p},
		natIn[K, V]{profile{name: in, size: size, ports: true}, p},
	}
}

type natOut[K comparable, V any] struct {
	profile
	pairs[K, V]
}

func (t natOut[K, V]) walk(w *walk) error {
	return each(w, t.out, func(k K, v V) error {
		if e := t.ofOut(k, v); !w.over(e) {
			w.alive(e)
			return nil
		}
		v, ok, err := t.out.Lookup(k)
		if !ok || err != nil {
			return err
		}
		e, back := t.ofOut(k, v), t.other(k, v)
		answer, answered, err := t.in.Lookup(back)
		if err != nil {
			return err
		}
		// A port that is another flow's by now says nothing about this one.
		if answered = answered && t.other(back, answer) == k; answered {
			e = both(e, t.ofAnswer(back, answer))
		}
		if !w.over(e) {
			w.alive(e)
			return nil
		}
		if err := w.remove(t.out.Delete(k)); err != nil || !answered {
			return err
		}
		return t.in.Delete(back)
	})
}

// both is a flow by what is known of each of its directions: both sides have to
// have spoken, and each may end it. It is no flow to be counted: its answers are.
func both(out, in Entry) Entry {
	if Idle(in.Seen, out.Seen) == 0 {
		out.Seen = in.Seen
	}
	out.Replied = out.Replied && in.Replied
	out.Closing = out.Closing || in.Closing
	return out
}

// natIn walks the answers. What belongs to a flow goes with it; what does not
// was left by a program or a daemon that ended half-way.
type natIn[K comparable, V any] struct {
	profile
	pairs[K, V]
}

func (t natIn[K, V]) walk(w *walk) error {
	return each(w, t.in, func(k K, v V) error {
		e := t.ofAnswer(k, v)
		if !w.over(e) {
			w.alive(e)
			return nil
		}
		v, ok, err := t.in.Lookup(k)
		if !ok || err != nil {
			return err
		}
		flow := t.other(k, v)
		out, belongs, err := t.out.Lookup(flow)
		if err != nil {
			return err
		}
		if belongs = belongs && t.other(flow, out) == k; belongs || !w.over(t.ofAnswer(k, v)) {
			w.alive(t.ofAnswer(k, v))
			return nil
		}
		return w.remove(t.in.Delete(k))
	})
}
