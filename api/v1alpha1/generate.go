package v1alpha1

//go:generate go tool -modfile=../../tools.mod controller-gen object paths=.
//go:generate go tool -modfile=../../tools.mod controller-gen crd paths=. output:crd:dir=crds
//go:generate go run ../../internal/objects
