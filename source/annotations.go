package source

import (
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxRequested bounds the addresses that one Service can ask for: an annotation
// has room for tens of thousands, and each that is not given is said.
const maxRequested = 64

// setRequests fills in what the Service asks for: of LB-IPAM, in its spec, and
// in the annotations that Seamark, Cilium and MetalLB have for it. wrong is
// what nobody could give; unhonoured is what is right, and not done.
func setRequests(row *state.Service, s *corev1.Service) (wrong, unhonoured Problems) {
	settings, findings := foreign.ReadServiceAnnotations(s.Annotations)
	_, unhonoured = problemsOfFindings(findings)

	var fields []string
	ask := func(field, ip string) bool {
		if len(row.RequestedIPs) == maxRequested {
			wrong.add(field, "ask for fewer, and make more Services", "asks for more than %d addresses", maxRequested)
			return false
		}
		if a, ok := checkAddr(&wrong, field, ip); ok && !slices.Contains(row.RequestedIPs, a) {
			row.RequestedIPs = append(row.RequestedIPs, a)
		}
		return len(wrong) < maxRequested
	}
	if ip := s.Spec.LoadBalancerIP; ip != "" {
		fields = append(fields, "spec.loadBalancerIP")
		ask("spec.loadBalancerIP", ip)
	}
	if ips := settings.IPs; ips.Value != "" {
		fields = append(fields, ips.Field())
		for ip := range strings.SplitSeq(ips.Value, ",") {
			if !ask(ips.Field(), strings.TrimSpace(ip)) {
				break
			}
		}
	}
	row.RequestField = strings.Join(fields, " and ")

	if pool := settings.Pool; pool.Value != "" {
		row.Pool, row.PoolField = pool.Value, pool.Field()
	}
	row.Sharing = settings.SharingKey.Value
	if with := settings.SharingWith; with.Value != "" {
		if row.Sharing == "" {
			unhonoured.add(with.Field(), "add annotation "+v1alpha1.AnnotationSharingKey, "shares nothing without a sharing key")
		}
		row.SharingWith = sharingWith(&wrong, with)
	}
	wrong = append(wrong, setBalancing(row, s, settings)...)
	return wrong, unhonoured
}

// sharingWith reads namespaces separated by commas, or *.
func sharingWith(wrong *Problems, with foreign.Setting) []string {
	var namespaces []string
	for namespace := range strings.SplitSeq(with.Value, ",") {
		namespace = strings.TrimSpace(namespace)
		if namespace != "*" && len(validation.IsDNS1123Label(namespace)) > 0 {
			wrong.add(with.Field(), "write namespaces, separated by commas, or *", "%q is no namespace", namespace)
			continue
		}
		if !slices.Contains(namespaces, namespace) {
			namespaces = append(namespaces, namespace)
		}
	}
	return namespaces
}
