package source

import (
	"encoding/base64"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/seamark-lb/seamark/state"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// passwordKey is the key of a Secret that holds the password of BGP sessions.
const passwordKey = "password"

// fieldPasswordSecret of a BGPPeer names the Secret.
const fieldPasswordSecret = "spec.passwordSecretRef"

// SecretRow is the row of a Secret. last is the row there was: its password
// stays in force while the Secret holds none that can be.
func SecretRow(s *corev1.Secret, last state.Secret) state.Secret {
	row := state.Secret{Name: state.ObjectName{Namespace: s.Namespace, Name: s.Name}, Password: last.Password}
	data, there := s.Data[passwordKey]
	password := strings.TrimRight(string(data), "\r\n")
	switch {
	case !there:
		row.Invalid, row.Cure = fmt.Sprintf("has no key %q", passwordKey), "add it"
	case password == "" || len(password) > state.MaxPassword:
		row.Invalid = fmt.Sprintf("holds a password of %d bytes", len(password))
		row.Cure = fmt.Sprintf("use one of 1 to %d bytes", state.MaxPassword)
	default:
		row.Password = password
	}
	return row
}

// secretRows is the follower of Secrets. One that a BGPPeer names has a row also
// when it is gone, with the password that it had.
type secretRows struct {
	*rows[corev1.Secret, state.Secret]
	db *state.DB
}

func newSecretRows(db *state.DB) secretRows {
	return secretRows{newRows(db.Secrets, func(r state.Reader, s *corev1.Secret) ([]state.Secret, Problems) {
		last, _ := db.Secrets.Get(r, ObjectKey(s.Namespace, s.Name))
		return []state.Secret{SecretRow(s, last)}, nil
	}), db}
}

func (f secretRows) remove(tx *state.Tx, name string) {
	last, _ := f.db.Secrets.Get(tx, name)
	f.rows.remove(tx, name)
	for secret := range NamedSecrets(f.db, tx) {
		if secret.String() == name {
			row := absentSecret(secret)
			row.Password = last.Password
			f.db.Secrets.Put(tx, row)
		}
	}
}

func absentSecret(name state.ObjectName) state.Secret {
	return state.Secret{Name: name, Invalid: "is not there", Cure: fmt.Sprintf("create it, with the key %q", passwordKey)}
}

// SecretUnreadable takes in that a Secret cannot be read, why, and what to do.
func (t *Tables) SecretUnreadable(tx *state.Tx, name state.ObjectName, why, cure string) {
	last, _ := t.db.Secrets.Get(tx, name.String())
	row := state.Secret{Name: name, Password: last.Password, Invalid: "cannot be read: " + why, Cure: cure}
	if row == last {
		return // it is tried again and again
	}
	t.db.Secrets.Put(tx, row)
	t.putDependents(tx, KindSecret())
}

// NamedSecrets are the Secrets that BGPPeers name, of those that can exist.
func NamedSecrets(db *state.DB, r state.Reader) map[state.ObjectName]bool {
	named := map[state.ObjectName]bool{}
	for peer := range db.BGPPeers.All(r) {
		if name := peer.PasswordSecret; validSecretName(name) {
			named[name] = true
		}
	}
	return named
}

func validSecretName(name state.ObjectName) bool {
	return len(validation.IsDNS1123Subdomain(name.Name)) == 0 && len(validation.IsDNS1123Label(name.Namespace)) == 0
}

// forget removes the rows of Secrets that are not there, or cannot be read, and
// that no BGPPeer names any more.
func (f secretRows) forget(tx *state.Tx) {
	named := NamedSecrets(f.db, tx)
	for _, row := range f.db.Secrets.Rows(tx) {
		if _, held := f.held[row.RowKey()]; !held && !named[row.Name] {
			f.db.Secrets.Delete(tx, row.RowKey())
		}
	}
}

// passwordProblems say what is wrong with the Secret that a field names. Of one
// of which nothing is known yet, nothing is.
func passwordProblems(db *state.DB, r state.Reader, name state.ObjectName, field string) Problems {
	var problems Problems
	if name == (state.ObjectName{}) {
		return nil
	}
	row, known := db.Secrets.Get(r, name.String())
	if !known && db.Secrets.Synced(r) {
		row = absentSecret(name)
	}
	switch {
	case !validSecretName(name):
		problems.add(field, "write the name of a Secret", "%q is no name that a Secret can have", name)
	case row.Invalid != "":
		problems.add(field, row.Cure, "Secret %s %s: sessions that have its last password keep it, and no others begin", name, row.Invalid)
	}
	return problems
}

// maxSecret is how much a Secret may hold, in bytes, as API servers have it.
const maxSecret = 1 << 20

// admitSecret sets Secrets' defaults: what stringData says goes into data, as
// API servers do. No problem quotes a value.
func admitSecret(obj *unstructured.Unstructured) Problems {
	problems := admitTyped[corev1.Secret](obj, nil, nil)
	if len(problems) > 0 {
		return problems
	}
	data, _ := obj.Object["data"].(map[string]any)
	plain, _ := obj.Object["stringData"].(map[string]any)
	all, size := map[string]any{}, 0
	for _, key := range slices.Sorted(maps.Keys(data)) {
		value, _ := data[key].(string) // or null
		decoded, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			problems.add(fmt.Sprintf("data[%s]", key), "encode it, or write it under stringData as it is", "is not base64")
		}
		all[key] = base64.StdEncoding.EncodeToString(decoded)
	}
	for key := range plain {
		value, _ := plain[key].(string)
		all[key] = base64.StdEncoding.EncodeToString([]byte(value))
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		size += base64.StdEncoding.DecodedLen(len(all[key].(string)))
		if msgs := validation.IsConfigMapKey(key); len(msgs) > 0 {
			problems.add(fmt.Sprintf("data[%s]", key), "choose another key", "%s", withoutRegex(strings.Join(msgs, "; ")))
		}
	}
	if size > maxSecret {
		problems.add("data", "keep less in it", "holds %d bytes, and may hold %d", size, maxSecret)
	}
	delete(obj.Object, "stringData")
	delete(obj.Object, "data")
	if len(all) > 0 {
		obj.Object["data"] = all
	}
	if kind, _ := obj.Object["type"].(string); kind == "" {
		obj.Object["type"] = string(corev1.SecretTypeOpaque)
	}
	return problems
}

// admitSecretChange names what of a Secret may not replace old.
func admitSecretChange(old, obj *unstructured.Unstructured) (problems Problems) {
	if old.Object["immutable"] == true && (obj.Object["immutable"] != true || !reflect.DeepEqual(old.Object["data"], obj.Object["data"])) {
		problems.add("immutable", "delete the Secret, and create it anew", "it is set: the Secret cannot be changed")
	}
	return problems
}

// Redacted is obj, but that of a Secret it says how long the values are, and no
// more. What it says so is no base64: it is refused where it is written back.
func Redacted(obj *unstructured.Unstructured) *unstructured.Unstructured {
	if obj.GroupVersionKind().GroupKind() != (schema.GroupKind{Kind: KindSecret().Kind}) {
		return obj
	}
	obj = obj.DeepCopy()
	data, _ := obj.Object["data"].(map[string]any)
	for key := range data {
		value, _ := data[key].(string)
		decoded, _ := base64.StdEncoding.DecodeString(value)
		data[key] = fmt.Sprintf("<%d bytes>", len(decoded))
	}
	delete(obj.Object, "stringData")
	unstructured.RemoveNestedField(obj.Object, "metadata", "annotations", corev1.LastAppliedConfigAnnotation)
	return obj
}
