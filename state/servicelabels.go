package state

// Pseudo-labels that a serviceSelector can select by, as in Cilium.
const (
	LabelServiceNamespace = "io.kubernetes.service.namespace"
	LabelServiceName      = "io.kubernetes.service.name"
)

// ServiceLabels are a Service's labels and the pseudo-labels, for a selector to
// match (labels.Labels).
type ServiceLabels struct{ Service *Service }

// Lookup, Has and Get are labels.Labels'.
func (l ServiceLabels) Lookup(label string) (value string, ok bool) {
	switch label {
	case LabelServiceNamespace:
		return l.Service.Name.Namespace, true
	case LabelServiceName:
		return l.Service.Name.Name, true
	}
	value, ok = l.Service.Labels[label]
	return value, ok
}

// Has says whether there is such a label.
func (l ServiceLabels) Has(label string) bool { _, ok := l.Lookup(label); return ok }

// Get is Lookup's value.
func (l ServiceLabels) Get(label string) string { value, _ := l.Lookup(label); return value }
