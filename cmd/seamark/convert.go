package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/seamark-lb/seamark/source"
	"github.com/seamark-lb/seamark/source/foreign"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

func newConvert() *cobra.Command {
	var files []string
	var output string
	cmd := &cobra.Command{
		Use:   "convert -f FILE|DIR|-",
		Short: "Print manifests of Cilium and MetalLB as Seamark's own",
		Long: "Print manifests of Cilium's and MetalLB's load balancing, and the annotations of their\n" +
			"Services, as Seamark's own. Other objects are printed as they are. What cannot be\n" +
			"honoured is said in a comment above the object, and on standard error.\n" +
			"Give all manifests at once: some of the objects mean something only together.",
		Example: "  seamark convert -f metallb.yaml > seamark.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			manifests, err := readFiles(files, cmd.InOrStdin(), source.ReadObjects)
			if err != nil {
				return fmt.Errorf("nothing was converted:\n%w", err)
			}
			text, err := convertAll(manifests, cmd.ErrOrStderr())
			if output == "" {
				_, writeErr := io.WriteString(cmd.OutOrStdout(), text)
				return errors.Join(err, writeErr)
			}
			return errors.Join(err, os.WriteFile(output, []byte(text), 0o644))
		},
	}
	fileFlag(cmd, &files)
	cmd.MarkFlagRequired("filename")
	cmd.Flags().StringVarP(&output, "output", "o", "", "file to write to (default: standard output)")
	return cmd
}

// convertAll returns the YAML documents that the manifests become. What is to
// be said of them goes to errOut, too. The error says how many objects could
// not be converted; the others were.
func convertAll(manifests []source.Manifest, errOut io.Writer) (string, error) {
	objects := make([]*unstructured.Unstructured, len(manifests))
	for i, m := range manifests {
		objects[i] = m.Object
	}
	var documents []string
	refused := 0
	for i, c := range foreign.Convert(objects) {
		problems, fatal := problemsOf(c, manifests[i])
		if fatal {
			refused++
		}
		for _, p := range manifests[i].Locate(problems) {
			fmt.Fprintln(errOut, p.Error())
		}
		document, err := documentsOf(c, problems, fatal)
		if err != nil {
			return "", err
		}
		documents = append(documents, document...)
	}
	text := strings.Join(documents, "---\n")
	if refused > 0 {
		return text, fmt.Errorf("%d of %d objects cannot be converted", refused, len(manifests))
	}
	return text, nil
}

// problemsOf are what is to be said of the object; fatal when it cannot be converted.
func problemsOf(c foreign.Conversion, m source.Manifest) (problems source.Problems, fatal bool) {
	if c.Changed && m.Kind.Foreign() {
		problems = source.Admit(m.Object.DeepCopy()) // a copy: it sets defaults
		fatal = len(problems) > 0
	}
	if c.Changed && !fatal {
		problems = refusals(c.Objects)
		fatal = len(problems) > 0
	}
	name := nameOf(c.From)
	for _, f := range c.Findings {
		if !f.Fatal { // Admit has said so
			problems = append(problems, source.Problem{Object: name, Field: f.Field, Message: f.Message, Cure: f.Cure})
		}
	}
	return problems, fatal
}

// refusals is why seamark apply would not take the objects. (Each alone was
// right; what several of theirs say together in one of ours need not be.)
func refusals(objects []runtime.Object) source.Problems {
	var problems source.Problems
	for _, o := range objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return source.Problems{{Message: err.Error()}}
		}
		for _, p := range source.Admit((&unstructured.Unstructured{Object: content}).DeepCopy()) {
			problems = append(problems, source.Problem{Object: p.Object, Message: fmt.Sprintf("%s %s", p.Field, p.Message), Cure: p.Cure})
		}
	}
	return problems
}

// nameOf is Kind namespace/name.
func nameOf(obj *unstructured.Unstructured) string {
	return strings.TrimSpace(obj.GetKind() + " " + source.ObjectKey(obj.GetNamespace(), obj.GetName()))
}

// documentsOf writes one object: comments, and what it becomes.
func documentsOf(c foreign.Conversion, problems source.Problems, fatal bool) ([]string, error) {
	var comment strings.Builder
	name := nameOf(c.From)
	switch {
	case fatal:
		fmt.Fprintf(&comment, "# %s cannot be converted:\n", name)
	case len(c.Objects) == 0:
		fmt.Fprintf(&comment, "# %s: what it says is where other objects name it\n", name)
	case c.Changed:
		fmt.Fprintf(&comment, "# from %s %s\n", c.From.GetAPIVersion(), name)
	default:
		fmt.Fprintf(&comment, "# %s: as it was\n", name)
	}
	for _, p := range problems {
		if p.Object == name {
			p.Object = ""
		}
		fmt.Fprintf(&comment, "# %s\n", strings.ReplaceAll(p.Error(), "\n", " "))
	}
	if fatal || len(c.Objects) == 0 {
		return []string{comment.String()}, nil
	}
	var documents []string
	for i, o := range c.Objects {
		body, err := bodyOf(o)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if i == 0 {
			body = comment.String() + body
		}
		documents = append(documents, body)
	}
	return documents, nil
}

// bodyOf is the object as YAML, without the status that Seamark is to write.
func bodyOf(o runtime.Object) (string, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return "", err
	}
	if _, theirs := o.(*unstructured.Unstructured); !theirs {
		delete(content, "status")
	}
	data, err := yaml.Marshal(content)
	return string(data), err
}
