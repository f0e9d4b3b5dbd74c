package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func newGet(c *cli) *cobra.Command {
	var s scope
	cmd := &cobra.Command{
		Use:   "get KIND [NAME...]",
		Short: "List objects, or show some of them",
		Long:  "List objects, or show some of them. The kinds are " + strings.Join(kindNames(), ", ") + ".",
		Example: "  seamark get service -A\n  seamark get ippool lab -o yaml\n" +
			"  seamark get announcement -o wide        who answers for which address\n  seamark get announcement 192.168.10.211\n" +
			"  seamark get bfd -o wide                 this node's BFD sessions",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := parseTarget(args)
			if err != nil {
				return err
			}
			if isAnnouncement(t.kind) {
				return getAnnouncements(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr(), t.names)
			}
			if isBFD(t.kind) {
				return getBFD(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr(), t.names)
			}
			kind, err := findKind(t.kind)
			if err != nil {
				return err
			}
			return getObjects(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr(), kind, s, t.names)
		},
	}
	c.outputFlag(cmd)
	s.flags(cmd)
	return cmd
}

func getObjects(ctx context.Context, c *cli, out, errOut io.Writer, kind source.Kind, s scope, names []string) error {
	if len(names) > 0 && s.all && kind.Namespaced {
		return errors.New("a name and -A: names are looked up in one namespace; give it with -n")
	}
	objs, err := fetch(ctx, c.client(), kind, s.of(kind), names)
	if err != nil && len(objs) == 0 {
		return err
	}
	if printErr := printObjects(c.output, out, errOut, kind, s, objs, len(names) == 1); printErr != nil {
		return printErr
	}
	return err // some of the names were not found
}

// fetch gets the named objects, or all. Of several names it returns those
// there are, and an error for the others.
func fetch(ctx context.Context, client *control.Client, kind source.Kind, namespace string, names []string) ([]*unstructured.Unstructured, error) {
	if len(names) == 0 {
		return client.List(ctx, kind, namespace)
	}
	var objs []*unstructured.Unstructured
	var errs []error
	for _, name := range names {
		obj, err := client.Get(ctx, kind, namespace, name)
		switch {
		case errors.Is(err, source.ErrNotFound):
			errs = append(errs, notFound(kind, namespace, name))
		case err != nil:
			return nil, err
		default:
			objs = append(objs, obj)
		}
	}
	return objs, errors.Join(errs...)
}

func notFound(kind source.Kind, namespace, name string) error {
	if kind.Namespaced {
		return fmt.Errorf("%s %q not found in namespace %s", kind.Singular, name, namespace)
	}
	return fmt.Errorf("%s %q not found", kind.Singular, name)
}

func printObjects(output string, out, errOut io.Writer, kind source.Kind, s scope, objs []*unstructured.Unstructured, single bool) error {
	if !isTable(output) {
		if single {
			return printValue(out, output, objs[0].Object)
		}
		items := make([]any, len(objs))
		for i, obj := range objs {
			items[i] = obj.Object
		}
		return printValue(out, output, map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	}
	if len(objs) == 0 {
		where := ""
		if namespace := s.of(kind); namespace != "" {
			where = " in namespace " + namespace
		}
		fmt.Fprintf(errOut, "No %s found%s.\n", kind.Plural, where)
		return nil
	}
	withNamespace := s.all && kind.Namespaced
	columns := columnsOf(kind)
	var header []string
	if withNamespace {
		header = append(header, "NAMESPACE")
	}
	t := newTable(out, "", append(header, columns.header(output == outputWide)...)...)
	for _, obj := range objs {
		var cells []string
		if withNamespace {
			cells = append(cells, obj.GetNamespace())
		}
		cells = append(cells, columns.cells(obj, output == outputWide)...)
		t.row(cells...)
	}
	return t.flush()
}

func getAnnouncements(ctx context.Context, c *cli, out, errOut io.Writer, names []string) error {
	var wanted []netip.Addr
	for _, name := range names {
		a, err := netip.ParseAddr(name)
		if err != nil {
			return fmt.Errorf("%q is no address: announcements are named by their address, as in 192.168.10.211", name)
		}
		wanted = append(wanted, a)
	}
	all, err := c.client().Announcements(ctx)
	if err != nil {
		return err
	}
	var missing []error
	for _, a := range wanted {
		if !slices.ContainsFunc(all, func(ann control.Announcement) bool { return ann.Address == a }) {
			missing = append(missing, fmt.Errorf("announcement %q not found: no node was ever chosen for it; see seamark get service -A and seamark get l2policy", a))
		}
	}
	if len(wanted) > 0 {
		all = slices.DeleteFunc(all, func(ann control.Announcement) bool { return !slices.Contains(wanted, ann.Address) })
		if len(all) == 0 {
			return errors.Join(missing...)
		}
	}
	switch {
	case !isTable(c.output) && len(wanted) == 1:
		err = printValue(out, c.output, all[0])
	case !isTable(c.output):
		err = printValue(out, c.output, all)
	case len(all) == 0:
		fmt.Fprintln(errOut, "No announcements found.")
	default:
		err = printAnnouncements(out, "", all, c.output == outputWide)
	}
	return errors.Join(err, errors.Join(missing...))
}

func printAnnouncements(out io.Writer, indent string, all []control.Announcement, wide bool) error {
	header := []string{"ADDRESS", "SERVICE", "NODE", "INTERFACES", "SINCE"}
	if wide {
		header = append(header, "GENERATION", "REASON", "PREVIOUS", "MAC")
	}
	t := newTable(out, indent, header...)
	for _, a := range all {
		cells := []string{a.Address.String(), a.Service, or(a.Node, none), join(a.Interfaces), timestamp(a.Since)}
		if wide {
			cells = append(cells, strconv.FormatInt(a.Generation, 10), or(string(a.Reason), none), or(a.Previous, none), join(a.MACs))
		}
		t.row(cells...)
	}
	return t.flush()
}
