package testlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that the lab started. A pid alone may be another's by now, so
// the start time goes with it.
type process struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks since boot.
	Start uint64 `json:"start"`
}

// start runs argv in the namespace, detached from this process and in a
// session of its own, with its output appended to logFile and cgroup (a
// directory, or "") as its cgroup.
func start(n Namespace, argv, env []string, logFile, cgroup string) (process, error) {
	fail := func(err error) (process, error) {
		return process{}, fmt.Errorf("start %s in %s: %w", filepath.Base(argv[0]), n.Name, err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			return fail(err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	if err := n.Do(cmd.Start); err != nil {
		return fail(err)
	}
	s, err := readStat(cmd.Process.Pid)
	if err != nil {
		return fail(err)
	}
	go cmd.Wait() // its zombie, should it end before this process does
	return process{cmd.Process.Pid, s.start}, nil
}

// alive says whether the process still runs. A zombie does not, unless its main
// thread alone has ended: the others still hold its files and their locks.
func (p process) alive() bool {
	s, err := readStat(p.PID)
	return err == nil && s.start == p.Start && (s.state != 'Z' || s.threads > 1)
}

// signal sends sig; to a process that has ended it does nothing.
func (p process) signal(sig unix.Signal) error {
	return signalIf(p.PID, sig, p.alive)
}

// signalIf signals the process if check still holds once its pid is held fast.
func signalIf(pid int, sig unix.Signal, check func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !check() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// kill ends the process by SIGKILL.
func (p process) kill(ctx context.Context) error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.awaitEnd(ctx)
}

// stop ends the process by SIGTERM, and is an error when that takes longer.
func (p process) stop(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := p.signal(unix.SIGTERM); err != nil {
		return err
	}
	if err := p.signal(unix.SIGCONT); err != nil { // a paused one can't stop
		return err
	}
	return p.awaitEnd(ctx)
}

// stopOrKill is stop for those that are killed when they outlive their grace, as
// the kubelet does it.
func (p process) stopOrKill(ctx context.Context, grace time.Duration) error {
	if err := p.stop(ctx, grace); err == nil || ctx.Err() != nil {
		return err
	}
	return p.kill(ctx)
}

// awaitEnd waits until the process has ended.
func (p process) awaitEnd(ctx context.Context) error {
	return poll(ctx, fmt.Sprintf("process %d to end", p.PID), func() error {
		if p.alive() {
			return errors.New("it still runs")
		}
		return nil
	})
}

// stat is what /proc/PID/stat says of a process (proc_pid_stat(5)).
type stat struct {
	state   byte   // of the main thread
	threads int    // all that have not ended, and the main thread
	start   uint64 // clock ticks since boot
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The command's name, in parentheses, may hold anything.
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	fields := strings.Fields(rest) // from the third on
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	threads, threadsErr := strconv.Atoi(fields[17])
	start, startErr := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(threadsErr, startErr); err != nil {
		return stat{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
	}
	return stat{fields[0][0], threads, start}, nil
}

// killAllIn kills every process whose main thread is in one of the namespaces,
// except this one and those it descends from, and waits until they are gone.
func killAllIn(ctx context.Context, namespaces []Namespace) error {
	inodes := map[uint64]bool{}
	for _, n := range namespaces {
		if inode, err := inodeOf(n.Path()); err == nil {
			inodes[inode] = true
		}
	}
	spared := map[int]bool{}
	for pid := os.Getpid(); pid > 1 && !spared[pid]; pid = parentOf(pid) {
		spared[pid] = true
	}
	// One that is ending leaves its namespace before it is gone.
	killed := map[process]bool{}
	return poll(ctx, "the lab's processes to end", func() error {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || spared[pid] {
				continue
			}
			inside := func() bool {
				inode, err := inodeOf(fmt.Sprintf("/proc/%d/ns/net", pid))
				return err == nil && inodes[inode]
			}
			if !inside() { // nor is a zombie
				continue
			}
			if s, err := readStat(pid); err == nil {
				killed[process{pid, s.start}] = true
			}
			if err := signalIf(pid, unix.SIGKILL, inside); err != nil {
				return err
			}
		}
		var left []string
		for p := range killed {
			if p.alive() {
				left = append(left, strconv.Itoa(p.PID))
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("still there: %s", strings.Join(left, " "))
		}
		return nil
	})
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Ino, err
}

func parentOf(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// poll calls try until it succeeds, or until ctx ends; then the error says
// what was waited for and what try said last.
func poll(ctx context.Context, what string, try func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for %s: %w (%w)", what, err, context.Cause(ctx))
		}
	}
}
