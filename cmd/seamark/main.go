// Command seamark is the operator's tool: it shows and changes what the
// seamarkd on this node knows.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "seamark:", err)
		os.Exit(1)
	}
}

// cli is what every command needs.
type cli struct {
	socket string
	output string // table, wide, yaml or json
}

func (c *cli) client() *control.Client { return control.NewClient(c.socket) }

func newRoot() *cobra.Command {
	c := &cli{}
	root := &cobra.Command{
		Use:   "seamark",
		Short: "Show and change what the seamarkd on this node knows",
		Long: "seamark talks to the seamarkd on this node through its unix socket.\n" +
			"The socket is root's: run it as root.",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return checkOutput(cmd, c.output)
		},
	}
	socket := os.Getenv("SEAMARK_SOCKET")
	if socket == "" {
		socket = control.DefaultSocket
	}
	root.PersistentFlags().StringVar(&c.socket, "socket", socket, "seamarkd's unix socket (environment: SEAMARK_SOCKET)")
	root.AddCommand(newStatus(c), newHealth(c), newGet(c), newDescribe(c), newExplain(c), newDrain(c), newUndrain(c), newApply(c), newDelete(c), newConvert(), newBPF(c), newMonitor(c), newBGP(c), newVersion(c))
	return root
}

// outputFlag gives cmd the -o flag.
func (c *cli) outputFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.output, "output", "o", outputTable, "table, wide, yaml or json")
}
