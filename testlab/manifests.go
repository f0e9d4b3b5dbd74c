package testlab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/template"
)

// The lab stands in for the kubelet and for the controllers of a cluster: it
// writes the Nodes, and the EndpointSlices of the Services of its pods.

var nodeTemplate = template.Must(template.New("node").Parse(`---
apiVersion: v1
kind: Node
metadata:
  name: {{.Name}}
  labels:
    kubernetes.io/hostname: {{.Name}}
    kubernetes.io/os: linux
spec:
  podCIDR: {{index .PodCIDRs 0}}
  podCIDRs:
  {{- range .PodCIDRs}}
  - {{.}}
  {{- end}}
status:
  addresses:
  - {type: InternalIP, address: {{.InternalIP}}}
  - {type: Hostname, address: {{.Name}}}
  conditions:
  - {type: Ready, status: "True", reason: LabIsUp, message: the lab runs it}
`))

func nodeManifests(t Topology) string {
	var b strings.Builder
	for _, h := range t.nodes() {
		execute(nodeTemplate, &b, struct {
			HostSpec
			InternalIP string
		}{h, h.internalIP().String()})
	}
	return b.String()
}

var sliceTemplate = template.Must(template.New("slice").Parse(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {{.Name}}-1
  namespace: {{.Namespace}}
  labels:
    kubernetes.io/service-name: {{.Name}}
addressType: IPv4
ports:
- {name: http, port: 80, protocol: TCP}
endpoints:
{{- range .Endpoints}}
- addresses: [{{.Address}}]
  nodeName: {{.Node}}
  conditions: {ready: {{.Ready}}, serving: {{.Ready}}, terminating: false}
  targetRef: {kind: Pod, namespace: {{$.Namespace}}, name: {{.Pod}}}
{{- else}} []
{{- end}}
`))

type endpoint struct {
	Pod, Node, Address string
	Ready              bool
}

type endpointSlice struct {
	Namespace, Name string
	Endpoints       []endpoint
}

// sliceManifests are the EndpointSlices of the Services of all wired pods.
func sliceManifests(r record) string {
	var b strings.Builder
	services := map[string]bool{}
	for _, p := range r.Topology.Pods {
		if services[p.Service] {
			continue
		}
		services[p.Service] = true
		namespace, name, _ := strings.Cut(p.Service, "/")
		execute(sliceTemplate, &b, endpointSlice{namespace, name, endpointsOf(r, p.Service)})
	}
	return b.String()
}

func endpointsOf(r record, service string) []endpoint {
	var all []endpoint
	for _, p := range r.Topology.Pods {
		if wired := r.Pods[p.Name]; p.Service == service && wired.Address.IsValid() {
			all = append(all, endpoint{p.Name, p.Node, wired.Address.String(), !wired.NotReady})
		}
	}
	return all
}

func execute(t *template.Template, b *strings.Builder, data any) {
	if err := t.Execute(b, data); err != nil {
		panic(err) // template and data are both in this file
	}
}

// writeEndpoints writes the EndpointSlices as the pods are now.
func (l *Lab) writeEndpoints(ctx context.Context) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	if len(r.Topology.Pods) == 0 {
		return nil
	}
	return l.Apply(ctx, sliceManifests(r))
}

// SetReady says in the EndpointSlice that the pods are ready, or not, as the
// endpoints controller does when a node or a probe fails.
func (l *Lab) SetReady(ctx context.Context, ready bool, pods ...string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	for _, name := range pods {
		if !slices.ContainsFunc(r.Topology.Pods, func(p PodSpec) bool { return p.Name == name }) {
			return fmt.Errorf("set readiness: %q is no pod of lab %s", name, l.Name)
		}
	}
	err = l.update(func(r *record) {
		for _, name := range pods {
			wired := r.Pods[name]
			wired.NotReady = !ready
			r.Pods[name] = wired
		}
	})
	if err != nil {
		return err
	}
	return l.writeEndpoints(ctx)
}
