package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// API is a control plane on loopback, whose processes are children of this one
// and end with it.
type API struct {
	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string

	plane    Plane
	children map[Component]*child
}

// Start starts etcd and the API server, and then more components, with their
// files and logs in dir, and returns when the API server is ready: about 5 s.
// The binary must have been built.
func Start(ctx context.Context, dir string, more ...Component) (*API, error) {
	binary, ok := Binary()
	if !ok {
		return nil, ErrNotBuilt
	}
	a := &API{children: map[Component]*child{},
		plane: Plane{Binary: binary, Dir: dir, Listen: freePort(), Store: freePort()}}
	a.plane.Server = a.plane.Listen
	a.Kubeconfig = a.plane.Kubeconfig()
	if err := a.plane.Write(); err != nil {
		return nil, err
	}
	if err := a.startAll(ctx, more); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *API) startAll(ctx context.Context, more []Component) error {
	if err := a.startChild(Etcd); err != nil {
		return err
	}
	if err := a.Start(ctx); err != nil {
		return err
	}
	for _, c := range more {
		if err := a.startChild(c); err != nil {
			return err
		}
	}
	return nil
}

// Start starts the API server, on the port that it had, and returns when it is ready.
func (a *API) Start(ctx context.Context) error {
	if err := a.startChild(APIServer); err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := a.plane.Ready(ctx, new(net.Dialer).DialContext)
		if err == nil {
			return nil
		}
		for c, running := range a.children {
			if running.hasEnded() {
				return fmt.Errorf("start %s: it has ended: %s", c, a.logTail(c))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w: %w", APIServer, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// Stop stops the API server alone, cleanly; etcd and what it holds stay.
func (a *API) Stop() error {
	const within = time.Minute // what it gives its requests to end
	ended, err := a.end(APIServer, unix.SIGTERM, within)
	if err == nil && !ended {
		err = fmt.Errorf("stop %s: it still runs after %v", APIServer, within)
	}
	return err
}

// Close ends all processes, and kills those that do not end by themselves. The
// directory stays.
func (a *API) Close() error {
	const within = 5 * time.Second
	var errs []error
	for _, c := range []Component{Scheduler, ControllerManager, APIServer, Etcd} {
		ended, err := a.end(c, unix.SIGTERM, within)
		if err == nil && !ended {
			ended, err = a.end(c, unix.SIGKILL, within)
		}
		if err == nil && !ended {
			err = fmt.Errorf("stop %s: it outlives SIGKILL", c)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// child is a running component.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func (c *child) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (a *API) logFile(c Component) string { return a.plane.file(string(c) + ".log") }

func (a *API) startChild(c Component) error {
	if running := a.children[c]; running != nil && !running.hasEnded() {
		return nil
	}
	log, err := os.OpenFile(a.logFile(c), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", c, err)
	}
	defer log.Close()
	argv := a.plane.Args(c)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	running := &child{cmd, make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal comes at the end of the thread that began the child, not of
		// the process: this one waits as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() // killed or not: it was told to end, or its log says why
			close(running.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", c, err)
	}
	a.children[c] = running
	return nil
}

// end signals a component and says whether it ended within that time; one that
// does not run has ended.
func (a *API) end(c Component, sig unix.Signal, within time.Duration) (bool, error) {
	running := a.children[c]
	if running == nil || running.hasEnded() { // the pid may be another's
		return true, nil
	}
	group := -running.cmd.Process.Pid
	if err := unix.Kill(group, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("stop %s: %w", c, err)
	}
	select {
	case <-running.ended:
		return true, nil
	case <-time.After(within):
		return false, nil
	}
}

// logTail is how a component's log ends.
func (a *API) logTail(c Component) string {
	data, err := os.ReadFile(a.logFile(c))
	if err != nil {
		return err.Error()
	}
	lines := slices.Collect(strings.Lines(string(data)))
	return "\n" + strings.Join(lines[max(0, len(lines)-10):], "")
}

// freePort is a port of loopback that nobody listens on, and that no outgoing
// connection is given (net.ipv4.ip_local_port_range): it is still free when the
// API server comes back.
func freePort() netip.AddrPort {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for {
		address := netip.AddrPortFrom(loopback, uint16(20000+rand.IntN(12000)))
		l, err := net.Listen("tcp", address.String())
		if err == nil {
			l.Close()
			return address
		}
	}
}
