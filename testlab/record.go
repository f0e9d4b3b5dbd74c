package testlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

const (
	// stateRoot holds one directory for each lab.
	stateRoot  = "/run/testlab"
	logDir     = "log"
	recordFile = "lab.json"
)

// labName has no dash, so that `<lab>-` begins the names of one lab only.
var labName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

func checkName(lab string) error {
	if !labName.MatchString(lab) {
		return fmt.Errorf("lab name %q: want 1–32 characters of a-z, 0-9 and, inside, -", lab)
	}
	return nil
}

func labDir(lab string) string { return filepath.Join(stateRoot, lab) }

// record is what a lab's directory remembers of it, for later processes.
type record struct {
	Topology     Topology `json:"topology"`
	ControlPlane string   `json:"controlPlane"`
	// KubeBinary is what runs a control plane kube.
	KubeBinary string   `json:"kubeBinary,omitempty"`
	BinDir     string   `json:"binDir"`
	NoDaemons  bool     `json:"noDaemons,omitempty"`
	DaemonArgs []string `json:"daemonArgs,omitempty"`
	// Processes by host or pod and program: k8s-w1/seamarkd.
	Processes map[string]process `json:"processes"`
	// Pods that are wired up, by name.
	Pods map[string]wiredPod `json:"pods"`
	// PoweredOff hosts.
	PoweredOff map[string]bool `json:"poweredOff"`
}

// controlPlane is the host that runs the lab's control plane, if it has one:
// the standalone store is left out with the daemons.
func (r record) controlPlane() (HostSpec, bool) {
	if r.NoDaemons && r.ControlPlane != kubeControlPlane {
		return HostSpec{}, false
	}
	return r.Topology.controlPlane()
}

// programs are what runs on a host beside pods, in the order it is started in;
// none where there is nothing to run.
func (r record) programs(h HostSpec) []string {
	switch {
	case h.FRR != "":
		return frrPrograms
	case h.Role == RoleControlPlane && r.ControlPlane == kubeControlPlane:
		return kubePrograms
	case !r.NoDaemons && (h.Role == RoleControlPlane || h.Role == RoleNode):
		return []string{daemonProgram}
	}
	return nil
}

// wiredPod is a pod that has its interface.
type wiredPod struct {
	ContainerID string     `json:"containerID"`
	Address     netip.Addr `json:"address"`
	// NotReady as the EndpointSlice, or the Pod's status, says it.
	NotReady bool `json:"notReady,omitempty"`
}

// read returns the lab's record.
func (l *Lab) read() (record, error) {
	var r record
	data, err := os.ReadFile(filepath.Join(l.dir, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return r, fmt.Errorf("lab %s is not up: run testlab up --name %s", l.Name, l.Name)
	}
	if err != nil {
		return r, fmt.Errorf("read lab %s: %w", l.Name, err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read lab %s: %s: %w", l.Name, recordFile, err)
	}
	return r, nil
}

// update changes the lab's record, one process at a time.
func (l *Lab) update(change func(*record)) error {
	lock, err := os.Open(l.dir)
	if err != nil {
		return fmt.Errorf("lock lab %s: %w", l.Name, err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock lab %s: %w", l.Name, err)
	}
	r, err := l.read()
	if err != nil {
		return err
	}
	change(&r)
	return l.write(r)
}

// write replaces the record in one step, so that no crash leaves half of it.
func (l *Lab) write(r record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write lab %s: %w", l.Name, err)
	}
	path := filepath.Join(l.dir, recordFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("write lab %s: %w", l.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write lab %s: %w", l.Name, err)
	}
	return nil
}
