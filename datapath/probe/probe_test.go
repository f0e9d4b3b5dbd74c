package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seamark-lb/seamark/state"
)

var service = state.ObjectName{Namespace: "default", Name: "files"}

func row(addr string, by state.ProbeKind) state.Probe {
	at := netip.MustParseAddrPort(addr)
	return state.Probe{Service: service, Addr: at.Addr(), Port: at.Port(),
		Probing: state.Probing{By: by, Path: "/", Interval: 5 * time.Second, Timeout: 2 * time.Second, Rise: 2, Fall: 3}}
}

func TestVerdict(t *testing.T) {
	for _, tc := range []struct{ results, want string }{ // + good, - bad; what is up after each
		{"+", "+"},
		{"-", "-"},
		{"+--+--+", "+++++++"},
		{"+---", "+++-"},
		{"---+-+-++", "--------+"},
		{"-++---", "--+++-"},
	} {
		v, got := verdict{rise: 2, fall: 3}, ""
		for i, result := range tc.results {
			was := got
			changed := v.take(result == '+')
			got += map[bool]string{true: "+", false: "-"}[v.up]
			if first := i == 0; changed != (first || got[i] != was[i-1]) {
				t.Errorf("%s: result %d: changed %v, verdicts %s", tc.results, i, changed, got)
			}
		}
		if got != tc.want {
			t.Errorf("%s: verdicts %s, want %s", tc.results, got, tc.want)
		}
	}
}

// bench is a Prober whose backends are up as the test says.
type bench struct {
	*Prober
	t *testing.T

	mu     sync.Mutex
	broken map[string]bool // by row key
	checks map[string][]time.Time
	hang   bool // until the check's time is over
	// flying are the checks in flight, most the most there were.
	flying, most atomic.Int32
}

func newBench(t *testing.T) *bench {
	db, w := state.New()
	b := &bench{Prober: New(db, w, slog.New(slog.DiscardHandler)), t: t, broken: map[string]bool{}, checks: map[string][]time.Time{}}
	b.check = b.answer
	return b
}

func (b *bench) answer(ctx context.Context, row state.Probe) error {
	b.most.Store(max(b.most.Load(), b.flying.Add(1)))
	defer b.flying.Add(-1)
	b.mu.Lock()
	key := row.RowKey()
	b.checks[key] = append(b.checks[key], time.Now())
	broken, hang := b.broken[key], b.hang
	b.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if broken {
		return errors.New("broken")
	}
	return nil
}

func (b *bench) breakDown(row state.Probe, broken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken[row.RowKey()] = broken
}

// health is what is known of the backend.
func (b *bench) health(row state.Probe) string {
	h, ok := b.db.BackendHealth.Get(b.db.Snapshot(), row.RowKey())
	switch {
	case !ok:
		return "unknown"
	case h.Up:
		return strings.TrimSpace("up " + h.Err)
	}
	return strings.TrimSpace("down " + h.Err)
}

func (b *bench) want(row state.Probe, want string) {
	b.t.Helper()
	synctest.Wait()
	if got := b.health(row); got != want {
		b.t.Errorf("%s is %s, want %s", row.RowKey(), got, want)
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestProber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.Close()
		good, bad := row("192.0.2.1:80", state.ProbeTCP), row("192.0.2.2:80", state.ProbeTCP)
		b.breakDown(bad, true)
		checked := func() bool { return state.Marked(b.db.Snapshot(), Checked) }
		b.must(b.Prune(t.Context(), []state.Probe{good, bad}))
		if checked() {
			t.Error("checked before anything was")
		}
		b.must(b.Update(t.Context(), good))
		synctest.Wait()
		if checked() {
			t.Error("checked while one backend is not")
		}
		b.must(b.Update(t.Context(), bad))
		b.want(good, "up")
		b.want(bad, "down broken") // the first result decides alone
		if !checked() {
			t.Error("not checked, and all were")
		}
		since := time.Now()

		b.breakDown(good, true)
		b.breakDown(bad, false)
		time.Sleep(6 * time.Second) // fake: at least one check, at most two
		b.want(good, "up broken")
		time.Sleep(12 * time.Second) // and three
		b.want(good, "down broken")
		b.want(bad, "up")
		if h, _ := b.db.BackendHealth.Get(b.db.Snapshot(), good.RowKey()); !h.Since.After(since) {
			t.Errorf("down since %v, which was before", h.Since)
		}

		// Another way to check keeps what is known: a change must not let in what is down.
		slower := good
		slower.Probing.Interval = time.Minute
		b.must(b.Update(t.Context(), slower))
		b.want(good, "down broken")
		b.breakDown(good, false)
		time.Sleep(3 * time.Minute)
		b.want(good, "up")

		b.must(b.Delete(t.Context(), bad))
		b.want(bad, "unknown")
		before := len(b.checks[bad.RowKey()])
		time.Sleep(time.Minute)
		if after := len(b.checks[bad.RowKey()]); after != before {
			t.Errorf("checked %d times since it was deleted", after-before)
		}
		b.must(b.Delete(t.Context(), bad))
		b.must(b.Prune(t.Context(), nil))
		b.want(good, "unknown")
		if len(b.probing) > 0 {
			t.Errorf("still checked: %v", b.probing)
		}
	})
}

// The result of a check that outlives its row is no word about it.
func TestLateResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.Close()
		b.hang = true
		r := row("192.0.2.1:80", state.ProbeTCP)
		b.must(b.Update(t.Context(), r))
		synctest.Wait()
		b.must(b.Delete(t.Context(), r))
		time.Sleep(time.Minute)
		b.want(r, "unknown")
		if n := len(b.checks[r.RowKey()]); n != 1 {
			t.Errorf("%d checks, want the one that was begun", n)
		}
	})
}

// Backends that are many, and slow to fail, keep nobody waiting for ever.
func TestFirstChecksTakeTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.Close()
		b.hang = true
		rows := thousand()
		for i := range rows {
			rows[i].Probing.Interval, rows[i].Probing.Timeout = time.Minute, 10*time.Second
		}
		b.probeAll(rows)
		for _, tc := range []struct {
			after time.Duration
			want  bool
		}{{firstWithin - time.Millisecond, false}, {2 * time.Millisecond, true}} {
			time.Sleep(tc.after)
			synctest.Wait()
			if got := state.Marked(b.db.Snapshot(), Checked); got != tc.want {
				t.Errorf("after %v more: %v, want %v", tc.after, got, tc.want)
			}
		}
	})
}

func TestNothingToCheck(t *testing.T) {
	b := newBench(t)
	defer b.Close()
	b.must(b.Prune(t.Context(), nil))
	if !state.Marked(b.db.Snapshot(), Checked) {
		t.Error("waits for checks of nothing")
	}
}

// thousand backends.
func thousand() (rows []state.Probe) {
	for i := range 1000 {
		rows = append(rows, row(fmt.Sprintf("10.0.%d.%d:80", i/250, i%250+1), state.ProbeTCP))
	}
	return rows
}

func (b *bench) probeAll(rows []state.Probe) {
	b.t.Helper()
	b.must(b.Prune(b.t.Context(), rows))
	for _, r := range rows {
		b.must(b.Update(b.t.Context(), r))
	}
}

// Backends that do not answer are checked a bounded number at a time.
func TestThousandDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.Close()
		b.hang = true
		b.probeAll(thousand())
		time.Sleep(8*time.Second + time.Millisecond) // four times 256 are more than 1,000
		synctest.Wait()
		if !state.Marked(b.db.Snapshot(), Checked) {
			t.Errorf("%d of 1000 are checked", len(b.db.BackendHealth.Rows(b.db.Snapshot())))
		}
		if most := b.most.Load(); most != maxAtOnce {
			t.Errorf("%d checks at once, want %d", most, maxAtOnce)
		}
	})
}

// Backends that came together are each checked as often as asked, and not in step.
func TestThousandAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.Close()
		rows := thousand()
		b.probeAll(rows)
		synctest.Wait()
		start := time.Now().Add(time.Second) // after the first checks
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		b.mu.Lock()
		defer b.mu.Unlock()
		bySecond := make([]int, 60)
		for _, r := range rows {
			n := 0
			for _, at := range b.checks[r.RowKey()] {
				if second := int(at.Sub(start).Seconds()); !at.Before(start) && second < len(bySecond) {
					bySecond[second]++
					n++
				}
			}
			if n < 10 || n > 14 { // 60 s, 5 s each, give or take a tenth
				t.Fatalf("%s was checked %d times in a minute", r.RowKey(), n)
			}
		}
		if most := slices.Max(bySecond); most > 300 { // a fifth of 1,000 are 200
			t.Errorf("%d checks in one second: %v", most, bySecond)
		}
	})
}

// server answers HTTP, and returns its address.
func server(t *testing.T, handler http.HandlerFunc) string {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestCheck(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	var elsewhere atomic.Bool
	other := server(t, func(http.ResponseWriter, *http.Request) { elsewhere.Store(true) })
	web := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			if r.URL.RawQuery != "a=b" || r.Header.Get("User-Agent") != "seamark" || r.Method != http.MethodGet {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/moved":
			http.Redirect(w, r, "http://"+other+"/", http.StatusFound)
		case "/huge":
			w.Header().Set("X-Huge", strings.Repeat("x", 2*maxHeader))
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	})
	rude := rudeServer(t, "SSH-2.0-OpenSSH\r\n")
	for _, tc := range []struct {
		by       state.ProbeKind
		at, path string
		want     string // in the error; "" none
	}{
		{state.ProbeTCP, web, "", ""},
		{state.ProbeTCP, mute.Addr().String(), "", ""},
		{state.ProbeTCP, closed.Addr().String(), "", "connection refused"},
		{state.ProbeHTTP, web, "/healthz?a=b", ""},
		{state.ProbeHTTP, web, "/moved", ""},
		{state.ProbeHTTP, web, "/endless", ""},
		{state.ProbeHTTP, web, "/none", "HTTP status 404"},
		{state.ProbeHTTP, web, "/huge", "headers exceeded"},
		{state.ProbeHTTP, rude, "/", "malformed HTTP"},
		{state.ProbeHTTP, closed.Addr().String(), "/", "connection refused"},
		{state.ProbeHTTP, mute.Addr().String(), "/", "no answer within 300ms"},
	} {
		r := row(tc.at, tc.by)
		r.Probing.Path, r.Probing.Timeout = tc.path, 30*time.Second
		if strings.Contains(tc.want, "300ms") {
			r.Probing.Timeout = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), r.Probing.Timeout)
		err := newChecker().check(ctx, r)
		cancel()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s %s%s: %v, want %q", tc.by, tc.at, tc.path, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%q names ports that are others each time", err)
		}
	}
	if elsewhere.Load() {
		t.Error("a redirect was followed")
	}
}

// rudeServer says the same to everybody.
func rudeServer(t *testing.T, what string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, what)
			conn.Close()
		}
	}()
	return l.Addr().String()
}
