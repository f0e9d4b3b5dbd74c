package foreign

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// anyOf returns one selector that means what any one of several does, nil for
// all objects. Without selectors it is nil, too. ok is false when no one
// selector can say it; then it means what the first does.
func anyOf(selectors []metav1.LabelSelector) (one *metav1.LabelSelector, ok bool) {
	if len(selectors) == 0 || slices.ContainsFunc(selectors, selectsAll) {
		return nil, true
	}
	if len(selectors) == 1 {
		return &selectors[0], true
	}
	key, values, ok := valuesOfOneKey(selectors[0])
	for _, s := range selectors[1:] {
		k, more, simple := valuesOfOneKey(s)
		ok = ok && simple && k == key
		values = append(values, more...)
	}
	if !ok {
		return &selectors[0], false
	}
	slices.Sort(values)
	return in(key, slices.Compact(values)...), true
}

func selectsAll(s metav1.LabelSelector) bool { return len(s.MatchLabels)+len(s.MatchExpressions) == 0 }

// valuesOfOneKey reads a selector that asks for one label's value alone.
func valuesOfOneKey(s metav1.LabelSelector) (key string, values []string, ok bool) {
	switch {
	case len(s.MatchLabels) == 1 && len(s.MatchExpressions) == 0:
		key = slices.Collect(maps.Keys(s.MatchLabels))[0]
		return key, []string{s.MatchLabels[key]}, true
	case len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 1 && s.MatchExpressions[0].Operator == metav1.LabelSelectorOpIn:
		return s.MatchExpressions[0].Key, s.MatchExpressions[0].Values, true
	}
	return "", nil, false
}

// in selects by the values of one label.
func in(key string, values ...string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values},
	}}
}

// nothing is a selector of a label that nothing has: in some of Cilium's
// fields an absent selector selects nothing, and in Seamark's all.
func nothing() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "seamark.dev/none", Operator: metav1.LabelSelectorOpExists},
	}}
}
