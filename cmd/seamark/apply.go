package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/source"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func newApply(c *cli) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create objects, or bring those there are in line with manifests",
		Long: "Create objects, or bring those there are in line with manifests (YAML or JSON).\n" +
			"Labels, annotations and spec become what the manifest says; the status stays.\n" +
			"When anything in any of the files is wrong, nothing is applied. What is right and\n" +
			"has no effect in this version is applied, with a warning.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			manifests, err := readManifests(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			client := c.client()
			for _, m := range manifests {
				for _, p := range m.Locate(source.Unhonoured(m.Object)) {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", p.Error())
				}
				did, err := apply(cmd.Context(), client, m)
				if err != nil {
					return fmt.Errorf("%s:%d: apply %s: %w", m.File, m.Line, reference(m.Kind, m.Object.GetName()), err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), reference(m.Kind, m.Object.GetName()), did)
			}
			return nil
		},
	}
	fileFlag(cmd, &files)
	cmd.MarkFlagRequired("filename")
	return cmd
}

func fileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "filename", "f", nil, "manifest, directory of manifests (*.yaml, *.yml, *.json), or - for standard input; may be given several times")
}

// maxTries bounds how often an object that others keep changing is tried again.
const maxTries = 10

// apply makes the object what the manifest says, and returns what it took:
// created, configured or unchanged.
func apply(ctx context.Context, client *control.Client, m source.Manifest) (string, error) {
	var err error
	for range maxTries {
		var did string
		did, err = applyOnce(ctx, client, m)
		// Created or deleted or changed by another since it was read: read again.
		lostRace := errors.Is(err, source.ErrExists) || errors.Is(err, source.ErrConflict) || errors.Is(err, source.ErrNotFound)
		if !lostRace || ctx.Err() != nil {
			return did, err
		}
	}
	return "", err
}

func applyOnce(ctx context.Context, client *control.Client, m source.Manifest) (string, error) {
	now, err := client.Get(ctx, m.Kind, m.Object.GetNamespace(), m.Object.GetName())
	if errors.Is(err, source.ErrNotFound) {
		_, err = client.Create(ctx, m.Object)
		return "created", err
	}
	if err != nil {
		return "", err
	}
	wanted := merge(now, m)
	if equality.Semantic.DeepEqual(now.Object, wanted.Object) {
		return "unchanged", nil
	}
	written, err := client.Update(ctx, wanted)
	if err == nil && written.GetResourceVersion() == now.GetResourceVersion() {
		return "unchanged", nil // a Secret: what it holds is not told
	}
	return "configured", err
}

// merge returns now with what the manifest is to decide replaced: labels,
// annotations, and every field but metadata, and but status where others write it.
func merge(now *unstructured.Unstructured, m source.Manifest) *unstructured.Unstructured {
	wanted := now.DeepCopy()
	wanted.SetLabels(m.Object.GetLabels())
	wanted.SetAnnotations(m.Object.GetAnnotations())
	_, hasStatus := m.Object.Object["status"]
	kept := func(field string) bool {
		return field == "metadata" || field == "status" && (m.Kind.HasStatus() || !hasStatus)
	}
	for field := range now.Object {
		if !kept(field) {
			delete(wanted.Object, field)
		}
	}
	for field, value := range m.Object.Object {
		if !kept(field) {
			wanted.Object[field] = value
		}
	}
	return wanted
}

// readManifests reads the manifests of all files, or says all that is wrong
// with them, and that nothing was changed.
func readManifests(files []string, stdin io.Reader) ([]source.Manifest, error) {
	manifests, err := readFiles(files, stdin, source.ReadManifests)
	if err != nil {
		return nil, fmt.Errorf("nothing was changed, the manifests are not right:\n%w", err)
	}
	if len(manifests) == 0 {
		return nil, errors.New("there are no objects in the manifests")
	}
	return manifests, nil
}

// readFiles reads all files with read. An object may be there once.
func readFiles(files []string, stdin io.Reader, read func(string, io.Reader) ([]source.Manifest, error)) ([]source.Manifest, error) {
	var manifests []source.Manifest
	var errs []error
	first := map[string]source.Manifest{}
	for _, name := range files {
		paths, err := expand(name)
		if err != nil {
			errs = append(errs, err)
		}
		for _, path := range paths {
			found, err := readFile(path, stdin, read)
			if err != nil {
				errs = append(errs, err)
			}
			for _, m := range found {
				key := fmt.Sprint(m.Object.GroupVersionKind().GroupKind(), m.Object.GetNamespace(), "/", m.Object.GetName())
				if before, ok := first[key]; ok && m.Object.GetName() != "" {
					errs = append(errs, source.Problem{File: m.File, Line: m.Line, Object: m.Object.GetKind() + " " + m.Object.GetName(),
						Message: fmt.Sprintf("is already in %s:%d", before.File, before.Line), Cure: "remove one"})
				}
				first[key] = m
			}
			manifests = append(manifests, found...)
		}
	}
	return manifests, errors.Join(errs...)
}

// expand returns the manifests of a directory, or name itself.
func expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			paths = append(paths, filepath.Join(name, e.Name()))
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("read manifests: directory %s holds no *.yaml, *.yml or *.json", name)
	}
	return paths, nil
}

func readFile(path string, stdin io.Reader, read func(string, io.Reader) ([]source.Manifest, error)) ([]source.Manifest, error) {
	if path == "-" {
		return read("<stdin>", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read manifests: %w", err)
	}
	defer f.Close()
	return read(path, f)
}
