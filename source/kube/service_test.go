package kube_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/conformance"
	"github.com/seamark-lb/seamark/source/kube"
	"github.com/seamark-lb/seamark/state"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// cleanup is the finalizer of KEP-980.
const cleanup = "service.kubernetes.io/load-balancer-cleanup"

const webManifest = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, finalizers: [service.kubernetes.io/load-balancer-cleanup]}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]}
`

// webService is the Service web, and the source that looks after it.
type webService struct {
	*testing.T
	*cluster
	src *kube.Source
	db  *state.DB
}

// row gives the Service that address.
func (w webService) row(svc *unstructured.Unstructured, addr string) state.Allocation {
	return state.Allocation{Service: state.ObjectName{Namespace: "default", Name: "web"}, UID: string(svc.GetUID()),
		Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Pools: []string{"blue"}, Reason: state.ReasonSatisfied}
}

func (w webService) update(row state.Allocation) {
	w.Helper()
	if err := w.src.Allocations().Update(w.Context(), row); err != nil {
		w.Fatal(err)
	}
}

func (w webService) delete(row state.Allocation) {
	w.Helper()
	if err := w.src.Allocations().Delete(w.Context(), row); err != nil {
		w.Fatal(err)
	}
}

// shows waits until the table has the Service with those addresses.
func (w webService) shows(addrs ...string) {
	w.Helper()
	conformance.Wait(w.T, w.db, fmt.Sprintf("the service with %v", addrs), func(snap state.Snapshot) bool {
		svc, ok := w.db.Services.Get(snap, "default/web")
		return ok && slices.EqualFunc(svc.Ingress, addrs, func(a netip.Addr, b string) bool { return a.String() == b })
	})
}

// now is the Service as the API server has it.
func (w webService) now() *unstructured.Unstructured {
	w.Helper()
	svc, err := w.Get(w.Context(), source.KindService(), "default", "web")
	if err != nil {
		w.Fatal(err)
	}
	return svc
}

// clean says whether the Service carries nothing of a load balancer's.
func (w webService) clean() bool {
	svc := w.now()
	return len(source.IngressOf(svc))+len(source.ConditionsOf(svc))+len(svc.GetFinalizers()) == 0
}

func (w webService) setType(kind string) {
	w.Helper()
	w.patch("kubectl", fmt.Sprintf(`{"spec":{"type":%q}}`, kind))
}

func (w webService) patch(manager, patch string, subresource ...string) {
	w.Helper()
	_, err := w.of(source.KindService(), "default").Patch(w.Context(), "web", types.MergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: manager}, subresource...)
	if err != nil {
		w.Fatal(err)
	}
}

// The life of a Service: it gets an address, stops being balanced, is again,
// and is deleted.
func TestLifeOfService(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	w := webService{t, c, src, db}
	svc := c.mustCreate(t, webManifest)[0]
	row := w.row(svc, "192.168.10.211")
	w.update(row)
	w.shows("192.168.10.211")
	if port, there, _ := unstructured.NestedFieldNoCopy(w.now().Object, "spec", "ports"); !there || strings.Contains(fmt.Sprint(port), "nodePort") {
		t.Errorf("the ports %v have a NodePort that nobody wanted", port)
	}

	w.setType("ClusterIP")
	w.delete(row)
	if !w.clean() {
		t.Errorf("no longer balanced, it carries %v %v", w.now().Object["status"], w.now().GetFinalizers())
	}
	w.patch("kubectl", `{"metadata":{"finalizers":["`+cleanup+`"]},"spec":{"type":"LoadBalancer"}}`)
	w.update(row)
	w.shows("192.168.10.211")

	// The finalizer keeps it until its address has been taken back.
	if err := c.Delete(t.Context(), source.KindService(), "default", "web"); err != nil {
		t.Fatal(err)
	}
	gone := func(db *state.DB) {
		t.Helper()
		conformance.Wait(t, db, "no row", func(snap state.Snapshot) bool {
			_, ok := db.Services.Get(snap, "default/web")
			return !ok
		})
	}
	gone(db)
	if w.now().GetDeletionTimestamp() == nil {
		t.Error("it is not being deleted: this test shows nothing")
	}
	w.delete(row)
	if _, err := c.Get(t.Context(), source.KindService(), "default", "web"); err == nil {
		t.Error("it is still there")
	}
	w.delete(row)

	// Another one of that name.
	svc = c.mustCreate(t, webManifest)[0]
	w.shows()
	w.update(row)
	w.delete(row)
	if len(source.ConditionsOf(w.now())) != 0 || len(w.now().GetFinalizers()) != 1 {
		t.Errorf("a row of the old service was written: %v", w.now().Object)
	}
	row = w.row(svc, "192.168.10.212")
	w.update(row)
	w.shows("192.168.10.212")

	// Whoever is coordinator when it is deleted has no row of it.
	if err := c.Delete(t.Context(), source.KindService(), "default", "web"); err != nil {
		t.Fatal(err)
	}
	src, _ = c.source(t, kube.Config{})
	if err := src.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := src.Allocations().Prune(t.Context(), []state.Allocation{row}); err != nil {
		t.Fatal(err)
	}
	w.now() // a row on its way out is for Delete
	if err := src.Allocations().Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), source.KindService(), "default", "web"); err == nil {
		t.Error("its finalizer was not removed")
	}
}

// A source that follows nothing writes by what it is told, and never to
// another Service of the same name.
func TestAllocationsWithoutTables(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	db, writer := state.New()
	src, err := kube.New(kube.Config{Kubeconfig: c.kubeconfig}, db, writer, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	w := webService{t, c, src, db}
	svc := c.mustCreate(t, webManifest)[0]
	row := w.row(svc, "192.168.10.211")
	w.update(row)
	written := w.now()
	if len(source.IngressOf(written)) != 1 {
		t.Errorf("status %v", written.Object["status"])
	}
	row.UID, row.Addrs = "another", []netip.Addr{netip.MustParseAddr("192.168.10.212")}
	w.update(row)
	w.delete(row)
	if w.now().GetResourceVersion() != written.GetResourceVersion() {
		t.Error("a row of another service of that name was written")
	}
	row.Service.Name = "nobody"
	w.update(row)
	w.delete(row)
}

// Seamark gives in to a controller that writes the same addresses, and comes
// back when that one is gone.
func TestNeverFight(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	w := webService{t, c, src, db}
	row := w.row(c.mustCreate(t, webManifest)[0], "192.168.10.211")
	w.update(row)
	w.shows("192.168.10.211")
	const theirs = `{"status":{"loadBalancer":{"ingress":[{"ip":"10.9.9.9"}]}}}`
	w.patch("other-lb", theirs, "status")
	w.shows("10.9.9.9")
	w.update(row) // once may be an accident
	w.shows("192.168.10.211")
	w.patch("other-lb", theirs, "status")
	w.shows("10.9.9.9")
	before := src.Requests()
	for range 5 {
		err := src.Allocations().Update(t.Context(), row)
		if err == nil {
			t.Fatal("it went on writing")
		}
		for _, want := range []string{"Service default/web", "other-lb", "loadBalancerClass"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v\ndoes not say %q", err, want)
			}
		}
		conformance.Wait(t, db, "the condition", func(snap state.Snapshot) bool {
			svc, _ := db.Services.Get(snap, "default/web")
			c := meta.FindStatusCondition(svc.Conditions, v1alpha1.ConditionIPAMRequestSatisfied)
			return c != nil && c.Status == metav1.ConditionFalse && c.Reason == string(state.ReasonDisputed) && strings.Contains(c.Message, "other-lb")
		})
	}
	// A look and the condition; and a look after that write.
	if n := src.Requests() - before; n > 3 {
		t.Errorf("%d requests to say so", n)
	}
	w.shows("10.9.9.9")
	if services, _ := state.Rightful(db, db.Snapshot()); len(services[0].Ingress) != 0 {
		t.Errorf("the other's address is served: %v", services[0].Ingress)
	}
	// A change by others does not end it; their leaving does.
	w.patch("kubectl", `{"metadata":{"labels":{"a":"b"}}}`)
	conformance.Wait(t, db, "the label", func(snap state.Snapshot) bool {
		svc, _ := db.Services.Get(snap, "default/web")
		return svc.Labels["a"] == "b"
	})
	if err := src.Allocations().Update(t.Context(), row); err == nil {
		t.Error("it wrote again although the other one is there")
	}
	w.patch("other-lb", `{"status":{"loadBalancer":null}}`, "status")
	w.shows()
	w.update(row)
	w.shows("192.168.10.211")
}

const metallbController = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system, labels: {app: metallb, component: controller}}
spec:
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec: {containers: [{name: controller, image: controller}]}
`

// Whoever goes back to MetalLB, whose pools Seamark gave addresses of, keeps them.
func TestHandOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	w := webService{t, c, src, db}
	crd, err := os.ReadFile("../../deploy/crds-compat/metallb/ipaddresspools.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.createCRD(t, crd)
	c.mustCreate(t, "{apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}")
	c.mustCreate(t, "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: pool, namespace: metallb-system}, spec: {addresses: [192.168.10.211-192.168.10.215]}}")
	conformance.Wait(t, db, "the pool", func(snap state.Snapshot) bool { return len(db.Pools.Rows(snap)) == 1 })
	row := w.row(c.mustCreate(t, webManifest)[0], "192.168.10.211")
	w.update(row)
	w.shows("192.168.10.211")
	c.mustCreate(t, metallbController)
	conformance.Wait(t, db, "the service is left to MetalLB", func(snap state.Snapshot) bool {
		svc, _ := db.Services.Get(snap, "default/web")
		return state.LeavingsOf(db, snap).Service(svc) == state.ProductMetalLB
	})
	w.delete(row)
	svc := w.now()
	if len(source.IngressOf(svc)) != 1 || len(source.ConditionsOf(svc)) != 0 {
		t.Errorf("handed over with status %v", svc.Object["status"])
	}
}

// A Service that no pool has an address for keeps what another load balancer
// gave it before: to say so takes one write.
func TestNoAddressToGive(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	w := webService{t, c, src, db}
	row := w.row(c.mustCreate(t, webManifest)[0], "192.168.10.211")
	w.patch("metallb", `{"status":{"loadBalancer":{"ingress":[{"ip":"10.9.9.9"}]}}}`, "status")
	w.shows("10.9.9.9")
	row.Addrs, row.Pools, row.Reason, row.Message = nil, nil, state.ReasonNoPool, "no pool"
	w.update(row)
	conformance.Wait(t, db, "the condition", func(snap state.Snapshot) bool {
		svc, _ := db.Services.Get(snap, "default/web")
		return len(svc.Conditions) == 1
	})
	w.shows("10.9.9.9")
	before := src.Requests()
	for range 5 {
		w.update(row)
	}
	if n := src.Requests() - before; n > 2 { // a comparison of the slices may fall in between
		t.Errorf("%d requests after all was said", n)
	}
}

// What an idle coordinator asks of the API server does not grow with the
// number of Services: nothing.
func TestIdle(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	src, db := c.source(t, kube.Config{})
	const many = 500
	manifest := strings.Replace(webManifest, "name: web", "name: web-%d", 1)
	var rows []state.Allocation
	idle := func(services int) uint64 {
		t.Helper()
		for i := len(rows); i < services; i++ {
			svc := c.mustCreate(t, fmt.Sprintf(manifest, i))[0]
			rows = append(rows, state.Allocation{Service: state.ObjectName{Namespace: "default", Name: svc.GetName()}, UID: string(svc.GetUID()),
				Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}, Pools: []string{"blue"}, Reason: state.ReasonSatisfied})
		}
		batch := src.Allocations().(state.Batcher[state.Allocation])
		if err := firstOf(batch.UpdateAll(t.Context(), rows)); err != nil {
			t.Fatal(err)
		}
		conformance.Wait(t, db, "all addresses", func(snap state.Snapshot) bool {
			n := 0
			for svc := range db.Services.All(snap) {
				n += len(svc.Ingress)
			}
			return n == services
		})
		before := src.Requests()
		for range 10 { // resyncs
			if err := src.Allocations().Prune(t.Context(), rows); err != nil {
				t.Fatal(err)
			}
			if err := firstOf(batch.UpdateAll(t.Context(), rows)); err != nil {
				t.Fatal(err)
			}
		}
		return src.Requests() - before
	}
	few := idle(10)
	begun := time.Now()
	all := idle(many)
	t.Logf("%d Services addressed in %v at most; requests in 10 idle passes: %d with 10 of them, %d with all", many, time.Since(begun), few, all)
	// A comparison of the slices may fall in between.
	if few > 2 || all > 2 {
		t.Errorf("requests in 10 idle passes: %d with 10 Services, %d with %d; want none", few, all, many)
	}
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
