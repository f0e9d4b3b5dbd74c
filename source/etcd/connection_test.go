package etcd_test

import (
	"net"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/source/etcd"
)

// While the store is away, it is tried again at the pace it would be looked at,
// not ever more seldom: who comes back late finds its lease over.
func TestStoreIsTriedAtASteadyPace(t *testing.T) {
	t.Parallel()
	away, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	tries := make(chan time.Time, 1000)
	go func() {
		for {
			conn, err := away.Accept()
			if err != nil {
				return
			}
			conn.Close()
			tries <- time.Now()
		}
	}()
	startSource(t, etcd.Config{Endpoints: []string{away.Addr().String()}, CheckInterval: 50 * time.Millisecond})
	// At gRPC's own pace it would be half a dozen by then.
	deadline := time.After(15 * time.Second)
	for n := range 20 {
		select {
		case <-tries:
		case <-deadline:
			t.Fatalf("the store was tried %d times in 15 s", n)
		}
	}
}
