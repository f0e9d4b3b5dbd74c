package vm

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
)

// file is an entry of an initramfs.
type file struct {
	mode  uint32 // type and permissions, as in stat
	major uint32 // of a device
	minor uint32
	data  []byte
}

// Types of entries.
const (
	typeFolder  = 0o040000
	typeFile    = 0o100000
	typeConsole = 0o020000 // a character device
)

// archive writes files, by path, as an initramfs: a cpio archive of the "newc"
// format (Linux, driver-api/early-userspace/buffer-format). Folders on the way
// to a file are made.
func archive(w io.Writer, files map[string]file) error {
	all := map[string]file{}
	for name, f := range files {
		all[name] = f
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := files[dir]; !ok {
				all[dir] = file{mode: typeFolder | 0o755}
			}
		}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names) // folders before what is in them
	for i, name := range names {
		if err := writeEntry(w, i+1, name, all[name]); err != nil {
			return err
		}
	}
	return writeEntry(w, 0, "TRAILER!!!", file{})
}

func writeEntry(w io.Writer, inode int, name string, f file) error {
	const headerSize = 110
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		inode, f.mode, 0, 0, 1, 0, len(f.data), 0, 0, f.major, f.minor, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad(&b, headerSize+len(name)+1)
	b.Write(f.data)
	pad(&b, len(f.data))
	_, err := w.Write(b.Bytes())
	return err
}

// pad fills up to a multiple of four what is size bytes long.
func pad(b *bytes.Buffer, size int) {
	b.Write(make([]byte, -size&3))
}
