package source_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How a Service's packets are to be balanced and forwarded.
func TestServiceBalancing(t *testing.T) {
	const rangesKey = corev1.AnnotationLoadBalancerSourceRangesKey
	clientIP := func(seconds *int32) corev1.ServiceSpec {
		return corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP,
			SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: seconds}}}
	}
	for _, test := range []struct {
		name        string
		annotations map[string]string
		spec        corev1.ServiceSpec
		want        string   // affinity ranges forwarding/dispatch/unserved size
		problems    []string // field, and what the message has
	}{
		{name: "nothing", want: "0s nil // 0"},
		{name: "affinity, by default three hours", spec: corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP}, want: "3h0m0s nil // 0"},
		{name: "affinity", spec: clientIP(new(int32(90))), want: "1m30s nil // 0"},
		{name: "affinity too long", spec: clientIP(new(int32(86401))), want: "3h0m0s nil // 0",
			problems: []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401"}},
		{name: "affinity of no time", spec: clientIP(new(int32(0))), want: "3h0m0s nil // 0",
			problems: []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0"}},
		{name: "source ranges, with spaces, host bits and one twice",
			spec: corev1.ServiceSpec{LoadBalancerSourceRanges: []string{" 10.1.2.3/16 ", "fd00::/64", "10.1.0.0/16"}}, want: "0s [10.1.0.0/16 fd00::/64] // 0"},
		{name: "source ranges of the annotation", annotations: map[string]string{rangesKey: "10.1.0.0/16, 10.2.0.0/16"}, want: "0s [10.1.0.0/16 10.2.0.0/16] // 0"},
		{name: "the spec's go before it", annotations: map[string]string{rangesKey: "10.1.0.0/16"},
			spec: corev1.ServiceSpec{LoadBalancerSourceRanges: []string{"10.3.0.0/16"}}, want: "0s [10.3.0.0/16] // 0"},
		{name: "an annotation with nothing in it", annotations: map[string]string{rangesKey: " "}, want: "0s nil // 0"},
		{name: "one wrong", spec: corev1.ServiceSpec{LoadBalancerSourceRanges: []string{"10.1.0.0", "10.3.0.0/16"}}, want: "0s [10.3.0.0/16] // 0",
			problems: []string{`spec.loadBalancerSourceRanges[0]: "10.1.0.0" is no CIDR`}},
		{name: "all wrong: nobody is let in", annotations: map[string]string{rangesKey: "::ffff:10.0.0.0/112"}, want: "0s [] // 0",
			problems: []string{"metadata.annotations[" + rangesKey + `]: "::ffff:10.0.0.0/112" is no CIDR`}},
		{name: "ours", annotations: map[string]string{"seamark.dev/forwarding-mode": "hybrid", "seamark.dev/dsr-dispatch": "geneve",
			"seamark.dev/unserved": "refuse", "seamark.dev/maglev-table-size": "65521"}, want: "0s nil hybrid/geneve/refuse 65521"},
		{name: "left to kube-proxy", annotations: map[string]string{"seamark.dev/forwarding-mode": "kube-proxy"}, want: "0s nil kube-proxy// 0"},
		{name: "Cilium's", annotations: map[string]string{"service.cilium.io/forwarding-mode": "snat"}, want: "0s nil snat// 0"},
		{name: "wrong", annotations: map[string]string{"service.cilium.io/forwarding-mode": "nat", "seamark.dev/dsr-dispatch": "vxlan",
			"seamark.dev/unserved": "reject", "seamark.dev/maglev-table-size": "65520"}, want: "0s nil // 0",
			problems: []string{
				`metadata.annotations[seamark.dev/dsr-dispatch]: "vxlan" is not a value it can have`,
				`metadata.annotations[seamark.dev/maglev-table-size]: "65520" is no size of a table`,
				`metadata.annotations[seamark.dev/unserved]: "reject" is not a value it can have`,
				`metadata.annotations[service.cilium.io/forwarding-mode]: "nat" is not a value it can have`,
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			row, problems := source.ServiceRow(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: test.annotations}, Spec: test.spec})
			ranges := "nil"
			if row.SourceRanges != nil {
				ranges = fmt.Sprint(row.SourceRanges)
			}
			if got := fmt.Sprintf("%v %s %s/%s/%s %d", row.Affinity, ranges, row.Forwarding, row.Dispatch, row.Unserved, row.TableSize); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Field+": "+p.Message)
				if p.Cure == "" {
					t.Errorf("no cure: %v", p)
				}
			}
			slices.Sort(got)
			if !slices.EqualFunc(got, test.problems, strings.HasPrefix) {
				t.Errorf("problems %q, want %q", got, test.problems)
			}
		})
	}
}

// What is wrong of it is refused where an object is admitted.
func TestAdmitBalancing(t *testing.T) {
	manifest := `
apiVersion: v1
kind: Service
metadata: {name: web, annotations: {seamark.dev/forwarding-mode: nat, service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0}}
spec:
  type: LoadBalancer
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 100000}}
  ports: [{port: 80, nodePort: 22}]`
	_, err := source.ReadManifests("f.yaml", strings.NewReader(manifest))
	if err == nil {
		t.Fatal("admitted")
	}
	for _, field := range []string{"metadata.annotations[seamark.dev/forwarding-mode]", "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]",
		"spec.sessionAffinityConfig.clientIP.timeoutSeconds", "spec.ports[0].nodePort"} {
		if strings.Count(err.Error(), field) != 1 {
			t.Errorf("%s is not named once:\n%v", field, err)
		}
	}
	good := strings.NewReplacer("nat,", "snat,", "10.0.0.0}", `"10.0.0.0/8 , 10.1.0.0/16"}`, "sessionAffinityConfig: {clientIP: {timeoutSeconds: 100000}}", "", "nodePort: 22", "nodePort: 30080").Replace(manifest)
	manifests, err := source.ReadManifests("f.yaml", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprint(manifests[0].Object.Object["spec"].(map[string]any)["sessionAffinityConfig"])
	if config != "map[clientIP:map[timeoutSeconds:10800]]" {
		t.Errorf("sessionAffinityConfig defaults to %s", config)
	}
}

func TestEndpointSliceHints(t *testing.T) {
	hints := &discoveryv1.EndpointHints{
		ForZones: []discoveryv1.ForZone{{Name: "b"}, {Name: "a"}, {Name: "b"}}, ForNodes: []discoveryv1.ForNode{{Name: "n2"}, {Name: "n1"}}}
	row, problems := source.EndpointSliceRow(&discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Hints: hints}, {Addresses: []string{"10.0.0.2"}}}})
	if b := row.Endpoints[0]; b.ForZones != "a,b" || b.ForNodes != "n1,n2" || len(problems) > 0 {
		t.Errorf("%+v, %v", b, problems)
	}
	if b := row.Endpoints[1]; b.ForZones != "" || b.ForNodes != "" {
		t.Errorf("%+v", b)
	}
}

// The controller of EndpointSlices makes the endpoints of a Service with
// publishNotReadyAddresses ready, whatever their pods are: nothing else counts.
func TestPublishNotReadyAddresses(t *testing.T) {
	row, _ := source.EndpointSliceRow(&discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(false)}}}})
	if b := row.Endpoints[0]; !b.Ready {
		t.Errorf("%+v", b)
	}
}
