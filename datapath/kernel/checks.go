package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The oldest kernel that has all the programs use.
const floorMajor, floorMinor = 6, 1

// checkRights refuses a process without the capabilities that loading needs.
func checkRights() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("check rights: %w", err)
	}
	has := func(c int) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	if missing := missingRights(has); len(missing) > 0 {
		return fmt.Errorf("check rights: no %s: run as root or with these capabilities", strings.Join(missing, ", "))
	}
	return nil
}

func missingRights(has func(capability int) bool) []string {
	var missing []string
	for _, c := range []struct {
		number int
		name   string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		stands := has(unix.CAP_SYS_ADMIN) && c.number != unix.CAP_NET_ADMIN // it includes the BPF ones
		if !has(c.number) && !stands {
			missing = append(missing, c.name)
		}
	}
	return missing
}

func kernelRelease() (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("read kernel version: %w", err)
	}
	return unix.ByteSliceToString(uts.Release[:]), nil
}

// checkRelease refuses a kernel below the floor.
func checkRelease(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read kernel version: %q is not one", release)
	}
	if major < floorMajor || major == floorMajor && minor < floorMinor {
		return fmt.Errorf("check kernel: this is Linux %s: Seamark needs %d.%d or newer", release, floorMajor, floorMinor)
	}
	return nil
}

// checkBPFFS refuses a directory that is not on a BPF filesystem.
func checkBPFFS(dir string) error {
	var fs unix.Statfs_t
	err := unix.Statfs(dir, &fs)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("open bpffs %s: %w", dir, err)
	}
	if err != nil || uint32(fs.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("open bpffs %s: no BPF filesystem is mounted there: mount it with: mkdir -p %s && mount -t bpf bpf %s", dir, dir, dir)
	}
	return nil
}

// lock keeps a second daemon off this node's maps until it is closed, or its
// process ends.
func lock(runDir string) (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("lock node: %w", err)
	}
	path := filepath.Join(runDir, "seamarkd.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock node: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder, _ := os.ReadFile(path)
		return nil, fmt.Errorf("lock %s: another seamarkd (process %s) runs on this node: stop it first", path, strings.TrimSpace(string(holder)))
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintln(os.Getpid()))); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// lockPins keeps a second daemon off the pins in dir, also one that has a run
// directory of its own.
func lockPins(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock pins: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock pins %s: %w", dir, err)
		}
		return nil, fmt.Errorf("lock pins %s: another seamarkd, with another --run-dir, works with them: stop it first, or give this one a --bpffs of its own", dir)
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
