package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/spf13/cobra"
)

func newDelete(c *cli) *cobra.Command {
	var files []string
	var ignoreNotFound bool
	var namespace string
	cmd := &cobra.Command{
		Use:     "delete (-f FILE|DIR|- | KIND NAME...)",
		Short:   "Delete objects",
		Example: "  seamark delete -f webpod.yaml\n  seamark delete service webpod -n default",
		RunE: func(cmd *cobra.Command, args []string) error {
			doomed, err := toDelete(args, files, namespace, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return deleteAll(cmd.Context(), c.client(), cmd.OutOrStdout(), doomed, ignoreNotFound)
		},
	}
	fileFlag(cmd, &files)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the named objects")
	cmd.Flags().BoolVar(&ignoreNotFound, "ignore-not-found", false, "it is no error when an object is not there")
	cmd.MarkFlagsMutuallyExclusive("filename", "namespace")
	return cmd
}

// doomed is an object to delete.
type doomed struct {
	kind            source.Kind
	namespace, name string
}

func toDelete(args, files []string, namespace string, stdin io.Reader) ([]doomed, error) {
	switch {
	case len(files) > 0 && len(args) > 0:
		return nil, errors.New("want -f FILE or KIND NAME, not both")
	case len(files) > 0:
		manifests, err := readManifests(files, stdin)
		if err != nil {
			return nil, err
		}
		var all []doomed
		for _, m := range manifests {
			all = append(all, doomed{m.Kind, m.Object.GetNamespace(), m.Object.GetName()})
		}
		return all, nil
	case len(args) == 0:
		return nil, errors.New("want -f FILE or KIND NAME")
	}
	t, err := parseTarget(args)
	if err != nil {
		return nil, err
	}
	if isAnnouncement(t.kind) {
		return nil, errors.New("announcements are decided by the coordinator: delete the Service, or change the L2Policy")
	}
	kind, err := findKind(t.kind)
	if err != nil {
		return nil, err
	}
	if len(t.names) == 0 {
		return nil, fmt.Errorf("which %s? want %s NAME", kind.Singular, kind.Singular)
	}
	s := scope{namespace: namespace}
	var all []doomed
	for _, name := range t.names {
		all = append(all, doomed{kind, s.of(kind), name})
	}
	return all, nil
}

// deleteAll deletes what there is, and returns an error for what there is not.
func deleteAll(ctx context.Context, client *control.Client, out io.Writer, all []doomed, ignoreNotFound bool) error {
	var errs []error
	for _, d := range all {
		err := client.Delete(ctx, d.kind, d.namespace, d.name)
		switch {
		case errors.Is(err, source.ErrNotFound):
			if !ignoreNotFound {
				errs = append(errs, notFound(d.kind, d.namespace, d.name))
			}
		case err != nil:
			return errors.Join(append(errs, err)...)
		default:
			fmt.Fprintln(out, reference(d.kind, d.name), "deleted")
		}
	}
	return errors.Join(errs...)
}
