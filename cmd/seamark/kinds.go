package main

import (
	"fmt"
	"strings"

	"github.com/seamark-lb/seamark/source"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// announcementKind is shown from the tables, an address a row, and not as the
// AnnouncementSlices that hold it.
const announcementKind = "announcement"

func isAnnouncement(name string) bool {
	name = strings.ToLower(name)
	return name == announcementKind || name == announcementKind+"s"
}

// findKind looks up a kind as people write it.
func findKind(name string) (source.Kind, error) {
	if kind, ok := source.FindKind(name); ok {
		return kind, nil
	}
	if guess := closest(strings.ToLower(name), kindNames()); guess != "" {
		return source.Kind{}, fmt.Errorf("unknown kind %q; did you mean %s?", name, guess)
	}
	return source.Kind{}, fmt.Errorf("unknown kind %q; there are %s", name, strings.Join(kindNames(), ", "))
}

func kindNames() []string {
	names := []string{announcementKind, bfdKind}
	for _, k := range source.Kinds() {
		names = append(names, k.Singular)
	}
	return names
}

// closest returns the name that is most likely meant, or "". It guesses as
// cobra does for commands.
func closest(name string, known []string) string {
	guesser := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, k := range known {
		guesser.AddCommand(&cobra.Command{Use: k, Run: func(*cobra.Command, []string) {}})
	}
	if guesses := guesser.SuggestionsFor(name); len(guesses) > 0 {
		return guesses[0]
	}
	return ""
}

// scope is where objects are looked for.
type scope struct {
	namespace string
	all       bool
}

// flags gives cmd -n and -A.
func (s *scope) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&s.namespace, "namespace", "n", "", "namespace (default: default; for leases "+source.Namespace+")")
	cmd.Flags().BoolVarP(&s.all, "all-namespaces", "A", false, "objects of all namespaces")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
}

// of returns the namespace to look in for a kind: "" is all, or none.
func (s *scope) of(kind source.Kind) string {
	switch {
	case !kind.Namespaced || s.all:
		return ""
	case s.namespace != "":
		return s.namespace
	case kind.Kind == source.KindLease().Kind:
		return source.Namespace // where Seamark's own are
	}
	return metav1.NamespaceDefault
}

// target is what a command line names: a kind, and some of its objects or all.
type target struct {
	kind  string
	names []string
}

// parseTarget reads KIND [NAME...] or KIND/NAME.
func parseTarget(args []string) (target, error) {
	kind, name, slash := strings.Cut(args[0], "/")
	switch {
	case slash && name == "":
		return target{}, fmt.Errorf("%q names no object: want KIND/NAME", args[0])
	case slash && len(args) > 1:
		return target{}, fmt.Errorf("%q and %q: want KIND NAME..., or one KIND/NAME", args[0], args[1])
	case slash:
		return target{kind, []string{name}}, nil
	}
	return target{kind, args[1:]}, nil
}

// reference is kind.group/name, as kubectl names an object.
func reference(kind source.Kind, name string) string {
	if kind.Group == "" {
		return kind.Singular + "/" + name
	}
	return kind.Singular + "." + kind.Group + "/" + name
}
