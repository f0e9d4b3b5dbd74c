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
}

func newLogger(log *slog.Logger) *logger {
	return &logger{log: log, errors: map[string]string{}, downs: map[string]int{}}
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
	switch msg {
	case "Peer Down":
		why = fmt.Sprint("session ended: ", fields["Reason"])
	case "failed to connect":
		why = fmt.Sprint("cannot connect: ", fields["Error"])
	case "sent notification":
		why = fmt.Sprint("refused: ", fields["Data"])
	case "received notification":
		code, _ := fields["Code"].(uint8)
		subcode, _ := fields["Subcode"].(uint8)
		why = "the peer refused: " + packet.NewNotificationErrorCode(code, subcode).String()
	}
	if why == "" || peer == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[peer] = why
	if msg == "Peer Down" {
		l.downs[peer]++
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
}
