// Package job is what a machine's first process is told, and how it answers.
package job

// File is where the Job is, as JSON.
const File = "/job.json"

// ExitLine begins the console's last line; the exit code follows.
const ExitLine = "seamark-vm: exit code "

// Job is what the machine does before it turns itself off.
type Job struct {
	// Modules are files to load, in that order.
	Modules []string
	// Commands to run, one after another.
	Commands [][]string
}

// Mount is a filesystem of the machine.
type Mount struct{ Target, Type string }

// Mounts are the machine's filesystems, in the order to mount them in.
var Mounts = []Mount{
	{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}, {"/tmp", "tmpfs"}, {"/run", "tmpfs"},
}
