package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/outage"
	"github.com/spf13/cobra"
)

// outageCommand measures what people notice of faults.
func outageCommand(name *string) *cobra.Command {
	var runs int
	var only []string
	var daemonArgs []string
	cmd := &cobra.Command{
		Use:   "outage",
		Short: "Measure what is noticed of faults, in a lab of five nodes of its own",
		Long:  "Measure what is noticed of faults, in a lab of five nodes of its own. The faults are:\n  " + strings.Join(faultNames(), "\n  "),
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runs < 1 {
				return fmt.Errorf("--runs %d: want 1 or more", runs)
			}
			faults, err := findFaults(only)
			if err != nil {
				return err
			}
			began := time.Now()
			results, err := outage.Bench(cmd.Context(), testlab.Config{Name: *name, DaemonArgs: daemonArgs}, faults, runs,
				func(f outage.Fault, r outage.Run) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%6.0f s  %s: %+v\n", time.Since(began).Seconds(), f.Name, r)
				})
			if printErr := outage.Print(cmd.OutOrStdout(), results); err == nil {
				err = printErr
			}
			return err
		},
	}
	cmd.Flags().IntVar(&runs, "runs", 3, "how often each fault happens; the table has min/median/max")
	cmd.Flags().StringArrayVar(&only, "fault", nil, "only this one (repeat it)")
	cmd.Flags().StringArrayVar(&daemonArgs, "daemon-arg", nil, "one more argument for the nodes' seamarkd (repeat it)")
	return cmd
}

func faultNames() []string {
	var names []string
	for _, f := range outage.Faults {
		names = append(names, f.Name)
	}
	return names
}

// findFaults returns the named faults, all when none is.
func findFaults(names []string) ([]outage.Fault, error) {
	for _, name := range names {
		if !slices.Contains(faultNames(), name) {
			return nil, fmt.Errorf("--fault %q: there are %s", name, strings.Join(faultNames(), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(outage.Faults), func(f outage.Fault) bool {
		return len(names) > 0 && !slices.Contains(names, f.Name)
	}), nil
}
