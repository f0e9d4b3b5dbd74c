package vm

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// module is a kernel module, ready to be loaded.
type module struct {
	name string
	data []byte
}

// modules returns the named modules and all that they depend on, in the order to
// load them in. What the kernel has not as a module is left out: it is
// built in, or the kernel lacks it, and the programs see which.
func (k Kernel) modules(names []string) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.Modules, func(path string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok {
			files[canonical(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules of %s: %w", k.Release, err)
	}
	var order []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = canonical(name)
		path, ok := files[name]
		if seen[name] || !ok {
			return nil
		}
		seen[name] = true
		data, err := readModule(path)
		if err != nil {
			return err
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return err
			}
		}
		order = append(order, module{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// canonical is the name that the kernel knows a module by.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// readModule reads a module, unpacked.
func readModule(path string) ([]byte, error) {
	if filepath.Ext(path) != ".xz" {
		return os.ReadFile(path)
	}
	data, err := exec.Command("xz", "--decompress", "--stdout", path).Output()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", path, err)
	}
	return data, nil
}

// dependencies reads what a module's .modinfo says it needs: entries of
// "key=value", each ended by a NUL.
func dependencies(data []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("it has no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	return dependsOn(info), nil
}

func dependsOn(modinfo []byte) []string {
	var needs []string
	for entry := range bytes.SplitSeq(modinfo, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			needs = append(needs, strings.Split(value, ",")...)
		case "softdep": // "pre: a b post: c"
			before, _, _ := strings.Cut(value, "post:")
			needs = append(needs, strings.Fields(strings.TrimPrefix(before, "pre:"))...)
		}
	}
	return slices.DeleteFunc(needs, func(name string) bool { return name == "" })
}
