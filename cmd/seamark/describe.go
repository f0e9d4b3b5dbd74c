package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func newDescribe(c *cli) *cobra.Command {
	var s scope
	cmd := &cobra.Command{
		Use:   "describe KIND [NAME...]",
		Short: "Show all about objects: spec, conditions, and what this node's tables say",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args)
			if err != nil {
				return err
			}
			if isAnnouncement(t.kind) {
				return errors.New("announcements are all in their row: seamark get announcement -o wide")
			}
			kind, err := findKind(t.kind)
			if err != nil {
				return err
			}
			d := describer{client: c.client(), out: cmd.OutOrStdout()}
			objs, err := fetch(cmd.Context(), d.client, kind, s.of(kind), t.names)
			for i, obj := range objs {
				if i > 0 {
					fmt.Fprintln(d.out)
				}
				if err := d.describe(cmd.Context(), kind, obj); err != nil {
					return err
				}
			}
			return err
		},
	}
	s.flags(cmd)
	return cmd
}

type describer struct {
	client *control.Client
	out    io.Writer
}

func (d describer) describe(ctx context.Context, kind source.Kind, obj *unstructured.Unstructured) error {
	t := newTable(d.out, "")
	t.row("Name:", obj.GetName())
	if kind.Namespaced {
		t.row("Namespace:", obj.GetNamespace())
	}
	t.row("Kind:", kind.Kind+" ("+kind.APIVersion()+")")
	t.row("Labels:", or(labelsText(obj.GetLabels()), none))
	t.row("Annotations:", or(labelsText(obj.GetAnnotations()), none))
	created := obj.GetCreationTimestamp().Time
	t.row("Created:", fmt.Sprintf("%s (%s ago)", timestamp(created), ageOf(created)))
	if err := t.flush(); err != nil {
		return err
	}
	if err := d.fields(obj); err != nil {
		return err
	}
	if err := d.conditions(obj); err != nil {
		return err
	}
	err := d.tables(ctx, kind, obj)
	if errors.Is(err, control.ErrNoDatapath) {
		return nil
	}
	return err
}

// fields writes everything but the metadata and the conditions as YAML.
func (d describer) fields(obj *unstructured.Unstructured) error {
	for _, field := range slices.Sorted(maps.Keys(obj.Object)) {
		if slices.Contains([]string{"apiVersion", "kind", "metadata"}, field) {
			continue
		}
		value := obj.Object[field]
		if status, ok := value.(map[string]any); ok && field == "status" {
			status = runtime.DeepCopyJSON(status)
			delete(status, "conditions")
			if len(status) == 0 {
				continue
			}
			value = status
		}
		title := strings.ToUpper(field[:1]) + field[1:] + ":"
		if scalar, ok := value.(string); ok {
			fmt.Fprintln(d.out, title, scalar)
			continue
		}
		text, err := yaml.Marshal(value)
		if err != nil {
			return fmt.Errorf("write %s: %w", field, err)
		}
		fmt.Fprintln(d.out, title)
		for line := range strings.Lines(string(text)) {
			fmt.Fprint(d.out, "  ", line)
		}
	}
	return nil
}

func (d describer) conditions(obj *unstructured.Unstructured) error {
	raw, found, _ := unstructured.NestedMap(obj.Object, "status")
	if !found {
		return nil
	}
	var status struct {
		Conditions []metav1.Condition `json:"conditions"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status); err != nil || len(status.Conditions) == 0 {
		return nil // none that we could read
	}
	fmt.Fprintln(d.out, "Conditions:")
	t := newTable(d.out, "  ", "TYPE", "STATUS", "REASON", "AGE", "MESSAGE")
	for _, c := range status.Conditions {
		t.row(c.Type, string(c.Status), c.Reason, ageOf(c.LastTransitionTime.Time), c.Message)
	}
	return t.flush()
}

// tables writes what this node's tables say of the object.
func (d describer) tables(ctx context.Context, kind source.Kind, obj *unstructured.Unstructured) error {
	var err error
	switch kind.Kind {
	case "Service":
		err = d.service(ctx, state.ObjectName{Namespace: obj.GetNamespace(), Name: obj.GetName()})
	case "IPPool":
		err = d.pool(ctx, obj.GetName())
	case "Node":
		err = d.node(ctx, obj.GetName())
	}
	if err != nil {
		return err
	}
	return d.problems(ctx, kind, obj)
}

func (d describer) service(ctx context.Context, name state.ObjectName) error {
	allocations, err := control.Rows[state.Allocation](ctx, d.client, "allocations")
	if err != nil {
		return err
	}
	for _, a := range allocations {
		if a.Service == name {
			fmt.Fprintf(d.out, "Allocation: %s, %s\n", or(strings.TrimSuffix(string(a.Reason)+": "+a.Message, ": "), none), statusText(a.Status))
		}
	}
	announced, err := d.client.Announcements(ctx)
	if err != nil {
		return err
	}
	announced = slices.DeleteFunc(announced, func(a control.Announcement) bool { return a.Service != name.String() })
	if len(announced) > 0 {
		fmt.Fprintln(d.out, "Announcements:")
		if err := printAnnouncements(d.out, "  ", announced, true); err != nil {
			return err
		}
	}
	frontends, err := control.Rows[state.Frontend](ctx, d.client, "frontends")
	if err != nil {
		return err
	}
	frontends = slices.DeleteFunc(frontends, func(f state.Frontend) bool { return f.Service != name || f.Kind == state.KindHostPort })
	if len(frontends) == 0 {
		return nil
	}
	fmt.Fprintln(d.out, "Frontends on this node:")
	t := newTable(d.out, "  ", "FRONTEND", "KIND", "BACKENDS", "STATUS")
	for _, f := range frontends {
		var backends []string
		for _, b := range f.Backends {
			backends = append(backends, fmt.Sprintf("%s:%d", b.Addr, b.Port))
		}
		t.row(f.RowKey(), string(f.Kind), join(backends), statusText(f.Status))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := d.health(ctx, name); err != nil {
		return err
	}
	return d.traffic(ctx, name, frontends)
}

// health writes what this node's health checks of the Service's backends found.
func (d describer) health(ctx context.Context, name state.ObjectName) error {
	backends, err := control.Rows[state.BackendHealth](ctx, d.client, "backendhealth")
	if err != nil {
		return err
	}
	backends = slices.DeleteFunc(backends, func(h state.BackendHealth) bool { return h.Service != name })
	if len(backends) == 0 {
		return nil
	}
	fmt.Fprintln(d.out, "Health checks by this node:")
	t := newTable(d.out, "  ", "CHECKED", "STATE", "FOR", "LAST CHECK")
	for _, h := range backends {
		is := "up"
		if !h.Up {
			is = "down"
		}
		t.row(netip.AddrPortFrom(h.Addr, h.Port).String(), is, ageOf(h.Since), or(h.Err, "went well"))
	}
	return t.flush()
}

// traffic writes what this node sent to the Service and its backends.
func (d describer) traffic(ctx context.Context, name state.ObjectName, frontends []state.Frontend) error {
	counts, err := d.client.Counts(ctx)
	if err != nil {
		return err
	}
	services := slices.DeleteFunc(counts.Services, func(s control.ServiceCount) bool { return s.Service != name.String() })
	has := map[netip.AddrPort]bool{}
	for _, f := range frontends {
		for _, b := range slices.Concat(f.Backends, f.Inside, f.Draining) {
			has[netip.AddrPortFrom(b.Addr, b.Port)] = true
		}
	}
	backends := slices.DeleteFunc(counts.Backends, func(b control.BackendCount) bool { return !has[b.Addr] })
	if len(services) == 0 {
		return nil // not in the kernel yet
	}
	fmt.Fprintln(d.out, "Sent by this node:")
	if err := printServiceCounts(d.out, "  ", services); err != nil {
		return err
	}
	return printBackendCounts(d.out, "  ", backends)
}

// pool writes which Services have addresses of the pool.
func (d describer) pool(ctx context.Context, name string) error {
	pools, err := control.Rows[state.Pool](ctx, d.client, "pools")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pools, func(p state.Pool) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	services, err := control.Rows[state.Service](ctx, d.client, "services")
	if err != nil {
		return err
	}
	t := newTable(d.out, "  ", "ADDRESS", "SERVICE")
	some := false
	for _, s := range services {
		for _, a := range s.Ingress {
			if slices.ContainsFunc(pools[i].Ranges, func(r state.Range) bool { return r.Contains(a) }) {
				some = true
				t.row(a.String(), s.Name.String())
			}
		}
	}
	if !some {
		return nil
	}
	fmt.Fprintln(d.out, "In use:")
	return t.flush()
}

// node writes what the node reports with its lease, and what it announces.
func (d describer) node(ctx context.Context, name string) error {
	leases, err := control.Rows[state.NodeLease](ctx, d.client, "nodeleases")
	if err != nil {
		return err
	}
	for _, l := range leases {
		if l.Node != name {
			continue
		}
		fmt.Fprintf(d.out, "Lease: %s, last renewed %s\n", l.Duration, or(l.Renewal, "never"))
		switch {
		case l.Drained && l.Released:
			fmt.Fprintln(d.out, "  drained: its addresses have gone to other nodes")
		case l.Drained:
			fmt.Fprintln(d.out, "  drained: its addresses go to other nodes")
		case l.Released:
			fmt.Fprintln(d.out, "  released: its addresses go to other nodes")
		}
		t := newTable(d.out, "  ", "INTERFACE", "STATE", "MAC", "ADDRESSES")
		for _, in := range l.Interfaces {
			up := "down"
			if in.Up {
				up = "up"
			}
			var prefixes []string
			for _, p := range in.Prefixes {
				prefixes = append(prefixes, p.String())
			}
			t.row(in.Name, up, or(in.MAC, none), join(prefixes))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	announced, err := d.client.Announcements(ctx)
	if err != nil {
		return err
	}
	announced = slices.DeleteFunc(announced, func(a control.Announcement) bool { return a.Node != name })
	if len(announced) == 0 {
		return nil
	}
	fmt.Fprintln(d.out, "Announces:")
	return printAnnouncements(d.out, "  ", announced, true)
}

// problems writes what a person should mend about the object.
func (d describer) problems(ctx context.Context, kind source.Kind, obj *unstructured.Unstructured) error {
	ref := state.ObjectRef{Group: kind.Group, Kind: kind.Kind, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	var lines []string
	for _, table := range []string{"nodeproblems", "clusterproblems", "sourceproblems"} {
		problems, err := control.Rows[state.Problem](ctx, d.client, table)
		if err != nil {
			return err
		}
		for _, p := range problems {
			if p.Object == ref {
				lines = append(lines, p.String())
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	fmt.Fprintln(d.out, "Problems:")
	for _, line := range lines {
		fmt.Fprintln(d.out, "  "+line)
	}
	return nil
}

// statusText is a row's status column for people.
func statusText(s state.Status) string {
	text := s.Phase.String()
	if s.Reason != "" {
		text += " (" + string(s.Reason) + ")"
	}
	if s.Err != "" {
		text += fmt.Sprintf(": %s (%d tries)", s.Err, s.Tries)
	}
	return text
}
