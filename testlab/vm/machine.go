package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/testlab/vm/job"
	"golang.org/x/sys/unix"
)

// Machine is what to boot and to run.
type Machine struct {
	Kernel Kernel
	// Modules to load, with those that they depend on.
	Modules []string
	// Init is the static binary of testlab/vm/init.
	Init string
	// Programs are static binaries, each run with its arguments, one after another.
	Programs []Program
}

// Program is a binary on this machine and the arguments to run it with on the other.
type Program struct {
	Path string
	Args []string
}

// ErrFailed says that the machine ran to its end and a program did not do well.
var ErrFailed = errors.New("a program failed")

// The emulated machine. TCG's most capable processor has a CMPXCHG16B that
// newer kernels trip over in QEMU 7.2.
var qemu = []string{
	"qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "2", "-m", "2048",
	"-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot",
	// Two network cards on one wire.
	"-netdev", "hubport,id=one,hubid=0", "-device", "virtio-net-pci,netdev=one,romfile=",
	"-netdev", "hubport,id=two,hubid=0", "-device", "virtio-net-pci,netdev=two,romfile=",
}

// Run boots the machine, hands each line of its console to line, and returns
// when it is off. It is an error if that was not the way it was meant to end.
func (m Machine) Run(ctx context.Context, line func(string)) error {
	initramfs, err := m.initramfs()
	if err != nil {
		return fmt.Errorf("make initramfs: %w", err)
	}
	defer initramfs.Close()
	// A kernel that panics ends, and -no-reboot ends QEMU with it. On a busy host
	// the timer would be found not to work.
	args := append(qemu[1:len(qemu):len(qemu)], "-kernel", m.Kernel.Image, "-initrd", "/proc/self/fd/3", "-append", "console=ttyS0 quiet panic=-1 no_timer_check")
	cmd := exec.CommandContext(ctx, qemu[0], args...)
	cmd.ExtraFiles = []*os.File{initramfs}
	// Dies with this process, which means with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("boot %s: %w", m.Kernel.Release, err)
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("boot %s: %w", m.Kernel.Release, err)
	}
	code, ended := read(console, line)
	if err := cmd.Wait(); ctx.Err() != nil || err != nil {
		return fmt.Errorf("run %s: %w: %s", m.Kernel.Release, errors.Join(ctx.Err(), err), strings.TrimSpace(problems.String()))
	}
	if !ended {
		return fmt.Errorf("run %s: the machine stopped before its programs were done", m.Kernel.Release)
	}
	if code != 0 {
		return fmt.Errorf("run %s: %w with exit code %d", m.Kernel.Release, ErrFailed, code)
	}
	return nil
}

// read hands on the console's lines until it ends, and finds the exit code there.
func read(console io.Reader, line func(string)) (code int, ended bool) {
	lines := bufio.NewReader(console)
	for {
		text, err := lines.ReadString('\n')
		text = strings.TrimRight(text, "\r\n")
		if exit, ok := strings.CutPrefix(text, job.ExitLine); ok {
			if n, err := strconv.Atoi(exit); err == nil {
				code, ended = n, true
			}
		} else if text != "" {
			line(text)
		}
		if err != nil {
			return code, ended
		}
	}
}

// initramfs returns the machine's first filesystem, as a file without a name.
func (m Machine) initramfs() (*os.File, error) {
	files, err := m.files()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	w := bufio.NewWriter(f)
	if err := errors.Join(archive(w, files), w.Flush()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// files are those of the machine, by path without the leading slash.
func (m Machine) files() (map[string]file, error) {
	modules, err := m.Kernel.modules(m.Modules)
	if err != nil {
		return nil, err
	}
	files := map[string]file{"dev/console": {mode: typeConsole | 0o600, major: 5, minor: 1}}
	for _, dir := range job.Mounts {
		files[strings.TrimPrefix(dir.Target, "/")] = file{mode: typeFolder | 0o755}
	}
	add := func(name, from string) error {
		data, err := os.ReadFile(from)
		files[name] = file{mode: typeFile | 0o755, data: data}
		return err
	}
	if err := add("init", m.Init); err != nil {
		return nil, err
	}
	var todo job.Job
	for _, module := range modules {
		name := "modules/" + module.name + ".ko"
		files[name] = file{mode: typeFile | 0o644, data: module.data}
		todo.Modules = append(todo.Modules, "/"+name)
	}
	for i, p := range m.Programs {
		name := fmt.Sprintf("programs/%d-%s", i, filepath.Base(p.Path))
		if err := add(name, p.Path); err != nil {
			return nil, err
		}
		todo.Commands = append(todo.Commands, append([]string{"/" + name}, p.Args...))
	}
	data, err := json.Marshal(todo)
	files[strings.TrimPrefix(job.File, "/")] = file{mode: typeFile | 0o644, data: data}
	return files, err
}
