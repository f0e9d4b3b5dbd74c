// Command testlab builds and breaks labs of network namespaces. It is a thin
// shell over package testlab.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/kubeapi"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlab:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "testlab",
		Short:         "A lab of machines, as network namespaces on this one",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("name", testlab.DefaultName, "name of the lab: 1–32 characters of a-z, 0-9 and, inside, -")
	root.AddCommand(
		upCommand(name), downCommand(name), execCommand(name), kubectlCommand(name), statusCommand(name),
		powerCommand(name, "power-off", "Cut a host's power", func(_ context.Context, l *testlab.Lab, host string) error {
			return l.PowerOff(host)
		}),
		powerCommand(name, "power-on", "Boot a host that was powered off, and wait until it is ready",
			func(ctx context.Context, l *testlab.Lab, host string) error { return l.PowerOn(ctx, host) }),
		linkCommand(name), daemonCommand(name), apiCommand(name), readyCommand(name), kubeCommand(),
		outageCommand(name), webpodCommand(), proxyCommand(), streamsCommand(), probeCommand(), arpwatchCommand(),
	)
	return root
}

func upCommand(name *string) *cobra.Command {
	var c testlab.Config
	var file string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the lab and wait until it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Name = *name
			if file != "" {
				t, err := testlab.ReadTopology(file)
				if err != nil {
					return err
				}
				c.Topology = t
			}
			if c.ControlPlane == "kube" {
				if _, err := kubeapi.Build(cmd.Context(), cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			begin := time.Now()
			l, err := testlab.Up(cmd.Context(), c)
			if err != nil {
				return err
			}
			if err := printStatus(cmd, l); err != nil {
				return err
			}
			if kubeconfig, ok := l.Kubeconfig(); ok {
				fmt.Fprintf(cmd.OutOrStdout(), "kubeconfig, for use in the lab: %s\n", kubeconfig)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "lab %s is up (%.1f s)\n", l.Name, time.Since(begin).Seconds())
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "topology", "", "one with a name ("+strings.Join(testlab.TopologyNames(), ", ")+") or a YAML file (default: router, api, k8s-ctr, k8s-w1, k8s-w0)")
	cmd.Flags().StringVar(&c.ControlPlane, "control-plane", "etcd", "where objects are kept: etcd (the standalone store) or kube (a real Kubernetes control plane, built the first time)")
	cmd.Flags().BoolVar(&c.NoDaemons, "no-daemons", false, "leave seamarkd out; pods are wired up with plain kernel routes")
	cmd.Flags().StringArrayVar(&c.DaemonArgs, "daemon-arg", nil, "one more argument for the nodes' seamarkd (repeat it)")
	return cmd
}

func downCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove everything of the lab, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := testlab.Down(*name); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "lab %s is down\n", *name)
			return nil
		},
	}
}

func execCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec HOST -- CMD [ARG…]",
		Short: "Run a command on a host or pod; its exit code is the command's",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			h, err := l.Host(args[0])
			if err != nil {
				return err
			}
			argv := args[1:]
			if argv[0] == "--" {
				argv = argv[1:]
			}
			if len(argv) == 0 {
				return fmt.Errorf("exec on %s: no command", h.Name)
			}
			return h.Exec(argv)
		},
	}
	cmd.Flags().SetInterspersed(false) // flags after HOST are the command's
	return cmd
}

func kubectlCommand(name *string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl -- ARG…",
		Short: "Run kubectl on the control-plane host, with an administrator's rights",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return l.ExecKubectl(args)
		},
	}
	cmd.Flags().SetInterspersed(false) // flags after the first argument are kubectl's
	return cmd
}

func statusCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Aliases: []string{"hosts"},
		Short:   "List hosts and pods, and what they are doing",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := testlab.Open(*name)
			if err != nil {
				return err
			}
			return printStatus(cmd, l)
		},
	}
}

func printStatus(cmd *cobra.Command, l *testlab.Lab) error {
	all, err := l.Status()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "HOST\tROLE\tPOWER\tPROCESS\tNAMESPACE\tADDRESSES")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, orDash(s.Role), s.Power, orDash(s.Process), s.Namespace,
			orDash(strings.Join(s.Addresses, ", ")))
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
