package datapath

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// CheckLayout compares the Go types of this package with the BTF of the
// compiled maps: every member's offset and size, not the sum of them only.
func CheckLayout(compiled map[string]*ebpf.MapSpec) error {
	var errs []error
	kernelMapsOf(func(name string, key, value reflect.Type) *ebpf.Map {
		spec, ok := compiled[name]
		if !ok {
			errs = append(errs, fmt.Errorf("check layout of map %s: not compiled", name))
			return nil
		}
		for _, side := range []struct {
			what string
			c    btf.Type
			g    reflect.Type
		}{{"key", spec.Key, key}, {"value", spec.Value, value}} {
			c, err := cMembers(side.c, 0)
			if err != nil {
				errs = append(errs, fmt.Errorf("check layout of map %s: %s: %w", name, side.what, err))
			} else if g := goMembers(side.g, 0); !slices.Equal(c, g) {
				errs = append(errs, fmt.Errorf("check layout of map %s: %s has members %v in C and %v in Go", name, side.what, c, g))
			}
		}
		return nil
	})
	for _, form := range tableForms() {
		tables, ok := compiled[form.mapName()]
		if want := form.spec(tableName, 1); !ok || tables.InnerMap == nil || tables.InnerMap.Type != want.Type ||
			tables.InnerMap.ValueSize != want.ValueSize || tables.InnerMap.MaxEntries != want.MaxEntries || tables.InnerMap.Flags != want.Flags {
			errs = append(errs, fmt.Errorf("check layout of map %s: not compiled, or its tables have another form", form.mapName()))
		}
	}
	return errors.Join(errs...)
}

// span is the place of one member, in bytes.
type span struct{ offset, size uint32 }

// cMembers returns the members of t; one that holds a single member of its
// own size (struct in6) is that member.
func cMembers(t btf.Type, at uint32) ([]span, error) {
	t = btf.UnderlyingType(t)
	s, ok := t.(*btf.Struct)
	if !ok {
		n, err := btf.Sizeof(t)
		return []span{{at, uint32(n)}}, err
	}
	var all []span
	for _, m := range s.Members {
		spans, err := cMembers(m.Type, at+m.Offset.Bytes())
		if err != nil {
			return nil, err
		}
		all = append(all, spans...)
	}
	return all, nil
}

func goMembers(t reflect.Type, at uint32) []span {
	if t.Kind() != reflect.Struct {
		return []span{{at, uint32(t.Size())}}
	}
	var all []span
	for i := range t.NumField() {
		f := t.Field(i)
		all = append(all, goMembers(f.Type, at+uint32(f.Offset))...)
	}
	return all
}
