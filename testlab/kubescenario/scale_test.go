package kubescenario

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// manyAddresses is a pool of 4,096 that belong to no subnet of the lab, and a
// policy for the nodes of the segment that the router looks at.
const manyAddresses = `
apiVersion: seamark.dev/v1alpha1
kind: IPPool
metadata: {name: many}
spec: {blocks: [{cidr: 10.50.0.0/20}]}
---
apiVersion: seamark.dev/v1alpha1
kind: L2Policy
metadata: {name: front}
spec:
  interfaces: [^eth1$]
  loadBalancerIPs: true
  nodeSelector:
    matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [k8s-ctr, k8s-w1]}]
`

// The Services of the two measurements.
const (
	few  = 10
	many = 1000
)

// idleFor is how long the requests of an idle cluster are counted.
const idleFor = 20 * time.Second

// TestScale: a thousand Services at once, and what they cost when nothing
// happens. It is alone on the machine.
func TestScale(t *testing.T) {
	l := up(t, testlab.Config{})
	client, err := kubernetes.NewForConfig(l.rest())
	l.must(err)
	before := map[string][]string{}
	for _, node := range nodes {
		l.eventually(node+" serves the cluster's own Service", func() error {
			frontends, err := l.frontends(node)
			if before[node] = frontends; err == nil && len(frontends) == 0 {
				err = errors.New("no frontend yet")
			}
			return err
		})
	}
	l.apply(manyAddresses)
	l.run(router, "ip", "route", "add", "10.50.0.0/20", "dev", "eth1")

	l.create(client, 0, few)
	l.addressed(client, few)
	l.announced(client, few)
	idleFew := l.idle(client)

	begin := time.Now()
	l.create(client, few, few+many)
	created := time.Since(begin)
	addresses := l.addressed(client, few+many)
	addressed := time.Since(begin)
	l.announced(client, few+many)
	announced := time.Since(begin)
	l.sample(addresses)
	idleMany := l.idle(client)

	t.Logf("%d Services at once: created after %s, all addressed after %s, all announced after %s",
		many, ms(created), ms(addressed), ms(announced))
	t.Logf("requests per second to an idle API server, of one daemon of %d\n%20s %10s %10s\n%20s %10.2f %10.2f\n%20s %10.2f %10.2f\n%20s %10.2f %10.2f",
		len(nodes), "Services", fmt.Sprint(few), fmt.Sprint(few+many),
		"by its metric, all", idleFew.perDaemon(idleFew.all), idleMany.perDaemon(idleMany.all),
		"but leases", idleFew.perDaemon(idleFew.others), idleMany.perDaemon(idleMany.others),
		"as daemons count", idleFew.perDaemon(idleFew.counted), idleMany.perDaemon(idleMany.counted))
	// What a daemon compares with the API server now and then may fall into one
	// measurement and not into the other, as may what controllers do.
	if idleMany.others > idleFew.others+20 {
		t.Errorf("but for leases, %v requests in %v with %d Services, %v with %d: %v, before %v",
			idleMany.others, idleFor, few+many, idleFew.others, few, idleMany.by, idleFew.by)
	}
	if idleMany.counted > 1.3*idleFew.counted+10 {
		t.Errorf("daemons sent %v requests in %v with %d Services, %v with %d", idleMany.counted, idleFor, few+many, idleFew.counted, few)
	}

	begin = time.Now()
	l.parallel(few+many, func(ctx context.Context, i int) error {
		return client.CoreV1().Services("default").Delete(ctx, scaleName(i), metav1.DeleteOptions{})
	})
	deleted := time.Since(begin)
	l.available("many", "4096")
	l.announced(client, 0)
	for _, node := range nodes {
		l.eventually(node+" serves what it did before, and nothing else", func() error {
			frontends, err := l.frontends(node)
			if err == nil && !slices.Equal(frontends, before[node]) {
				err = fmt.Errorf("%d rows, %d before", len(frontends), len(before[node]))
			}
			return err
		})
	}
	t.Logf("%d Services deleted after %s, nothing of them left after %s", few+many, ms(deleted), ms(time.Since(begin)))
}

func scaleName(i int) string { return fmt.Sprintf("scale-%04d", i) }

// parallel does something n times, in the order of a busy cluster.
func (l lab) parallel(n int, do func(ctx context.Context, i int) error) {
	l.t.Helper()
	group, ctx := errgroup.WithContext(l.t.Context())
	group.SetLimit(32)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	l.must(group.Wait())
}

// create creates the Services from..to-1.
func (l lab) create(client kubernetes.Interface, from, to int) {
	l.t.Helper()
	noPorts := false
	l.parallel(to-from, func(ctx context.Context, i int) error {
		_, err := client.CoreV1().Services("default").Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: scaleName(from + i)},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": "webpod"},
				Ports:                         []corev1.ServicePort{{Name: "http", Port: 80}},
				AllocateLoadBalancerNodePorts: &noPorts,
			}}, metav1.CreateOptions{})
		return err
	})
}

// addressed waits until n Services have an address, each its own, and returns
// them by Service.
func (l lab) addressed(client kubernetes.Interface, n int) map[string]string {
	l.t.Helper()
	var of map[string]string
	l.eventually(fmt.Sprintf("%d Services have an address", n), func() error {
		list, err := client.CoreV1().Services("default").List(l.t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		of = map[string]string{}
		has := map[string]bool{}
		for _, s := range list.Items {
			if in := s.Status.LoadBalancer.Ingress; len(in) == 1 && strings.HasPrefix(s.Name, "scale-") {
				of[s.Name], has[in[0].IP] = in[0].IP, true
			}
		}
		if len(has) != len(of) {
			l.t.Fatalf("%d Services have %d addresses", len(of), len(has))
		}
		if len(of) != n {
			return fmt.Errorf("%d have", len(of))
		}
		return nil
	})
	return of
}

// announced waits until the AnnouncementSlices name a node for n addresses, and
// those nodes' kernels answer for all of them.
func (l lab) announced(client kubernetes.Interface, n int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%d addresses are announced", n), func() error {
		var slices struct {
			Items []struct {
				Announcements []struct{ Node string }
			}
		}
		data, err := client.Discovery().RESTClient().Get().AbsPath("/apis/seamark.dev/v1alpha1/announcementslices").DoRaw(l.t.Context())
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &slices); err != nil {
			return err
		}
		placed := map[string]int{}
		for _, slice := range slices.Items {
			for _, a := range slice.Announcements {
				placed[a.Node]++
			}
		}
		if placed[ctr]+placed[w1] != n || len(placed) > 2 {
			return fmt.Errorf("by the slices: %v", placed)
		}
		for _, node := range []string{ctr, w1} {
			dump, err := l.try(node, "seamark", "bpf", "lb", "list")
			if err != nil {
				return err
			}
			if held := strings.Count("\n"+dump, "\nannounced "); held != placed[node] {
				return fmt.Errorf("%s's kernel answers for %d of %d", node, held, placed[node])
			}
		}
		return nil
	})
}

// sample looks at some of the addresses from the router.
func (l lab) sample(addresses map[string]string) {
	l.t.Helper()
	names := slices.Sorted(maps.Keys(addresses))
	for i := 0; i < len(names); i += len(names) / 10 {
		address := addresses[names[i]]
		node, err := l.tryHolder(ctr, address)
		l.must(err)
		r := l.askedFor(address, 200*time.Millisecond)
		if len(r.Holders) != 1 || r.Holders[0].MAC != l.mac(node) || len(r.Doubles) > 0 {
			l.t.Errorf("ARP for %s of %s, announced by %s: %s", address, names[i], node, r)
		}
		l.answersAt(address)
	}
}

// idleLoad is what an API server was asked while nothing happened.
type idleLoad struct {
	all     float64 // requests by its own count, whoever sent them
	others  float64 // but those for leases
	by      map[string]float64
	counted float64 // requests by the daemons' count
}

func (idleLoad) perDaemon(requests float64) float64 {
	return requests / idleFor.Seconds() / float64(len(nodes))
}

// idle waits until nobody writes anything but leases, and counts for a while.
func (l lab) idle(client kubernetes.Interface) idleLoad {
	l.t.Helper()
	count := func(d time.Duration) map[string]float64 {
		l.t.Helper()
		before, err := requests(l.t.Context(), client)
		l.must(err)
		select {
		case <-time.After(d): // it is this time that is measured
		case <-l.t.Context().Done():
		}
		now, err := requests(l.t.Context(), client)
		l.must(err)
		for what := range now {
			if now[what] -= before[what]; now[what] == 0 {
				delete(now, what)
			}
		}
		return now
	}
	l.eventually("nothing happens", func() error {
		for what, n := range count(3 * time.Second) {
			verb, resource, _ := strings.Cut(what, " ")
			if resource != leases && slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}, verb) {
				return fmt.Errorf("%v times %s", n, what)
			}
		}
		return nil
	})
	sent := func() (sum float64) {
		for _, node := range nodes {
			sum += float64(l.status(node).Store.Requests)
		}
		return sum
	}
	load := idleLoad{}
	before := sent()
	load.by = count(idleFor)
	load.counted = sent() - before
	for what, n := range load.by {
		load.all += n
		if !strings.HasSuffix(what, " "+leases) {
			load.others += n
		}
	}
	if load.all == 0 || load.counted == 0 {
		l.t.Errorf("nothing was counted, not even leases: %+v", load)
	}
	return load
}

// leases as requests names them.
const leases = "leases.coordination.k8s.io"

// requests are how many the API server has answered so far, by verb and
// resource. The question for them is left out.
func requests(ctx context.Context, client kubernetes.Interface) (map[string]float64, error) {
	data, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	all := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, len(data)+1)
	for lines.Scan() {
		labels, ok := strings.CutPrefix(lines.Text(), "apiserver_request_total{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics: %w", err)
		}
		of := map[string]string{}
		for label := range strings.SplitSeq(labels, ",") {
			name, quoted, _ := strings.Cut(label, "=")
			of[name] = strings.Trim(quoted, `"`)
		}
		if of["subresource"] == "/metrics" {
			continue
		}
		all[of["verb"]+" "+strings.TrimSuffix(of["resource"]+"."+of["group"], ".")] += n
	}
	if len(all) == 0 {
		return nil, errors.New("read metrics: no apiserver_request_total")
	}
	return all, nil
}

// frontends are what a node's kernel serves, and announces.
func (l lab) frontends(node string) ([]string, error) {
	dump, err := l.try(node, "seamark", "bpf", "lb", "list")
	var all []string
	for line := range strings.Lines(dump) {
		if f := strings.Fields(line); f[0] == "frontend" || f[0] == "announced" {
			all = append(all, f[0]+" "+f[1])
		}
	}
	return all, err
}
