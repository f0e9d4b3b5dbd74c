package foreign

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fields are those of an object within the one that is translated. A field
// that is absent or null reads as the zero value; one of a wrong type does,
// too, and has a Finding. What was not read when the translation is over has
// one as well, so that nothing is dropped in silence.
type fields struct {
	t      *translation
	path   string // "" of the whole object
	values map[string]any
	read   map[string]bool
}

// at is the path of a field.
func (f *fields) at(name string) string {
	if f.path == "" {
		return name
	}
	return f.path + "." + name
}

func (f *fields) has(name string) bool { return f.values[name] != nil }

func (f *fields) value(name string) any {
	f.read[name] = true
	return f.values[name]
}

func (f *fields) sayUnread() {
	for _, name := range slices.Sorted(maps.Keys(f.values)) {
		if !f.read[name] {
			f.t.unhonoured(f.at(name), "remove it, or report it if your version of the API has it", "is no field that Seamark knows")
		}
	}
}

// valueOf reads a field of a type that JSON has. typeName and cure are for the
// Finding about another.
func valueOf[T any](f *fields, name, typeName, cure string) T {
	raw := f.value(name)
	v, ok := raw.(T)
	if raw != nil && !ok {
		f.t.fatal(f.at(name), cure, "must be %s", typeName)
	}
	return v
}

func (f *fields) text(name string) string {
	return valueOf[string](f, name, "a string", "put it in quotes")
}

func (f *fields) flag(name string) bool {
	return valueOf[bool](f, name, "true or false", "write true or false, without quotes")
}

// number reads an integer that has to be from least to most; 0 when absent.
func (f *fields) number(name string, least, most int64) int64 {
	n := valueOf[int64](f, name, "a whole number", "write digits alone, without quotes")
	if f.has(name) && (n < least || n > most) {
		f.t.fatal(f.at(name), fmt.Sprintf("write a number from %d to %d", least, most), "%d is out of range", n)
		return 0
	}
	return n
}

// duration reads one such as 90s.
func (f *fields) duration(name string) time.Duration {
	text := f.text(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		f.t.fatal(f.at(name), "write a duration such as 90s", "%q is no duration", text)
		return 0
	}
	return d
}

// oneOf reads a string that is one of those allowed, or absent.
func (f *fields) oneOf(name string, allowed ...string) string {
	s := f.text(name)
	if s != "" && !slices.Contains(allowed, s) {
		f.t.fatal(f.at(name), fmt.Sprintf("write one of %q", allowed), "%q is not a value it can have", s)
		return ""
	}
	return s
}

// within begins to read an object.
func (f *fields) within(path string, values map[string]any) *fields {
	inner := &fields{t: f.t, path: path, values: values, read: map[string]bool{}}
	f.t.all = append(f.t.all, inner)
	return inner
}

// object reads an object; the fields of an absent one are absent.
func (f *fields) object(name string) *fields {
	values := valueOf[map[string]any](f, name, "an object", "write key: value lines, indented under it")
	return f.within(f.at(name), values)
}

func (f *fields) list(name string) []any {
	return valueOf[[]any](f, name, "a list", "write a list, each item after a dash")
}

// empty says whether a list is absent, or there and without items.
func (f *fields) empty(name string) bool {
	list, isList := f.values[name].([]any)
	return !f.has(name) || isList && len(list) == 0
}

func (f *fields) objects(name string) []*fields {
	var all []*fields
	for i, item := range f.list(name) {
		path := fmt.Sprintf("%s[%d]", f.at(name), i)
		values, ok := item.(map[string]any)
		if !ok {
			f.t.fatal(path, "write key: value lines", "must be an object")
			continue
		}
		all = append(all, f.within(path, values))
	}
	return all
}

// texts reads a list of strings. One that is there twice is read once.
func (f *fields) texts(name string) []string {
	var all []string
	for i, item := range f.list(name) {
		s, ok := item.(string)
		if !ok {
			f.t.fatal(fmt.Sprintf("%s[%d]", f.at(name), i), "put it in quotes", "must be a string")
			continue
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// selector reads a label selector; nil when absent.
func (f *fields) selector(name string) *metav1.LabelSelector {
	if !f.has(name) {
		f.read[name] = true
		return nil
	}
	values := valueOf[map[string]any](f, name, "a label selector", "write matchLabels: or matchExpressions: under it")
	return f.labelSelector(f.at(name), values)
}

func (f *fields) selectors(name string) []metav1.LabelSelector {
	var all []metav1.LabelSelector
	for i, item := range f.list(name) {
		path := fmt.Sprintf("%s[%d]", f.at(name), i)
		values, ok := item.(map[string]any)
		if !ok {
			f.t.fatal(path, "write matchLabels: or matchExpressions: under it", "must be a label selector")
			continue
		}
		all = append(all, *f.labelSelector(path, values))
	}
	return all
}

func (f *fields) labelSelector(path string, values map[string]any) *metav1.LabelSelector {
	in, selector := f.within(path, values), &metav1.LabelSelector{}
	labels := in.object("matchLabels")
	for _, key := range slices.Sorted(maps.Keys(labels.values)) {
		metav1.AddLabelToSelector(selector, key, labels.text(key))
	}
	for _, e := range in.objects("matchExpressions") {
		selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: e.text("key"), Operator: metav1.LabelSelectorOperator(e.text("operator")), Values: e.texts("values")})
	}
	for _, e := range metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, field.NewPath(path)) {
		message, _, cut := strings.Cut(e.ErrorBody(), ", regex used for validation")
		if cut {
			message += ")"
		}
		f.t.fatal(e.Field, "correct the selector", "%s", message)
	}
	return selector
}
