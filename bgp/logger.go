package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	gobgplog "github.com/osrg/gobgp/v3/pkg/log"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// logger takes what GoBGP logs, at a level below: what people are to know is in
// the rows. Why a session ended, GoBGP says in its log alone: that is kept.
type logger struct {
	log *slog.Logger

	mu     sync.Mutex
	errors map[string]string // by the peer's address
	downs  map[string]int    // how often its session ended that was established
	// told are peers of which a NOTIFICATION was told since the last change of state.
	told map[string]bool
}

func newLogger(log *slog.Logger) *logger {
	return &logger{log: log, errors: map[string]string{}, downs: map[string]int{}, told: map[string]bool{}}
}

var _ gobgplog.Logger = (*logger)(nil)

// Panic and the others are gobgplog.Logger's.
func (l *logger) Panic(msg string, fields gobgplog.Fields) {
	l.write(slog.LevelError, msg, fields)
	panic(msg)
}

// Fatal is said of what a library should not end a daemon for.
func (l *logger) Fatal(msg string, fields gobgplog.Fields) { l.write(slog.LevelError, msg, fields) }

func (l *logger) Error(msg string, fields gobgplog.Fields) { l.write(slog.LevelWarn, msg, fields) }

func (l *logger) Warn(msg string, fields gobgplog.Fields) { l.write(slog.LevelInfo, msg, fields) }

func (l *logger) Info(msg string, fields gobgplog.Fields) { l.write(slog.LevelDebug, msg, fields) }

func (l *logger) Debug(msg string, fields gobgplog.Fields) { l.write(slog.LevelDebug, msg, fields) }

// SetLevel and GetLevel: the level is slog's.
func (l *logger) SetLevel(gobgplog.LogLevel) {}

func (l *logger) GetLevel() gobgplog.LogLevel { return gobgplog.DebugLevel }

func (l *logger) write(level slog.Level, msg string, fields gobgplog.Fields) {
	l.note(msg, fields)
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]any, 0, 2*len(fields))
	for key, value := range fields {
		attrs = append(attrs, key, value)
	}
	l.log.Log(context.Background(), level, "gobgp: "+msg, attrs...)
}

// note keeps what says why a peer has no session.
func (l *logger) note(msg string, fields gobgplog.Fields) {
	peer, _ := fields["Key"].(string)
	why := ""
	l.mu.Lock()
	defer l.mu.Unlock()
	told := l.told[peer]
	switch msg {
	case "state changed":
		delete(l.told, peer)
		if from, to := fmt.Sprint(fields["old"]), fmt.Sprint(fields["new"]); !told && to == "BGP_FSM_IDLE" {
			why = whyNotEstablished(from)
		}
	case "Peer Down":
		why = whyDown(fmt.Sprint(fields["Reason"]))
		l.downs[peer]++
	case "failed to connect":
		err, _ := fields["Error"].(error)
		why = whyUnreachable(err)
	case "sent notification", "received notification":
		n := notification{}
		n.code, _ = fields["Code"].(uint8)
		n.subcode, _ = fields["Subcode"].(uint8)
		if e, ok := fields["Data"].(*packet.MessageError); ok {
			n = notification{e.TypeCode, e.SubTypeCode}
		}
		why = n.why(msg == "sent notification")
		l.told[peer] = true
	}
	if why != "" && peer != "" {
		l.errors[peer] = why
	}
}

// flaps is how often a session of the peer was established, and ended.
func (l *logger) flaps(peer string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.downs[peer]
}

func (l *logger) lastError(peer string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errors[peer]
}

func (l *logger) forget(peer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.errors, peer)
	delete(l.downs, peer)
	delete(l.told, peer)
}
