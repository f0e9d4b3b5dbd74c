package source

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Admit does for an object what an API server does before it stores one: it
// sets the defaults and names everything that is wrong. Each problem carries
// the object and the field, and no file.
func Admit(obj *unstructured.Unstructured) Problems {
	problems := admit(obj)
	for i := range problems {
		problems[i].Object = objectName(obj)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
	return problems
}

func admit(obj *unstructured.Unstructured) Problems {
	// Get…() of unstructured returns "" for what is no string.
	apiVersion, kindName := obj.GetAPIVersion(), obj.GetKind()
	kind, err := KindOf(apiVersion, kindName)
	if err != nil {
		return Problems{err.(Problem)}
	}
	problems := admitMetadata(obj, kind)
	if kind.Foreign() {
		return append(problems, admitForeign(obj, kind)...)
	}
	switch kind.Kind {
	case "Service":
		problems = append(problems, admitTyped(obj, defaultService, checkService)...)
	case "EndpointSlice":
		problems = append(problems, admitTyped(obj, defaultEndpointSlice, checkEndpointSlice)...)
	case "Node":
		problems = append(problems, admitTyped(obj, nil, checkNode)...)
	case "Namespace":
		problems = append(problems, admitTyped[corev1.Namespace](obj, nil, nil)...)
	case "Secret":
		problems = append(problems, admitSecret(obj)...)
	case "Lease":
		problems = append(problems, admitTyped(obj, nil, checkLease)...)
	default:
		problems = append(problems, admitCustom(obj, kind)...)
	}
	return problems
}

// objectName is "Service default/web", as far as the object says.
func objectName(obj *unstructured.Unstructured) string {
	name := obj.GetName()
	if kind, err := KindOf(obj.GetAPIVersion(), obj.GetKind()); err == nil && kind.Namespaced && name != "" {
		namespace := obj.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		name = namespace + "/" + name
	}
	return strings.TrimSpace(obj.GetKind() + " " + name)
}

func admitMetadata(obj *unstructured.Unstructured, kind Kind) Problems {
	var problems Problems
	raw, ok := obj.Object["metadata"].(map[string]any)
	if !ok {
		problems.add("metadata", "write metadata: with a name: under it", "is missing or no object")
		return problems
	}
	checkTypes(&problems, "metadata", raw, reflect.TypeFor[metav1.ObjectMeta]())
	if len(problems) > 0 {
		return problems
	}
	delete(raw, "managedFields")
	name, checkName := obj.GetName(), validation.IsDNS1123Subdomain
	switch kind.Kind {
	case "Service":
		checkName = validation.IsDNS1035Label
	case "Namespace":
		checkName = validation.IsDNS1123Label
	}
	if name == "" {
		problems.add("metadata.name", "add it", "is missing")
	} else if msgs := checkName(name); len(msgs) > 0 {
		problems.add("metadata.name", "choose another name", "%q: %s", name, withoutRegex(strings.Join(msgs, "; ")))
	}
	switch namespace := obj.GetNamespace(); {
	case !kind.Namespaced && namespace != "":
		problems.add("metadata.namespace", "remove it", "%s is not namespaced", kind.Kind)
	case kind.Namespaced && namespace == "":
		obj.SetNamespace(metav1.NamespaceDefault)
	case kind.Namespaced:
		if msgs := validation.IsDNS1123Label(namespace); len(msgs) > 0 {
			problems.add("metadata.namespace", "choose another name", "%q: %s", namespace, withoutRegex(strings.Join(msgs, "; ")))
		}
	}
	path := field.NewPath("metadata")
	errs := metav1validation.ValidateLabels(obj.GetLabels(), path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(obj.GetAnnotations(), path.Child("annotations"))...)
	return append(problems, fieldProblems(errs)...)
}

// admitTyped checks an object of one of Kubernetes' own kinds against its Go
// type, then sets defaults, then checks what the type cannot say.
func admitTyped[T any](obj *unstructured.Unstructured, setDefaults func(*T), check func(*T) Problems) Problems {
	var problems Problems
	withoutMeta := map[string]any{}
	for k, v := range obj.Object {
		if k != "metadata" {
			withoutMeta[k] = v
		}
	}
	checkTypes(&problems, "", withoutMeta, reflect.TypeFor[T]())
	if len(problems) > 0 {
		return problems
	}
	typed, err := typedObject[T](obj)
	if err != nil {
		return nil // metadata is of the wrong type, and that has been said
	}
	if setDefaults != nil {
		setDefaults(typed)
		if err := replaceContent(obj, typed); err != nil {
			return Problems{{Message: err.Error(), Cure: "correct it"}}
		}
	}
	if check != nil {
		return check(typed)
	}
	return nil
}

// typedObject decodes obj into its Go type.
func typedObject[T any](obj *unstructured.Unstructured) (*T, error) {
	data, err := json.Marshal(obj.Object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", objectName(obj), err)
	}
	typed := new(T)
	if err := json.Unmarshal(data, typed); err != nil {
		return nil, fmt.Errorf("decode %s: %w", objectName(obj), err)
	}
	return typed, nil
}

// replaceContent writes typed's spec and the like back into obj. Metadata and
// status stay as they were written, so that no null or empty one appears.
func replaceContent(obj *unstructured.Unstructured, typed any) error {
	data, err := json.Marshal(typed)
	if err != nil {
		return fmt.Errorf("encode %s: %w", objectName(obj), err)
	}
	fresh := &unstructured.Unstructured{}
	if err := fresh.UnmarshalJSON(data); err != nil {
		return fmt.Errorf("decode %s: %w", objectName(obj), err)
	}
	for k, v := range fresh.Object {
		if k != "metadata" && k != "status" {
			obj.Object[k] = v
		}
	}
	return nil
}

// checkTypes compares decoded JSON with the Go type it is to be decoded into,
// and names every unknown field and every value of a wrong type. (A decoder
// stops at the first.)
func checkTypes(problems *Problems, path string, value any, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if value == nil {
		return
	}
	wrong := func(want string) {
		problems.add(path, typeCure(want, jsonType(value)), "must be of type %s, not %s", want, jsonType(value))
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		data, err := json.Marshal(value)
		if err == nil {
			err = json.Unmarshal(data, reflect.New(t).Interface())
		}
		if err != nil {
			problems.add(path, "correct it", "%s is no %s: %v", data, t.Name(), err)
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		object, ok := value.(map[string]any)
		if !ok {
			wrong("object")
			return
		}
		fields := jsonFields(t)
		for key, v := range object {
			at := join(path, key)
			if fieldType, ok := fields[key]; ok {
				checkTypes(problems, at, v, fieldType)
				continue
			}
			known := make([]string, 0, len(fields))
			for name := range fields {
				known = append(known, name)
			}
			problems.add(at, didYouMean(key, known), "unknown field")
		}
	case reflect.Map:
		object, ok := value.(map[string]any)
		if !ok {
			wrong("object")
			return
		}
		for key, v := range object {
			checkTypes(problems, fmt.Sprintf("%s[%s]", path, key), v, t.Elem())
		}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			if _, ok := value.(string); !ok {
				wrong("string")
			}
			return
		}
		list, ok := value.([]any)
		if !ok {
			wrong("array")
			return
		}
		for i, v := range list {
			checkTypes(problems, fmt.Sprintf("%s[%d]", path, i), v, t.Elem())
		}
	case reflect.String:
		if _, ok := value.(string); !ok {
			wrong("string")
		}
	case reflect.Bool:
		if _, ok := value.(bool); !ok {
			wrong("boolean")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := value.(int64)
		if !ok {
			wrong("integer")
		} else if reflect.New(t).Elem().OverflowInt(n) {
			problems.add(path, "write a smaller number", "%d does not fit %d bits", n, t.Bits())
		}
	case reflect.Float32, reflect.Float64:
		switch value.(type) {
		case int64, float64:
		default:
			wrong("number")
		}
	}
}

// jsonFields are the JSON names of a struct's fields, those of inlined structs among them.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && (name == "" || strings.Contains(options, "inline")) {
			for k, v := range jsonFields(f.Type) {
				fields[k] = v
			}
			continue
		}
		if name != "" && name != "-" {
			fields[name] = f.Type
		}
	}
	return fields
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// jsonType names a decoded value's type as JSON schema does.
func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "boolean"
	case int64:
		return "integer"
	case float64:
		return "number"
	case []any:
		return "array"
	}
	return "object"
}

func checkLease(l *coordinationv1.Lease) Problems {
	var problems Problems
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		problems.add("spec.leaseDurationSeconds", "write a number of seconds above 0", "%d is not above 0", *d)
	}
	return problems
}

func checkNode(n *corev1.Node) Problems {
	var problems Problems
	for i, cidr := range n.Spec.PodCIDRs {
		checkPrefix(&problems, fmt.Sprintf("spec.podCIDRs[%d]", i), cidr)
	}
	if n.Spec.PodCIDR != "" {
		checkPrefix(&problems, "spec.podCIDR", n.Spec.PodCIDR)
		if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDRs[0] != n.Spec.PodCIDR {
			problems.add("spec.podCIDR", "make the two alike", "%q is not the first of spec.podCIDRs", n.Spec.PodCIDR)
		}
	}
	for i, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			checkAddr(&problems, fmt.Sprintf("status.addresses[%d].address", i), a.Address)
		}
	}
	return problems
}

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new("")
		}
		if p.Protocol == nil {
			p.Protocol = new(corev1.ProtocolTCP)
		}
	}
}

func checkEndpointSlice(s *discoveryv1.EndpointSlice) Problems {
	var problems Problems
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		problems.add("addressType", "write IPv4 or IPv6", "is missing")
	default:
		problems.add("addressType", "write IPv4 or IPv6", "%q is not a value it can have", s.AddressType)
	}
	for i, ep := range s.Endpoints {
		path := fmt.Sprintf("endpoints[%d].addresses", i)
		if len(ep.Addresses) == 0 {
			problems.add(path, "add an address", "is empty")
		}
		for j, a := range ep.Addresses {
			if s.AddressType == discoveryv1.AddressTypeFQDN {
				continue
			}
			at := fmt.Sprintf("%s[%d]", path, j)
			if addr, ok := checkAddr(&problems, at, a); ok && familyOf(addr) != string(s.AddressType) {
				problems.add(at, "put it into a slice of its own family", "%s is not of addressType %s", a, s.AddressType)
			}
		}
	}
	seen := map[string]bool{}
	for i, p := range s.Ports {
		path := fmt.Sprintf("ports[%d]", i)
		checkProtocol(&problems, path+".protocol", *p.Protocol)
		if p.Port != nil {
			checkPort(&problems, path+".port", *p.Port)
		}
		if seen[*p.Name] {
			problems.add(path+".name", "give each port a name of its own", "%q is there twice", *p.Name)
		}
		seen[*p.Name] = true
	}
	_, _, wrong := sliceWeight(s)
	return append(problems, wrong...)
}
