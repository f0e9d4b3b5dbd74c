package bgp

import "time"

// What RFC 4861 §6.2.1 and §10 leave to a router, and what they bound.
const (
	// maxAdvertInterval and minAdvertInterval are between router advertisements that
	// nobody asked for: those of the RFC are for default routers, and may be longer.
	maxAdvertInterval = 10 * time.Second
	minAdvertInterval = maxAdvertInterval / 3
	// initialAdverts follow one another as fast as they may: one of them may be lost.
	initialAdverts = 3
	// minBetweenAdverts is what multicast advertisements keep from one another, asked for or not.
	minBetweenAdverts = 3 * time.Second
	// maxAdvertDelay is how long an answer to a solicitation waits at most, so that
	// those of several routers do not come at once.
	maxAdvertDelay = 500 * time.Millisecond
)

// advertPace is when router advertisements are sent. It is pure: the time is an
// argument, and so is the chance, from 0 to 1.
type advertPace struct {
	// next is when one is due.
	next time.Time
	last time.Time
	sent int
}

// advertised says that one was sent.
func (p *advertPace) advertised(now time.Time, chance float64) {
	p.last = now
	p.sent++
	wait := minBetweenAdverts
	if p.sent >= initialAdverts {
		wait = minAdvertInterval + time.Duration(chance*float64(maxAdvertInterval-minAdvertInterval))
	}
	p.next = now.Add(wait)
}

// solicited says that someone asked for one: all who did get the same one (RFC 4861 §6.2.6).
func (p *advertPace) solicited(now time.Time, chance float64) {
	answer := now.Add(time.Duration(chance * float64(maxAdvertDelay)))
	if earliest := p.last.Add(minBetweenAdverts); answer.Before(earliest) {
		answer = earliest
	}
	if answer.Before(p.next) {
		p.next = answer
	}
}
