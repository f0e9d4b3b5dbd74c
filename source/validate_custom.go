package source

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/seamark-lb/seamark/api/v1alpha1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	sigsyaml "sigs.k8s.io/yaml"
)

// customSchema validates one of our kinds as an API server with our CRD would.
type customSchema struct {
	structural *structuralschema.Structural
	openAPI    validation.SchemaValidator
	rules      *cel.Validator // nil when the CRD has no CEL rules
}

// customSchemas compiles the CRDs: 40 ms, so at the first use only.
var customSchemas = sync.OnceValues(func() (map[schema.GroupVersionKind]customSchema, error) {
	files, err := fs.Glob(v1alpha1.CRDs, "crds/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list CRDs: %w", err)
	}
	schemas := map[schema.GroupVersionKind]customSchema{}
	for _, file := range files {
		data, err := v1alpha1.CRDs.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read CRD %s: %w", path.Base(file), err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := sigsyaml.Unmarshal(data, &crd); err != nil {
			return nil, fmt.Errorf("decode CRD %s: %w", path.Base(file), err)
		}
		for _, version := range crd.Spec.Versions {
			compiled, err := compileSchema(version.Schema.OpenAPIV3Schema)
			if err != nil {
				return nil, fmt.Errorf("compile CRD %s %s: %w", path.Base(file), version.Name, err)
			}
			schemas[schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}] = compiled
		}
	}
	return schemas, nil
})

func compileSchema(v1props *apiextensionsv1.JSONSchemaProps) (customSchema, error) {
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(v1props, &props, nil); err != nil {
		return customSchema{}, fmt.Errorf("convert schema: %w", err)
	}
	structural, err := structuralschema.NewStructural(&props)
	if err != nil {
		return customSchema{}, fmt.Errorf("read structural schema: %w", err)
	}
	openAPI, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return customSchema{}, fmt.Errorf("read OpenAPI schema: %w", err)
	}
	return customSchema{structural, openAPI, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

// admitCustom checks an object of one of our kinds against its CRD, sets its
// defaults, and then checks what a CRD cannot say.
func admitCustom(obj *unstructured.Unstructured, kind Kind) Problems {
	schemas, err := customSchemas()
	if err != nil {
		return Problems{{Message: err.Error(), Cure: "this is a defect of Seamark: please report it"}}
	}
	custom, ours := schemas[schema.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}]
	if !ours {
		return nil // another project's: its translation says what cannot be honoured
	}
	var problems Problems
	for _, p := range pruning.PruneWithOptions(obj.Object, custom.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		steps := splitPath(p)
		problems.add(p, didYouMean(steps[len(steps)-1], custom.siblings(steps)), "unknown field")
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(obj.Object, custom.structural)
	defaulting.Default(obj.Object, custom.structural)

	errs := validation.ValidateCustomResource(nil, obj.Object, custom.openAPI)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, custom.structural, obj.Object)...)
	problems.addNew(fieldProblems(errs))
	// CEL rules and Go types are for what is there and of the right type.
	if slices.ContainsFunc(errs, func(e *field.Error) bool {
		return e.Type == field.ErrorTypeTypeInvalid || e.Type == field.ErrorTypeRequired
	}) {
		return problems
	}
	// Ours go first: they quote the value, and name a cure.
	problems.addNew(checkCustom(obj, kind))
	if custom.rules != nil {
		ruleErrs, _ := custom.rules.Validate(context.Background(), nil, custom.structural, obj.Object, nil, celconfig.RuntimeCELCostBudget)
		problems.addNew(fieldProblems(ruleErrs))
	}
	return problems
}

// AdmitChange names what of an object that Admit takes may not replace old: the
// fields that are fixed once they are set.
func AdmitChange(old, obj *unstructured.Unstructured) Problems {
	problems := admitCustomChange(old, obj)
	if obj.GroupVersionKind() == (schema.GroupVersionKind{Version: "v1", Kind: KindSecret().Kind}) {
		problems = admitSecretChange(old, obj)
	}
	for i := range problems {
		problems[i].Object = objectName(obj)
	}
	return problems
}

func admitCustomChange(old, obj *unstructured.Unstructured) Problems {
	schemas, err := customSchemas()
	if err != nil {
		return nil // Admit has said so
	}
	custom, ours := schemas[obj.GroupVersionKind()]
	if !ours || custom.rules == nil {
		return nil
	}
	errs, _ := custom.rules.Validate(context.Background(), nil, custom.structural, obj.Object, old.Object, celconfig.RuntimeCELCostBudget)
	return fieldProblems(errs)
}

// siblings are the fields there are where the last step is not one.
func (s customSchema) siblings(steps []string) []string {
	at := s.structural
	for _, step := range steps[:len(steps)-1] {
		if next, ok := at.Properties[step]; ok {
			at = &next
		} else if at.Items != nil {
			at = at.Items
		} else {
			return nil
		}
	}
	return slices.Collect(maps.Keys(at.Properties))
}

func checkCustom(obj *unstructured.Unstructured, kind Kind) Problems {
	switch kind.Kind {
	case "IPPool":
		pool, err := typedObject[v1alpha1.IPPool](obj)
		if err != nil {
			return nil // wrong metadata, which has been said
		}
		_, problems := poolRanges(&pool.Spec)
		return append(problems, poolSelectors(&pool.Spec)...)
	case "L2Policy":
		policy, err := typedObject[v1alpha1.L2Policy](obj)
		if err != nil {
			return nil
		}
		return checkL2Policy(&policy.Spec)
	case "BGPInstance":
		instance, err := typedObject[v1alpha1.BGPInstance](obj)
		if err != nil {
			return nil
		}
		return checkSelector("nodeSelector", instance.Spec.NodeSelector)
	case "BGPPeer":
		peer, err := typedObject[v1alpha1.BGPPeer](obj)
		if err != nil {
			return nil
		}
		return peerSelectors(&peer.Spec)
	case "BGPAdvertisement":
		advertisement, err := typedObject[v1alpha1.BGPAdvertisement](obj)
		if err != nil {
			return nil
		}
		return advertisementSelectors(&advertisement.Spec)
	case "AnnouncementSlice":
		slice, err := typedObject[v1alpha1.AnnouncementSlice](obj)
		if err != nil {
			return nil
		}
		_, problems := AssignmentRows(slice)
		return problems
	}
	return nil
}

func poolSelectors(spec *v1alpha1.IPPoolSpec) Problems {
	return append(checkSelector("serviceSelector", spec.ServiceSelector), checkSelector("namespaceSelector", spec.NamespaceSelector)...)
}

func peerSelectors(spec *v1alpha1.BGPPeerSpec) Problems {
	problems := nodeSelectors(spec.NodeSelectors)
	for i, f := range spec.Families {
		problems = append(problems, checkSelector(fmt.Sprintf("families[%d].advertisements", i), f.Advertisements)...)
	}
	return problems
}

func advertisementSelectors(spec *v1alpha1.BGPAdvertisementSpec) Problems {
	problems := append(nodeSelectors(spec.NodeSelectors), checkSelector("peerSelector", spec.PeerSelector)...)
	for i, a := range spec.Advertisements {
		problems = append(problems, checkSelector(fmt.Sprintf("advertisements[%d].serviceSelector", i), a.ServiceSelector)...)
		problems = append(problems, checkSelector(fmt.Sprintf("advertisements[%d].poolSelector", i), a.PoolSelector)...)
	}
	return problems
}

func nodeSelectors(selectors []metav1.LabelSelector) Problems {
	var problems Problems
	for i := range selectors {
		problems = append(problems, checkSelector(fmt.Sprintf("nodeSelectors[%d]", i), &selectors[i])...)
	}
	return problems
}

func checkL2Policy(spec *v1alpha1.L2PolicySpec) Problems {
	problems := append(checkSelector("serviceSelector", spec.ServiceSelector), checkSelector("nodeSelector", spec.NodeSelector)...)
	problems = append(problems, checkSelector("poolSelector", spec.PoolSelector)...)
	for i := range spec.PreferredNodes {
		problems = append(problems, checkSelector(fmt.Sprintf("preferredNodes[%d].nodeSelector", i), &spec.PreferredNodes[i].NodeSelector)...)
	}
	for i, expr := range spec.Interfaces {
		if _, err := regexp.Compile(expr); err != nil {
			problems.add(fmt.Sprintf("spec.interfaces[%d]", i), "write an RE2 expression such as ^eth[0-9]+",
				"%q is no regular expression: %s", expr, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
	}
	return problems
}

func checkSelector(name string, selector *metav1.LabelSelector) Problems {
	return fieldProblems(metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, field.NewPath("spec", name)))
}
