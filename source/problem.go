package source

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/source/spelling"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Problem is one thing that is wrong with an object, and how to mend it.
// It prints as
//
//	pool.yaml:7: IPPool blue: spec.blocks[0].start: is after stop 10.0.0.1: swap them
type Problem struct {
	File string
	Line int // 1-based; 0: not known
	// Object is kind and name, such as "Service default/web"; "" when it has none yet.
	Object string
	// Field is the path of the field, such as spec.blocks[0].cidr; "" is the whole object.
	Field   string
	Message string
	Cure    string
}

func (p Problem) Error() string {
	var parts []string
	switch {
	case p.File != "" && p.Line > 0:
		parts = append(parts, fmt.Sprintf("%s:%d", p.File, p.Line))
	case p.File != "":
		parts = append(parts, p.File)
	}
	for _, s := range []string{p.Object, p.Field, p.Message, p.Cure} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Problems are all that is wrong. As an error it prints one per line.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// err is nil when there is no problem.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

func (ps *Problems) add(fieldPath, cure, format string, args ...any) {
	*ps = append(*ps, Problem{Field: fieldPath, Message: fmt.Sprintf(format, args...), Cure: cure})
}

// addNew adds what is said of fields that nothing was said of yet.
func (ps *Problems) addNew(more Problems) {
	for _, p := range more {
		if !slices.ContainsFunc(*ps, func(q Problem) bool { return q.Field == p.Field }) {
			*ps = append(*ps, p)
		}
	}
}

// fieldProblems puts Kubernetes' validation errors into our words.
func fieldProblems(errs field.ErrorList) Problems {
	var ps Problems
	for _, e := range errs {
		p := Problem{Field: strings.TrimPrefix(e.Field, "<nil>"), Message: e.Detail}
		// The OpenAPI validator repeats the path in its text.
		if _, rest, ok := strings.Cut(e.Detail, " in body "); ok {
			p.Message = rest
		}
		switch e.Type {
		case field.ErrorTypeRequired:
			p.Message, p.Cure = "is missing", "add it"
		case field.ErrorTypeNotSupported:
			p.Message = fmt.Sprintf("%v is not a value it can have", quoted(e.BadValue))
			p.Cure = strings.Replace(e.Detail, "supported values: ", "write one of ", 1)
		case field.ErrorTypeTypeInvalid:
			// "must be of type boolean: "string"": the tail is the type found.
			want, got, _ := strings.Cut(p.Message, ": ")
			p.Message = fmt.Sprintf("%s, not %s", want, strings.Trim(got, `"`))
			p.Cure = typeCure(strings.TrimPrefix(want, "must be of type "), strings.Trim(got, `"`))
		case field.ErrorTypeDuplicate:
			p.Message, p.Cure = fmt.Sprintf("%v is there twice", quoted(e.BadValue)), "remove one"
		case field.ErrorTypeTooMany, field.ErrorTypeTooLong, field.ErrorTypeTooFew, field.ErrorTypeTooShort:
			p.Cure = "see the limits in the reference of the kind"
		default:
			if s, ok := e.BadValue.(string); ok && s != "" && s != "object" && s != "string" {
				p.Message = fmt.Sprintf("%q %s", s, p.Message)
			}
			p.Cure = "correct it"
		}
		p.Message = withoutRegex(p.Message)
		ps = append(ps, p)
	}
	return ps
}

// withoutRegex cuts what Kubernetes' messages add for machines.
func withoutRegex(message string) string {
	return regexUsed.ReplaceAllString(message, ")")
}

var regexUsed = regexp.MustCompile(`,? ?\(?regex used for validation is '[^']*'\)`)

func quoted(v any) any {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return v
}

// typeCure says how to write a value of the type wanted. The types are JSON schema's.
func typeCure(want, got string) string {
	switch {
	case want == "string" && (got == "boolean" || got == "integer" || got == "number"):
		return `put it in quotes (YAML reads a bare yes, no, on, off, true, false and numbers as something else)`
	case want == "boolean":
		return "write true or false, without quotes"
	case want == "integer" || want == "number":
		return "write a number, without quotes"
	case want == "array":
		return "write a list, each item after a dash"
	case want == "object":
		return "write key: value lines, indented under it"
	}
	return "write it as " + want
}

// didYouMean offers what is closest to name among known, or else all of known.
func didYouMean(name string, known []string) string {
	if best := spelling.Nearest(name, known, max(2, len(name)/3)); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(known) == 0 {
		return "remove it"
	}
	known = slices.Sorted(slices.Values(known))
	return "remove it, or write one of " + strings.Join(known, ", ")
}
