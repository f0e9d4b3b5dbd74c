package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/testlab"
	"github.com/seamark-lb/seamark/testlab/outage"
	"github.com/spf13/cobra"
)

// outageBench is a table of outages.
type outageBench struct {
	faults []string
	// bench measures the named ones.
	bench func(ctx context.Context, config testlab.Config, names []string, runs int, tell func(string, outage.Run)) ([]outage.Result, error)
	print func(io.Writer, []outage.Result) error
}

func l2Bench() outageBench {
	return outageBench{namesOf(outage.Faults, nameOfFault),
		func(ctx context.Context, config testlab.Config, names []string, runs int, tell func(string, outage.Run)) ([]outage.Result, error) {
			return outage.Bench(ctx, config, named(outage.Faults, nameOfFault, names), runs, func(f outage.Fault, r outage.Run) { tell(f.Name, r) })
		}, outage.Print}
}

func bgpBench() outageBench {
	return outageBench{namesOf(outage.BGPFaults, nameOfBGPFault),
		func(ctx context.Context, config testlab.Config, names []string, runs int, tell func(string, outage.Run)) ([]outage.Result, error) {
			return outage.BenchBGP(ctx, config, named(outage.BGPFaults, nameOfBGPFault, names), runs, func(f outage.BGPFault, r outage.Run) { tell(f.Name, r) })
		}, outage.PrintBGP}
}

func nameOfFault(f outage.Fault) string { return f.Name }

func nameOfBGPFault(f outage.BGPFault) string { return f.Name }

func namesOf[F any](faults []F, name func(F) string) []string {
	var names []string
	for _, f := range faults {
		names = append(names, name(f))
	}
	return names
}

// named are the faults of those names, all when there is none.
func named[F any](faults []F, name func(F) string, names []string) []F {
	return slices.DeleteFunc(slices.Clone(faults), func(f F) bool { return len(names) > 0 && !slices.Contains(names, name(f)) })
}

// outageCommand measures what people notice of faults.
func outageCommand(name *string) *cobra.Command {
	var runs int
	var only []string
	var daemonArgs []string
	var overBGP bool
	cmd := &cobra.Command{
		Use:   "outage",
		Short: "Measure what is noticed of faults, in a lab of five nodes of its own",
		Long: "Measure what is noticed of faults, in a lab of five nodes of its own. The faults are:\n  " + strings.Join(l2Bench().faults, "\n  ") +
			"\nand with --bgp:\n  " + strings.Join(bgpBench().faults, "\n  "),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if runs < 1 {
				return fmt.Errorf("--runs %d: want 1 or more", runs)
			}
			b := l2Bench()
			if overBGP {
				b = bgpBench()
			}
			for _, fault := range only {
				if !slices.Contains(b.faults, fault) {
					return fmt.Errorf("--fault %q: there are %s", fault, strings.Join(b.faults, ", "))
				}
			}
			began := time.Now()
			results, err := b.bench(cmd.Context(), testlab.Config{Name: *name, DaemonArgs: daemonArgs}, only, runs,
				func(fault string, r outage.Run) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%6.0f s  %s: %+v\n", time.Since(began).Seconds(), fault, r)
				})
			if printErr := b.print(cmd.OutOrStdout(), results); err == nil {
				err = printErr
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&overBGP, "bgp", false, "over BGP: nodes that a router spreads a client's connections over")
	cmd.Flags().IntVar(&runs, "runs", 3, "how often each fault happens; the table has min/median/max")
	cmd.Flags().StringArrayVar(&only, "fault", nil, "only this one (repeat it)")
	cmd.Flags().StringArrayVar(&daemonArgs, "daemon-arg", nil, "one more argument for the nodes' seamarkd (repeat it)")
	return cmd
}
