package testlab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where iproute2 keeps its named namespaces, so that `ip netns`
// sees the lab's as well.
const netnsDir = "/run/netns"

// Namespace is a named network namespace.
type Namespace struct{ Name string }

// Path of the namespace's bind mount.
func (n Namespace) Path() string { return filepath.Join(netnsDir, n.Name) }

// Do runs fn on a thread that is in the namespace: the sockets it opens and
// the processes it starts belong there, for as long as they live. Goroutines
// that fn starts do not run there.
func (n Namespace) Do(fn func() error) (err error) {
	runtime.LockOSThread()
	// A thread that cannot come back stays locked, and ends with its goroutine.
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open current network namespace: %w", err)
	}
	defer home.Close()
	if err := n.enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if back := netns.Set(home); back != nil {
			err = fmt.Errorf("leave namespace %s: %w", n.Name, back)
			return
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}

// dial is a net.Dialer's DialContext in the namespace.
func (n Namespace) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: time.Second}
	err = n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// enter moves the current thread into the namespace.
func (n Namespace) enter() error {
	ns, err := netns.GetFromPath(n.Path())
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", n.Name, err)
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	return nil
}

// command runs argv in the namespace, whichever thread starts it.
func (n Namespace) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.Path(), "--", name}, args...)...)
}

// create makes the namespace with loopback up and the given sysctls set. From
// the moment its name exists, it carries the mark of its lab.
func (n Namespace) create(lab string, sysctls []sysctl) error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("create namespace %s: %w", n.Name, err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- n.createOnThread(lab, sysctls)
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("create namespace %s: %w", n.Name, err)
	}
	return nil
}

func (n Namespace) createOnThread(lab string, sysctls []sysctl) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetAlias(lo, labMark(lab)); err != nil {
		return fmt.Errorf("mark lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, s := range sysctls {
		if err := s.set(); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(n.Path(), os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", n.Path(), "", unix.MS_BIND, ""); err != nil {
		os.Remove(n.Path())
		return fmt.Errorf("bind mount: %w", err)
	}
	return nil
}

// remove takes the name away; the namespace goes when nothing runs in it.
func (n Namespace) remove() error {
	// EINVAL: it is a plain file, a create was cut short.
	if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount namespace %s: %w", n.Name, err)
	}
	if err := os.Remove(n.Path()); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove namespace %s: %w", n.Name, err)
	}
	return nil
}

// labMark is the alias of lo in every namespace of a lab: the name alone could
// be someone else's.
func labMark(lab string) string { return "testlab " + lab }

// belongsTo says whether the namespace is the lab's. A name without a
// namespace behind it counts: a create was cut short before the mount.
func (n Namespace) belongsTo(lab string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(n.Path(), &st); err != nil {
		return false
	}
	if st.Type != unix.NSFS_MAGIC {
		return n.likelyLab() == lab
	}
	ours := false
	n.Do(func() error { // a namespace that cannot be entered is not ours
		lo, err := netlink.LinkByName("lo")
		ours = err == nil && lo.Attrs().Alias == labMark(lab)
		return nil
	})
	return ours
}

// likelyLab is, of the labs there are, the one with the longest name that the
// namespace's begins with; "" when there is none.
func (n Namespace) likelyLab() string {
	for end := strings.LastIndex(n.Name, "-"); end > 0; end = strings.LastIndex(n.Name[:end], "-") {
		if _, err := os.Stat(labDir(n.Name[:end])); err == nil {
			return n.Name[:end]
		}
	}
	return ""
}

// labNamespaces lists the namespaces of a lab, whatever its record says.
func labNamespaces(lab string) ([]Namespace, error) {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var found []Namespace
	for _, e := range entries {
		n := Namespace{e.Name()}
		if strings.HasPrefix(n.Name, lab+"-") && n.belongsTo(lab) {
			found = append(found, n)
		}
	}
	return found, nil
}

// sysctl is a kernel setting, by its path under /proc/sys.
type sysctl struct {
	path, value string
	optional    bool // absent in kernels built without it
}

// set writes the setting of the current thread's network namespace.
func (s sysctl) set() error {
	err := os.WriteFile(filepath.Join("/proc/sys", s.path), []byte(s.value), 0)
	if err != nil && !(s.optional && os.IsNotExist(err)) {
		return fmt.Errorf("set sysctl %s to %s: %w", s.path, s.value, err)
	}
	return nil
}

// openNS opens a namespace for netlink to put links into.
func openNS(n Namespace) (*os.File, error) {
	f, err := os.Open(n.Path())
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", n.Name, err)
	}
	return f, nil
}
