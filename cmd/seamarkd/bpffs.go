package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// newMountBPFFSCommand is what the chart's init container runs: a scratch image has
// no mount(8), and the mount is to be the host's, to outlive the pod.
func newMountBPFFSCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "mount-bpffs",
		Short: "Mount a BPF filesystem for the pins of programs and maps, unless one is mounted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			mounted, err := mountBPFFS(dir)
			if err != nil {
				return fmt.Errorf("mount bpffs on %s: %w", dir, err)
			}
			if mounted {
				fmt.Fprintln(cmd.OutOrStdout(), "bpffs mounted on", dir)
			} else {
				fmt.Fprintln(cmd.OutOrStdout(), "bpffs is mounted on", dir, "already")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "bpffs", "/sys/fs/bpf", "where to mount it")
	return cmd
}

// mountBPFFS says whether it had to mount. The directory is made if its parent
// lets it, which /sys/fs does not.
func mountBPFFS(dir string) (mounted bool, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, err
	}
	if uint32(fs.Type) == unix.BPF_FS_MAGIC {
		return false, nil
	}
	return true, unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700")
}
