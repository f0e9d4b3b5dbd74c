package testlab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
)

// The lab stands in for the kubelet: it writes the Nodes, and the statuses of
// its Pods (kube.go). Beside the standalone store it stands in for controllers
// as well, and writes the EndpointSlices of its pods' Services.

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

var namespaceTemplate = template.Must(template.New("namespace").Parse(`---
apiVersion: v1
kind: Namespace
metadata:
  name: {{.}}
`))

// namespaceManifests are the namespaces that the lab's pods are in.
func namespaceManifests(t Topology) string {
	var b strings.Builder
	seen := map[string]bool{}
	for _, p := range t.Pods {
		if namespace, _, _ := strings.Cut(p.Service, "/"); !seen[namespace] {
			seen[namespace] = true
			execute(namespaceTemplate, &b, namespace)
		}
	}
	return b.String()
}

// A Pod is deleted at once, for want of a kubelet that would confirm it.
var podTemplate = template.Must(template.New("pod").Parse(`---
apiVersion: v1
kind: Pod
metadata:
  name: {{.Name}}
  namespace: {{.Namespace}}
  labels:
    app: {{.App}}
spec:
  nodeName: {{.Node}}
  terminationGracePeriodSeconds: 0
  containers:
  - name: webpod
    image: testlab/webpod
    ports:
    - {name: http, containerPort: 80, protocol: TCP}
{{- if .Wired.Address.IsValid}}
status:
  phase: Running
  hostIP: {{.HostIP}}
  hostIPs: [{ip: {{.HostIP}}}]
  podIP: {{.Wired.Address}}
  podIPs: [{ip: {{.Wired.Address}}}]
  conditions:
  - {type: PodScheduled, status: "True"}
  - {type: Initialized, status: "True"}
  - {type: ContainersReady, status: "{{.Ready}}"}
  - {type: Ready, status: "{{.Ready}}"}
  containerStatuses:
  - name: webpod
    image: testlab/webpod
    imageID: testlab/webpod
    containerID: testlab://{{.Wired.ContainerID}}
    restartCount: 0
    started: true
    ready: {{not .Wired.NotReady}}
    state: {running: {}}
{{- end}}
`))

// podManifests are the lab's Pods, with the statuses of those that are wired up.
// A Service finds them by the label app, its name.
func podManifests(t Topology, pods map[string]wiredPod) string {
	var b strings.Builder
	for _, p := range t.Pods {
		namespace, app, _ := strings.Cut(p.Service, "/")
		node, _ := t.host(p.Node)
		wired := pods[p.Name]
		ready := "True"
		if wired.NotReady {
			ready = "False"
		}
		execute(podTemplate, &b, struct {
			PodSpec
			Namespace, App, Ready string
			HostIP                netip.Addr
			Wired                 wiredPod
		}{p, namespace, app, ready, node.internalIP(), wired})
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

// register tells the control plane what there is in the lab, before daemons start.
func (l *Lab) register(ctx context.Context, r record) error {
	if r.ControlPlane == kubeControlPlane {
		return l.registerKube(ctx, r)
	}
	return l.Apply(ctx, nodeManifests(r.Topology))
}

// writeEndpoints writes the EndpointSlices, or the Pods' statuses that they are
// made from, as the pods are now.
func (l *Lab) writeEndpoints(ctx context.Context) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	if _, ok := r.controlPlane(); !ok || len(r.Topology.Pods) == 0 {
		return nil
	}
	if r.ControlPlane == kubeControlPlane {
		return l.kubectlApply(ctx, podManifests(r.Topology, r.Pods), "--subresource=status")
	}
	return l.Apply(ctx, sliceManifests(r))
}

// SetReady says that the pods are ready, or not: in the EndpointSlice, or, for
// the real controllers to follow, in the Pods' statuses, as happens when a node
// or a probe fails.
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
