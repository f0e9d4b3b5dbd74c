package bgp

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// logger takes what GoBGP logs, at a level below: what people are to know is in
// the rows. Why a session ended, GoBGP says in its log alone: that is kept.
type logger struct {
	log *slog.Logger

	mu     sync.Mutex
	errors map[string]trouble // by the peer's address
	downs  map[string]int     // how often its session ended that was established
	// told are peers of which a NOTIFICATION was told since the last change of state.
	told map[string]bool
}

// trouble is why a peer had no session, and when.
type trouble struct {
	why string
	at  time.Time
}

func newLogger(log *slog.Logger) *logger {
	return &logger{log: log, errors: map[string]trouble{}, downs: map[string]int{}, told: map[string]bool{}}
}

// server is the log as GoBGP gets it.
func (l *logger) server() *slog.Logger { return slog.New(handler{logger: l}) }

// handler is what GoBGP writes to, with the attributes that all records have: its
// loggers of peers have the peer's address among them.
type handler struct {
	*logger
	attrs []slog.Attr
}

// Enabled says yes to each level: what is kept is said at the lowest, too.
func (h handler) Enabled(context.Context, slog.Level) bool { return true }

// Handle keeps what the record says of a peer, and passes it on.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.note(r.Message, h.values(r))
	level := slog.LevelDebug
	switch {
	case r.Level >= slog.LevelError:
		level = slog.LevelWarn
	case r.Level >= slog.LevelWarn:
		level = slog.LevelInfo
	}
	if !h.log.Enabled(ctx, level) {
		return nil
	}
	attrs := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	h.log.LogAttrs(ctx, level, "gobgp: "+r.Message, attrs...)
	return nil
}

// WithAttrs adds to those that all records have.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.logger, slices.Concat(h.attrs, attrs)}
}

// WithGroup leaves the group out: GoBGP makes none.
func (h handler) WithGroup(string) slog.Handler { return h }

// values are the attributes of a record by their names.
func (h handler) values(r slog.Record) func(name string) slog.Value {
	return func(name string) (value slog.Value) {
		for _, a := range h.attrs {
			if a.Key == name {
				value = a.Value
			}
		}
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == name {
				value = a.Value
			}
			return a.Key != name
		})
		return value
	}
}

// note keeps what says why a peer has no session.
func (l *logger) note(msg string, value func(name string) slog.Value) {
	peer := ""
	if k := value("Key"); k.Kind() == slog.KindString {
		peer = k.String()
	}
	if peer == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	why := ""
	told := l.told[peer]
	switch msg {
	case "state changed":
		delete(l.told, peer)
		if from := value("old").String(); !told && value("new").String() == "BGP_FSM_IDLE" {
			why = whyNotEstablished(from)
		}
	case "Peer Up":
		if l.errors[peer].why == refusedEarly { // by the other of two connections that were made at once
			delete(l.errors, peer)
		}
	case "Peer Down":
		if !told { // else that says more
			why = whyDown(value("Reason").String())
		}
		l.downs[peer]++
	case "failed to connect":
		why = whyUnreachable(value("Error").String())
	case "outgoing connection IO error":
		why = refusedEarly
	case "sent notification", "received notification":
		n := notification{codeOf(value("Code")), codeOf(value("Subcode"))}
		sent := msg == "sent notification"
		if sent && n == unexpectedInOpenSent {
			if value("State").String() == "BGP_FSM_ESTABLISHED" {
				return // on the other of two connections that were made at once
			}
			why = refusedEarly
		} else {
			why = n.why(sent)
		}
		l.told[peer] = true
	}
	if why != "" {
		l.errors[peer] = trouble{why, time.Now()}
	}
}

// codeOf is a code of a NOTIFICATION; 0: it is none.
func codeOf(v slog.Value) uint8 {
	if v.Kind() != slog.KindInt64 {
		return 0
	}
	return uint8(v.Int64())
}

// flaps is how often a session of the peer was established, and ended.
func (l *logger) flaps(peer string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.downs[peer]
}

func (l *logger) lastError(peer string) (why string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errors[peer].why, l.errors[peer].at
}

func (l *logger) forget(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.errors, peer)
	delete(l.downs, peer)
	delete(l.told, peer)
}
