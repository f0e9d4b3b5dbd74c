// Command init is the first process of an emulated machine: it loads modules,
// runs programs, says how they ended, and turns the machine off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/seamark-lb/seamark/testlab/vm/job"
	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is for the first process of an emulated machine, which it turns off at the end")
		os.Exit(2)
	}
	code, err := run()
	if err != nil {
		fmt.Println("init:", err)
		code = 125
	}
	fmt.Printf("%s%d\n", job.ExitLine, code)
	unix.Sync()
	// A failure returns, and the kernel panics when the first process ends: the
	// machine goes off either way.
	fmt.Println("init: turn off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// run does the job and returns the worst exit code of its commands.
func run() (code int, err error) {
	for _, m := range job.Mounts {
		if err := unix.Mount(m.Type, m.Target, m.Type, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return 0, fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	data, err := os.ReadFile(job.File)
	if err != nil {
		return 0, err
	}
	var todo job.Job
	if err := json.Unmarshal(data, &todo); err != nil {
		return 0, fmt.Errorf("read %s: %w", job.File, err)
	}
	for _, module := range todo.Modules {
		if err := load(module); err != nil {
			return 0, err
		}
	}
	// Each end of a thousand connections is one; a first process has 4096.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1 << 16, Max: 1 << 16}); err != nil {
		return 0, fmt.Errorf("raise limit of open files: %w", err)
	}
	for _, command := range todo.Commands {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.Dir = "/tmp"
		cmd.Env = []string{"PATH=/", "HOME=/tmp", "TMPDIR=/tmp", "SEAMARK_VM_GUEST=1"}
		err := cmd.Run()
		if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
			return 0, fmt.Errorf("run %s: %w", command[0], err)
		}
		if exit := cmd.ProcessState.ExitCode(); exit != 0 {
			fmt.Printf("init: %s: %v\n", command[0], err)
			code = max(code, exit, 1)
		}
	}
	return code, nil
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", module, err)
	}
	return nil
}
