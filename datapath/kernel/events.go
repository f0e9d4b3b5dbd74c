package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Event is one packet that was dropped, or traced.
type Event struct {
	At      time.Time
	Ifindex int
	Hook    string // as in Verdict
	Reason  string // as in Verdict
	Action  string // "pass", ActionDrop, "tx" or "redirect"
	// Length of the frame as it came in; Head is its beginning, as it was in the
	// end: without an outer header that was taken off, or with one put on.
	Length int
	Head   []byte
	// Of is the frontend of a traced packet, whose own addresses may have been
	// translated, and Proto its protocol; zero for what is only dropped.
	Of    netip.AddrPort
	Proto uint8
	// Lost is how many events the same watcher might have had between the one
	// before and this one, and that found no room.
	Lost uint64
}

// EventFilter says what is worth telling.
type EventFilter struct {
	// Drops: of every dropped packet, instead of all packets of traced frontends.
	Drops bool
	// Match chooses among what is told to anybody; nil: all of it. It is called
	// for every event, before any is queued, and has to be quick.
	Match func(Event) bool
}

const (
	// eventQueue is how many events wait for a slow watcher.
	eventQueue = 4096
	// At most eventBatch events are handed out in eventPace: a flood of drops is
	// lost, and counted, before it takes a CPU from the packets.
	eventBatch = 2048
	eventPace  = 100 * time.Millisecond
)

// events gives what is in the one ring to all who watch.
type events struct {
	mu       sync.Mutex
	watchers []*eventWatcher
	reader   *ringbuf.Reader // nil while nobody watches
	lost     uint32          // of the monitors row, as last seen
}

type eventWatcher struct {
	filter EventFilter
	since  uint64 // CLOCK_MONOTONIC, ns: what is in the ring from before is not for this one
	queue  chan Event
	lost   uint64 // not said yet
}

// WatchEvents returns the events that the filter lets through, from now until
// ctx ends. Many may watch at once. While nobody does, packets cost nothing for
// it. The channel is closed at the end, and when the events cannot be read any
// more, which is logged.
func (k *Kernel) WatchEvents(ctx context.Context, filter EventFilter) (<-chan Event, error) {
	w := &eventWatcher{filter: filter, since: monotonic(), queue: make(chan Event, eventQueue)}
	remove := func() {
		if err := k.removeWatcher(w); err != nil {
			k.cfg.Log.Warn("end watching events", "err", err)
		}
	}
	if err := k.addWatcher(w); err != nil {
		remove()
		return nil, fmt.Errorf("watch events: %w", err)
	}
	context.AfterFunc(ctx, remove)
	return w.queue, nil
}

func (k *Kernel) addWatcher(w *eventWatcher) error {
	k.events.mu.Lock()
	defer k.events.mu.Unlock()
	k.events.watchers = append(k.events.watchers, w)
	if k.events.reader == nil {
		reader, err := ringbuf.NewReader(k.maps[bpfMapEvents])
		if err != nil {
			return fmt.Errorf("open map events: %w", err)
		}
		k.events.reader = reader
		row, err := k.monitor()
		if err != nil {
			return err
		}
		k.events.lost = row.Lost
		go k.readEvents(reader)
	}
	return k.setMonitor()
}

// removeWatcher does nothing for one that is not there any more.
func (k *Kernel) removeWatcher(w *eventWatcher) error {
	k.events.mu.Lock()
	defer k.events.mu.Unlock()
	i := slices.Index(k.events.watchers, w)
	if i < 0 {
		return nil
	}
	defer close(w.queue) // when all else is done
	k.events.watchers = slices.Delete(k.events.watchers, i, i+1)
	err := k.setMonitor()
	if len(k.events.watchers) == 0 && k.events.reader != nil {
		err = errors.Join(err, k.events.reader.Close()) // and so ends readEvents
		k.events.reader = nil
	}
	return err
}

func (k *Kernel) monitor() (row bpfMonitor, err error) {
	if err := k.maps[bpfMapMonitors].Lookup(uint32(0), &row); err != nil {
		return row, fmt.Errorf("read map monitors: %w", err)
	}
	return row, nil
}

// setMonitor has the programs tell what is watched. Events lost between the
// reading and the writing here are not counted.
func (k *Kernel) setMonitor() error {
	row, err := k.monitor()
	if err != nil {
		return err
	}
	want := bpfMonitor{Lost: row.Lost}
	for _, w := range k.events.watchers {
		if w.filter.Drops {
			want.Drops = 1
		} else {
			want.Traces = 1
		}
	}
	if row == want {
		return nil
	}
	if err := k.maps[bpfMapMonitors].Update(uint32(0), want, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write map monitors: %w", err)
	}
	return nil
}

// unwatchEvents undoes what a daemon that died in the middle of it watched.
func (k *Kernel) unwatchEvents() error {
	k.events.mu.Lock()
	defer k.events.mu.Unlock()
	return k.setMonitor()
}

// readEvents hands out what the ring has until the reader is closed.
func (k *Kernel) readEvents(reader *ringbuf.Reader) {
	var record ringbuf.Record
	var raw bpfEvent
	began := time.Now()
	for n := 1; ; n++ {
		err := reader.ReadInto(&record)
		if err == nil {
			err = binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &raw)
		}
		if err != nil {
			k.endWatching(reader, err)
			return
		}
		// How many were lost is a system call away: it is asked for when the ring
		// is empty, and now and then when it never is.
		k.handOut(reader, &raw, record.Remaining == 0 || n%256 == 0)
		if n%eventBatch == 0 {
			time.Sleep(eventPace - time.Since(began))
			began = time.Now()
		}
	}
}

// endWatching lets those go who still watch, when the ring cannot be read.
func (k *Kernel) endWatching(reader *ringbuf.Reader, err error) {
	k.events.mu.Lock()
	defer k.events.mu.Unlock()
	if k.events.reader != reader {
		return // closed by the last watcher
	}
	k.cfg.Log.Warn("read events", "err", err)
	for _, w := range k.events.watchers {
		close(w.queue)
	}
	reader.Close()
	k.events.reader, k.events.watchers = nil, nil
	if err := k.setMonitor(); err != nil {
		k.cfg.Log.Warn("end watching events", "err", err)
	}
}

func (k *Kernel) handOut(reader *ringbuf.Reader, raw *bpfEvent, count bool) {
	k.events.mu.Lock()
	defer k.events.mu.Unlock()
	if k.events.reader != reader {
		return
	}
	if count {
		k.countLost()
	}
	e := k.event(raw)
	for _, w := range k.events.watchers {
		if raw.At < w.since || !w.filter.wants(e) {
			continue
		}
		e.Lost = w.lost
		select {
		case w.queue <- e:
			w.lost = 0
		default:
			w.lost++
		}
	}
}

// countLost adds what found no room in the ring to what each watcher has lost.
func (k *Kernel) countLost() {
	row, err := k.monitor()
	if err != nil {
		return // the next time
	}
	for _, w := range k.events.watchers {
		w.lost += uint64(row.Lost - k.events.lost)
	}
	k.events.lost = row.Lost
}

func (f EventFilter) wants(e Event) bool {
	return f.Match == nil || f.Match(e)
}

func (k *Kernel) event(raw *bpfEvent) Event {
	e := Event{
		At:      time.Now().Add(time.Duration(int64(raw.At) - int64(monotonic()))),
		Ifindex: int(raw.Ifindex),
		Hook:    "?",
		Reason:  "?",
		Action:  "?",
		Length:  int(raw.Length),
		Head:    bytes.Clone(raw.Head[:min(int(raw.Captured), len(raw.Head))]),
	}
	if raw.Of.Proto != 0 {
		e.Of, e.Proto = traced(raw.Of), raw.Of.Proto
	}
	if int(raw.Hook) < len(hooks) {
		e.Hook = hooks[raw.Hook]
	}
	if int(raw.Reason) < len(k.reasons) {
		e.Reason = k.reasons[raw.Reason]
	}
	if int(raw.Action) < len(actions) {
		e.Action = actions[raw.Action]
	}
	return e
}

// traced is the address and port of a traced packet's frontend.
func traced(of bpfTraced) netip.AddrPort {
	var addr [16]byte
	for i, word := range of.Addr {
		binary.NativeEndian.PutUint32(addr[4*i:], word)
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], of.Port)
	ip := netip.AddrFrom16(addr)
	if of.V6 == 0 {
		ip = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(port[:]))
}

// ActionDrop is the Action of a dropped packet.
const ActionDrop = "drop"

// actions are the names of enum action (bpf/ctx.h).
var actions = []string{"pass", ActionDrop, "tx", "redirect"}

// Reasons are the names of all the reasons that an Event can have, and whether
// packets are dropped for them.
func (k *Kernel) Reasons() map[string]bool {
	names := map[string]bool{}
	for r := bpfReasonREASON_UNSPEC + 1; r < bpfReasonREASON_MAX; r++ {
		names[k.reasons[r]] = drops(r)
	}
	return names
}

// monotonic is CLOCK_MONOTONIC, in ns.
func monotonic() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // only a wrong clock id fails
	}
	return uint64(now.Nano())
}
