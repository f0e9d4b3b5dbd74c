package source

import (
	"context"
	"errors"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Sentinels of Objects.
var (
	ErrNotFound = errors.New("not found")
	// ErrConflict: the object changed since it was read.
	ErrConflict = errors.New("changed since it was read")
	ErrExists   = errors.New("already exists")
	// ErrReadOnly: the engine's objects are written elsewhere (kubectl).
	ErrReadOnly = errors.New("objects of this source are written with kubectl")
)

// Objects are the Kubernetes-shaped objects a source holds. Concurrency is
// optimistic: metadata.resourceVersion is the version the caller has seen. Of
// Secrets, what is returned is Redacted.
type Objects interface {
	Get(ctx context.Context, kind Kind, namespace, name string) (*unstructured.Unstructured, error)
	// List returns the objects of a kind, in namespace unless it is "", sorted by namespace and name.
	List(ctx context.Context, kind Kind, namespace string) ([]*unstructured.Unstructured, error)
	Create(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error)
	// Update replaces the object if it is still at obj's resourceVersion.
	Update(ctx context.Context, obj *unstructured.Unstructured) (*unstructured.Unstructured, error)
	Delete(ctx context.Context, kind Kind, namespace, name string) error
}

// Kind is one kind of object that Seamark knows.
type Kind struct {
	Group, Version, Kind, Plural, Singular string
	// OtherVersions that objects of the kind also come in, read as Version.
	OtherVersions []string
	ShortNames    []string
	Namespaced    bool
}
