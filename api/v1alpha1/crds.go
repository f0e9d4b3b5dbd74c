package v1alpha1

import "embed"

// CRDs holds the CustomResourceDefinitions of this package's kinds, one YAML
// file each, under crds/.
//
//go:embed crds/*.yaml
var CRDs embed.FS
