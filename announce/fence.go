package announce

import "time"

// fence decides until when the kernel may answer. It is pushed forward all the
// time the daemon lives, so that a daemon that dies or hangs goes silent by
// itself; also while the store is out of reach, for then nobody can move the
// addresses, and should somebody have, the claim on the wire mutes us.
//
// Once it has run out, as after a crash or a long pause, the addresses may be
// another's and the claim may have gone unheard. Then nothing is pushed until
// the lease was renewed and the store read, and holds since then: the daemon may
// have been kept from running once more.
type fence struct {
	duration time.Duration // that each push is good for
	until    time.Duration // of the last push
	lapsed   time.Duration // when until was found to be over; 0: it was not
}

// next returns the valid_until to push at now, which, like the other times, is
// of CLOCK_BOOTTIME. ok is false when nothing may be pushed. resumed says that
// the fence had lapsed: what the kernel holds must be compared with the store
// before the push. renewed is when the last successful renewal was begun,
// lastRead when the store was last read, and valid whether the lease is.
func (f *fence) next(now, renewed, lastRead time.Duration, valid bool) (until time.Duration, resumed, ok bool) {
	if f.lapsed == 0 && now >= f.until {
		f.lapsed = now
	}
	if f.lapsed != 0 && (!valid || renewed < f.lapsed || lastRead < f.lapsed) {
		return 0, false, false
	}
	return now + f.duration, f.lapsed != 0, true
}

// pushed records that the kernel has until.
func (f *fence) pushed(until time.Duration) { f.until, f.lapsed = until, 0 }
