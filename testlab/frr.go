package testlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// FRR runs on the hosts whose topology has a configuration for it, each with
// sockets and files of its own, so that labs are many on one machine.

const (
	// frrLib is where Debian has FRR's daemons, and vtyshPath what controls them.
	frrLib    = "/usr/lib/frr/"
	vtyshPath = "/usr/bin/vtysh"
	// frrUser is whom the daemons become.
	frrUser = "frr"
	// frrScratch is where they make directories for crash logs.
	frrScratch = "/var/tmp/frr"
)

// frrPrograms, in the order they are started in: the others speak to the kernel by zebra.
var frrPrograms = []string{"zebra", "bgpd", "bfdd"}

func (l *Lab) frrDir(host string) string { return filepath.Join(l.hostDir(host), "frr") }

// frrSockets is the directory that FRR's daemons write in.
func (l *Lab) frrSockets(host string) string { return filepath.Join(l.frrDir(host), "run") }

// frrBin holds a vtysh that speaks to the daemons of this host.
func (l *Lab) frrBin(host string) string { return filepath.Join(l.frrDir(host), "bin") }

// frrInstalled says what is missing for a topology's routers.
func (t Topology) frrInstalled() error {
	for _, h := range t.Hosts {
		if h.FRR == "" {
			continue
		}
		paths := []string{vtyshPath}
		for _, program := range frrPrograms {
			paths = append(paths, frrLib+program)
		}
		for _, path := range paths {
			if _, err := os.Stat(path); err != nil {
				return fmt.Errorf("host %s runs FRR: %w: run apt-get install frr", h.Name, err)
			}
		}
	}
	return nil
}

// startFRR starts what of FRR does not run, and has it read its configuration.
func (l *Lab) startFRR(ctx context.Context, r record, h HostSpec) error {
	if err := l.writeFRR(h); err != nil {
		return fmt.Errorf("start FRR on %s: %w", h.Name, err)
	}
	dir := l.frrSockets(h.Name)
	for _, program := range frrPrograms {
		pidFile := filepath.Join(dir, program+".pid")
		if !r.Processes[h.Name+"/"+program].alive() {
			if err := removeScratch(pidFile); err != nil {
				return fmt.Errorf("start FRR on %s: %w", h.Name, err)
			}
		}
		argv := []string{frrLib + program, "--vty_socket", dir, "-z", filepath.Join(dir, "zserv"), "-i", pidFile, "-P", "0", "--log", "stdout"}
		awaited := filepath.Join(dir, program+".vty")
		switch program {
		case "zebra":
			awaited = filepath.Join(dir, "zserv") // who does not find it waits for seconds
		case "bfdd":
			argv = append(argv, "--bfdctl", filepath.Join(dir, "bfdd.ctl"))
		}
		if err := l.ensure(r, h.Name, h.Name, program, argv); err != nil {
			return err
		}
		if err := l.awaitSocket(ctx, h.Name, program, awaited); err != nil {
			return err
		}
	}
	host, err := l.Host(h.Name)
	if err != nil {
		return err
	}
	return runQuietly(host.Command(ctx, "vtysh", "-b"), "configure FRR on "+h.Name)
}

// writeFRR writes the host's configuration, and vtysh.
func (l *Lab) writeFRR(h HostSpec) error {
	account, err := user.Lookup(frrUser)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(account.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(account.Gid)
	if err != nil {
		return err
	}
	dir := l.frrDir(h.Name)
	for _, path := range []string{l.frrBin(h.Name), l.frrSockets(h.Name)} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(l.frrSockets(h.Name), uid, gid); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"frr.conf":   "hostname " + h.Name + "\n" + h.FRR,
		"vtysh.conf": "", // vtysh says that it has none
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s --vty_socket %s --config_dir %s \"$@\"\n", vtyshPath, l.frrSockets(h.Name), dir)
	return os.WriteFile(filepath.Join(l.frrBin(h.Name), "vtysh"), []byte(script), 0o755)
}

// awaitSocket waits until somebody listens on a host's socket: one of a daemon that
// was killed is still there.
func (l *Lab) awaitSocket(ctx context.Context, host, program, path string) error {
	r, err := l.read()
	if err != nil {
		return err
	}
	p := r.Processes[host+"/"+program]
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = poll(ctx, program+" of "+host, func() error {
		if !p.alive() {
			cancel(errors.New("it has ended"))
		}
		conn, err := net.Dial("unix", path)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, tail(l.logFile(host, program), 20))
	}
	return nil
}

// removeScratch removes the directory for crash logs that an FRR daemon makes, and
// leaves behind when it is killed. The daemon, which the file is of, has ended.
func removeScratch(pidFile string) error {
	pid, err := os.ReadFile(pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	program := strings.TrimSuffix(filepath.Base(pidFile), ".pid")
	if _, err := strconv.Atoi(strings.TrimSpace(string(pid))); err != nil {
		return nil // it ended before it had written the number
	}
	return os.RemoveAll(filepath.Join(frrScratch, program+"."+strings.TrimSpace(string(pid))))
}

// removeScratches removes those of all daemons that the lab's routers ran last.
func (l *Lab) removeScratches() error {
	pidFiles, err := filepath.Glob(filepath.Join(l.frrSockets("*"), "*.pid"))
	if err != nil {
		return err
	}
	var errs []error
	for _, pidFile := range pidFiles {
		errs = append(errs, removeScratch(pidFile))
	}
	return errors.Join(errs...)
}
