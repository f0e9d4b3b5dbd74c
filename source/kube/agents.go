package kube

import (
	"maps"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// program is another project's, as its own manifests label it.
type program struct {
	label, value string
	// component is the value that componentLabels have; "": any.
	component string
	product   string
	roles     []state.AgentRole
}

// componentLabels tell the programs of one project apart.
var componentLabels = []string{"component", "app.kubernetes.io/component"}

const (
	labelK8sApp = "k8s-app"
	labelName   = "app.kubernetes.io/name"
	labelApp    = "app"
)

// programs that are looked for: the labels of the projects' plain manifests
// and of their Helm charts.
func programs() []program {
	allocates, announces := []state.AgentRole{state.AgentAllocates}, []state.AgentRole{state.AgentAnnounces}
	both := []state.AgentRole{state.AgentAllocates, state.AgentAnnounces}
	cni, proxy := []state.AgentRole{state.AgentCNI}, []state.AgentRole{state.AgentProxy}
	cilium := []state.AgentRole{state.AgentAnnounces, state.AgentCNI}
	return []program{
		{labelApp, "metallb", "speaker", state.ProductMetalLB, announces},
		{labelApp, "metallb", "controller", state.ProductMetalLB, allocates},
		{labelName, "metallb", "speaker", state.ProductMetalLB, announces},
		{labelName, "metallb", "controller", state.ProductMetalLB, allocates},
		{labelK8sApp, "cilium", "", state.ProductCilium, cilium},
		{labelName, "cilium-agent", "", state.ProductCilium, cilium},
		{labelName, "cilium-operator", "", state.ProductCilium, allocates},
		{labelApp, "purelb", "lbnodeagent", "PureLB", announces},
		{labelApp, "purelb", "allocator", "PureLB", allocates},
		{labelName, "purelb", "lbnodeagent", "PureLB", announces},
		{labelName, "purelb", "allocator", "PureLB", allocates},
		{labelName, "kube-vip-ds", "", "kube-vip", announces},
		{labelName, "kube-vip", "", "kube-vip", announces},
		{labelApp, "kube-vip", "", "kube-vip", allocates},
		{labelApp, "kube-vip-cloud-provider", "", "kube-vip", allocates},
		{labelApp, "openelb-manager", "", "OpenELB", both},
		{labelName, "openelb", "", "OpenELB", both},
		{labelK8sApp, "kube-proxy", "", "kube-proxy", proxy},
		{labelK8sApp, "calico-node", "", "Calico", cni},
		{labelK8sApp, "canal", "", "Canal", cni},
		{labelK8sApp, "flannel", "", "flannel", cni},
		{labelApp, "flannel", "", "flannel", cni},
		{labelK8sApp, "kube-router", "", "kube-router", cni},
		{labelApp, "antrea", "antrea-agent", "Antrea", cni},
	}
}

// agentLabels are the labels that programs are found by.
func agentLabels() []string { return []string{labelK8sApp, labelName, labelApp} }

// agentSelector selects what has one of the values that programs have of the label.
func agentSelector(label string) string {
	var values []string
	for _, p := range programs() {
		if p.label == label {
			values = append(values, p.value)
		}
	}
	slices.Sort(values)
	return label + " in (" + strings.Join(slices.Compact(values), ",") + ")"
}

// agentsOf are the rows of a DaemonSet or Deployment with those labels, none
// when it is nobody's that we know or there are to be no pods of it.
func agentsOf(object state.ObjectRef, labels map[string]string, pods int32) []state.Agent {
	var agents []state.Agent
	for _, p := range programs() {
		if pods == 0 || labels[p.label] != p.value {
			continue
		}
		if p.component != "" && !slices.ContainsFunc(componentLabels, func(l string) bool { return labels[l] == p.component }) {
			continue
		}
		for _, role := range p.roles {
			agent := state.Agent{Object: object, Product: p.product, Role: role}
			if !slices.Contains(agents, agent) {
				agents = append(agents, agent)
			}
		}
	}
	return agents
}

// agents is what the feeds of DaemonSets and Deployments have found. An object
// may be in several feeds.
type agents struct {
	db     *state.DB
	tables *source.Tables
	// of are the agents of each object, by its feed.
	of map[string]map[string][]state.Agent
	// waiting are the feeds whose first list is not in.
	waiting map[string]bool
}

// publish makes what was found the content of the table.
func (a *agents) publish(tx *state.Tx) {
	rows := map[string]state.Agent{}
	for _, found := range a.of {
		for _, of := range found {
			for _, agent := range of {
				rows[agent.RowKey()] = agent
			}
		}
	}
	a.db.Agents.Replace(tx, slices.Collect(maps.Values(rows)), func(a, b state.Agent) bool { return a == b })
	a.tables.Agree(tx)
}

// agentSink takes in the objects of one feed.
type agentSink struct {
	*agents
	feed string
}

func (s agentSink) put(tx *state.Tx, name string, obj any) {
	s.of[s.feed][name] = agentsIn(obj)
	s.publish(tx)
}

func (s agentSink) remove(tx *state.Tx, name string) {
	delete(s.of[s.feed], name)
	s.publish(tx)
}

func (s agentSink) replace(tx *state.Tx, objects map[string]any) {
	s.of[s.feed] = map[string][]state.Agent{}
	for name, obj := range objects {
		s.of[s.feed][name] = agentsIn(obj)
	}
	s.publish(tx)
	if delete(s.waiting, s.feed); len(s.waiting) == 0 {
		s.db.Agents.MarkSynced(tx)
	}
}

func agentsIn(obj any) []state.Agent {
	ref := func(kind string, m metav1.ObjectMeta) state.ObjectRef {
		return state.ObjectRef{Group: appsv1.GroupName, Kind: kind, Namespace: m.Namespace, Name: m.Name}
	}
	switch o := obj.(type) {
	case *appsv1.DaemonSet:
		return agentsOf(ref("DaemonSet", o.ObjectMeta), o.Labels, o.Status.DesiredNumberScheduled)
	case *appsv1.Deployment:
		replicas := int32(1) // the API's default
		if o.Spec.Replicas != nil {
			replicas = *o.Spec.Replicas
		}
		return agentsOf(ref("Deployment", o.ObjectMeta), o.Labels, replicas)
	}
	return nil
}
