package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// annotation is one row: names that share a comment.
type annotation struct {
	names []string
	on    string // the kind of object, as the comment says
	text  string
}

// tables are the annotations by the kind that has them.
var tables = []struct{ on, title, head string }{
	{"a Service", "Annotations of Services", "Those of Cilium and MetalLB are read, too: [migrate.md](migrate.md#services). A value that is wrong, or a name that is nearly one of these, is told in an Event of the Service and by `seamark status`."},
	{"an EndpointSlice", "Annotations of EndpointSlices", "For slices that people write."},
	{"a node's Lease", "Annotations of nodes' Leases", "In `seamark-system`, written by the daemons; `drain` by `seamark drain`, too."},
}

// writeAnnotations writes a table for each kind of object that has some.
func writeAnnotations(page *bytes.Buffer, dir string) error {
	found, err := annotations(filepath.Join(dir, "types.go"))
	if err != nil {
		return err
	}
	written := 0
	for _, t := range tables {
		fmt.Fprintf(page, "\n## %s\n\n%s\n\n| annotation | |\n|---|---|\n", t.title, t.head)
		for _, a := range found {
			if a.on == t.on {
				fmt.Fprintf(page, "| `%s` | %s |\n", strings.Join(a.names, "`, `"), cell(a.text))
				written++
			}
		}
	}
	if written != len(found) {
		return fmt.Errorf("write annotations: %d of %d are on %q: begin the others' comments with NAME on one of these", written, len(found), tables)
	}
	return nil
}

// annotations reads the constants Annotation… of a file, with their comments.
// One without a comment belongs to the one before.
func annotations(path string) ([]annotation, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	var found []annotation
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			constant := spec.(*ast.ValueSpec)
			if !strings.HasPrefix(constant.Names[0].Name, "Annotation") {
				continue
			}
			name, err := strconv.Unquote(constant.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", constant.Names[0].Name, err)
			}
			if constant.Doc == nil && len(found) > 0 {
				last := &found[len(found)-1]
				last.names = append(last.names, name)
				continue
			}
			_, comment, _ := strings.Cut(prose(constant.Doc.Text()), " on ")
			a := annotation{names: []string{name}}
			for _, t := range tables {
				if rest, ok := strings.CutPrefix(comment, t.on); ok {
					a.on, a.text = t.on, strings.TrimLeft(rest, ":, ")
				}
			}
			found = append(found, a)
		}
	}
	return found, nil
}
