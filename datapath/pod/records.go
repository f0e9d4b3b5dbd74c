package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/seamark-lb/seamark/state"
)

// records are the attachments on disk, one JSON file each, so that a daemon
// that starts again knows the pods it wired.
type records struct{ dir string }

func recordsIn(stateDir string) records { return records{filepath.Join(stateDir, "endpoints")} }

// record is a veth as its file has it.
type record struct {
	Network     string     `json:"network"`
	ContainerID string     `json:"containerID"`
	Interface   string     `json:"interface"`
	Namespace   string     `json:"namespace,omitempty"`
	Pod         string     `json:"pod,omitempty"`
	Addr        netip.Addr `json:"address"`
	HostDevice  string     `json:"hostDevice"`
	PodMAC      string     `json:"podMAC"`
	HostMAC     string     `json:"hostMAC"`
	MTU         int        `json:"mtu"`

	HostPorts []hostPortRecord `json:"hostPorts,omitempty"`
}

// hostPortRecord is a state.HostPort. Without an address it is on each.
type hostPortRecord struct {
	Addr     netip.Addr `json:"address,omitzero"`
	Port     uint16     `json:"port"`
	Protocol uint8      `json:"protocol"` // IANA's number
	Target   uint16     `json:"target"`
}

func (v veth) record() record {
	r := record{Network: v.Network, ContainerID: v.ContainerID, Interface: v.Interface, Namespace: v.Pod.Namespace, Pod: v.Pod.Name,
		Addr: v.Addr, HostDevice: v.HostDevice, PodMAC: v.PodMAC, HostMAC: v.HostMAC, MTU: v.MTU}
	for _, p := range v.HostPorts {
		r.HostPorts = append(r.HostPorts, hostPortRecord{p.Addr, p.Port, uint8(p.Protocol), p.Target})
	}
	return r
}

func (r record) veth() veth {
	var ports []state.HostPort
	for _, p := range r.HostPorts {
		ports = append(ports, state.HostPort{Addr: p.Addr, Port: p.Port, Protocol: state.Protocol(p.Protocol), Target: p.Target})
	}
	return veth{Network: r.Network, MTU: r.MTU, Endpoint: state.Endpoint{
		ContainerID: r.ContainerID,
		Interface:   r.Interface,
		Pod:         state.ObjectName{Namespace: r.Namespace, Name: r.Pod},
		Addr:        r.Addr,
		HostDevice:  r.HostDevice,
		PodMAC:      r.PodMAC,
		HostMAC:     r.HostMAC,
		HostPorts:   ports,
	}}
}

func (r records) path(hostDevice string) string { return filepath.Join(r.dir, hostDevice+".json") }

// write replaces the attachment's file: after a crash it is the old or the new one.
func (r records) write(v veth) error {
	if err := r.replace(v); err != nil {
		return fmt.Errorf("write record of %s: %w", v.HostDevice, err)
	}
	return nil
}

func (r records) replace(v veth) error {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(v.record(), "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(r.dir, ".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // no longer there when all went well
	_, err = tmp.Write(append(text, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), r.path(v.HostDevice)); err != nil {
		return err
	}
	return r.sync()
}

// remove deletes the attachment's file, if there is one.
func (r records) remove(hostDevice string) error {
	err := os.Remove(r.path(hostDevice))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = r.sync()
	}
	if err != nil {
		return fmt.Errorf("remove record of %s: %w", hostDevice, err)
	}
	return nil
}

// sync makes renames and removals in the directory survive a power cut.
func (r records) sync() error {
	dir, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// read returns the attachments on disk. Files that hold none come back as
// problems beside those that do.
func (r records) read() (veths []veth, problems []error, err error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list records: %w", err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue // one that a crash left half-written
		}
		v, err := readRecord(filepath.Join(r.dir, entry.Name()))
		if err != nil {
			problems = append(problems, fmt.Errorf("read record: %w", err))
			continue
		}
		veths = append(veths, v)
	}
	return veths, problems, nil
}

func readRecord(path string) (veth, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return veth{}, err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return veth{}, fmt.Errorf("%s: %w", path, err)
	}
	if name, _, _ := identity(r.ContainerID, r.Interface); name != r.HostDevice || !r.Addr.Is4() {
		return veth{}, fmt.Errorf("%s: the device or the address is not one of an attachment", path)
	}
	return r.veth(), nil
}

// CheckNone says why this machine is none to have no pods: it has those that are
// on record.
func CheckNone(stateDir string) error {
	veths, problems, err := recordsIn(stateDir).read()
	if n := len(veths) + len(problems); err == nil && n > 0 {
		err = fmt.Errorf("there are pods on this machine: %s has %d; move them elsewhere, or forget them with seamarkd cleanup", recordsIn(stateDir).dir, n)
	}
	return err
}
