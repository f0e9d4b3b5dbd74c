// Package v1alpha1 holds Seamark's own kinds, all cluster-scoped, in the API
// group seamark.dev. Field names follow Cilium's kinds wherever the meaning is
// the same, so that what people know keeps working.
//
// +kubebuilder:object:generate=true
// +groupName=seamark.dev
package v1alpha1
