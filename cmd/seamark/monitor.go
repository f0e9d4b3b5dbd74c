package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/cobra"
)

// outputText is one line of words for each packet.
const outputText = "text"

func newMonitor(c *cli) *cobra.Command {
	var filter control.MonitorFilter
	var service, output string
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Tell of packets as they are dropped, or of all of one Service",
		Long: "Tell of packets as this node's datapath drops them, and why, until it is interrupted.\n" +
			"With --service, of every packet to and from that Service's frontends, dropped or not;\n" +
			"with --drops as well, only of the dropped ones.",
		Example: "  seamark monitor\n  seamark monitor --reason no_backend --device eth1\n  seamark monitor --service default/webpod",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if filter.Service, err = serviceName(service); err != nil {
				return err
			}
			filter.Drops = filter.Drops || service == ""
			print, err := eventPrinter(cmd.OutOrStdout(), output)
			if err != nil {
				return err
			}
			started := func() { fmt.Fprintln(cmd.ErrOrStderr(), "watching; end with Ctrl-C") }
			return c.client().Monitor(cmd.Context(), filter, started, print)
		},
	}
	cmd.Flags().BoolVar(&filter.Drops, "drops", false, "dropped packets only (default without --service)")
	cmd.Flags().StringVar(&service, "service", "", "packets to and from the frontends of this Service, as NAMESPACE/NAME")
	cmd.Flags().StringVar(&filter.Reason, "reason", "", "packets with this reason, such as no_backend (seamark status -o wide shows some)")
	cmd.Flags().StringVar(&filter.Device, "device", "", "packets of this network interface")
	cmd.Flags().StringVarP(&output, "format", "o", outputText, "text or json")
	return cmd
}

// serviceName reads NAMESPACE/NAME, or nothing.
func serviceName(text string) (state.ObjectName, error) {
	if text == "" {
		return state.ObjectName{}, nil
	}
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return state.ObjectName{}, fmt.Errorf("service %q: want NAMESPACE/NAME, as in default/webpod", text)
	}
	return state.ObjectName{Namespace: namespace, Name: name}, nil
}

func eventPrinter(out io.Writer, output string) (func(control.PacketEvent) error, error) {
	switch output {
	case outputText:
		return func(e control.PacketEvent) error { return printEvent(out, e) }, nil
	case outputJSON:
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return func(e control.PacketEvent) error { return enc.Encode(e) }, nil
	}
	return nil, fmt.Errorf("unknown output format %q: want %s, %s", output, outputText, outputJSON)
}

// clock is the time of day of an event, in UTC.
const clock = "15:04:05.000000"

func printEvent(out io.Writer, e control.PacketEvent) error {
	if e.Lost > 0 {
		if _, err := fmt.Fprintf(out, "(%d packets more than could be told)\n", e.Lost); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%s %s %s %s %s: %s, frame of %d\n", e.At.In(time.UTC).Format(clock), e.Device, e.Hook, e.Action, e.Reason, e.Packet, e.Length)
	return err
}
