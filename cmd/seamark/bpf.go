package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/seamark-lb/seamark/state"
	"github.com/spf13/cobra"
)

func newBPF(c *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "bpf", Short: "Show what is in this node's BPF maps", RunE: wantSubcommand}
	lb := &cobra.Command{Use: "lb", Short: "The load balancer's maps", RunE: wantSubcommand}
	lb.AddCommand(newLBList(c))
	cmd.AddCommand(lb)
	for name, list := range newLists(c) {
		if name == "maglev" {
			list.AddCommand(newMaglevGet(c))
		}
		cmd.AddCommand(list)
	}
	return cmd
}

func newLBList(c *cli) *cobra.Command {
	var stats bool
	var of string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List frontends, backends and all they are made of; or, with --stats, what was sent to them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			service, err := serviceName(of)
			if err != nil {
				return err
			}
			if !stats {
				return c.client().DumpLB(cmd.Context(), cmd.OutOrStdout(), service)
			}
			if of != "" {
				return errors.New("--stats are of all Services: those of one are in seamark describe service")
			}
			counts, err := c.client().Counts(cmd.Context())
			if err != nil {
				return err
			}
			if err := printServiceCounts(cmd.OutOrStdout(), "", counts.Services); err != nil {
				return err
			}
			return printBackendCounts(cmd.OutOrStdout(), "", counts.Backends)
		},
	}
	cmd.Flags().StringVar(&of, "service", "", "only what there is for this Service, as NAMESPACE/NAME")
	cmd.Flags().BoolVar(&stats, "stats", false, "packets and bytes that this node sent to each Service and backend, and their flows here")
	return cmd
}

func printServiceCounts(out io.Writer, indent string, counts []control.ServiceCount) error {
	t := newTable(out, indent, "SERVICE", "PORT", "PROTO", "PACKETS", "BYTES", "FLOWS")
	for _, s := range counts {
		t.row(s.Service, or(s.Port, none), s.Protocol, strconv.FormatUint(s.Packets, 10), strconv.FormatUint(s.Bytes, 10), strconv.FormatUint(s.Flows, 10))
	}
	return t.flush()
}

func printBackendCounts(out io.Writer, indent string, counts []control.BackendCount) error {
	t := newTable(out, indent, "BACKEND", "PACKETS", "BYTES", "FLOWS")
	for _, b := range counts {
		t.row(b.Addr.String(), strconv.FormatUint(b.Packets, 10), strconv.FormatUint(b.Bytes, 10), strconv.FormatUint(b.Flows, 10))
	}
	return t.flush()
}

// wantSubcommand refuses a command that only groups others, and guesses which was meant.
func wantSubcommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	want := fmt.Sprintf("want %s %s", cmd.CommandPath(), strings.Join(names, "|"))
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q: %s", args[0], want)
	}
	return fmt.Errorf("no command: %s", want)
}

func newMaglevGet(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ADDRESS:PORT[/PROTOCOL]",
		Short:   "Show who has how many slots of a frontend's table",
		Example: "  seamark bpf maglev get 192.168.10.211:80\n  seamark bpf maglev get [fd00::1]:53/udp",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, proto, err := parseFrontend(args[0])
			if err != nil {
				return err
			}
			m, err := c.client().Maglev(cmd.Context(), addr, proto)
			if err != nil {
				return err
			}
			if !isTable(c.output) {
				return printValue(cmd.OutOrStdout(), c.output, m)
			}
			return printMaglev(cmd.OutOrStdout(), m, c.output == outputWide)
		},
	}
	c.outputFlag(cmd)
	return cmd
}

func parseFrontend(text string) (netip.AddrPort, state.Protocol, error) {
	addrText, protoText, ok := strings.Cut(text, "/")
	if !ok {
		protoText = state.TCP.String()
	}
	addr, err := netip.ParseAddrPort(addrText)
	if err != nil {
		return addr, 0, fmt.Errorf("%q is no frontend: want ADDRESS:PORT[/PROTOCOL], as in 192.168.10.211:80/tcp or [fd00::1]:53/udp", text)
	}
	proto, err := control.ParseProtocol(protoText)
	return addr, proto, err
}

// firstSlots is how many slots are shown when not all are.
const firstSlots = 16

func printMaglev(out io.Writer, m control.Maglev, all bool) error {
	head := newTable(out, "")
	head.row("Frontend:", m.Addr.String()+"/"+m.Protocol)
	head.row("Service:", or(m.Service, "<unknown>"))
	head.row("Table size:", fmt.Sprintf("%d slots", len(m.Slots)))
	if err := head.flush(); err != nil {
		return err
	}
	if len(m.Slots) == 0 {
		return nil
	}
	count := make([]int, len(m.Backends))
	empty := 0
	for _, i := range m.Slots {
		if i < 0 || i >= len(count) {
			empty++
			continue
		}
		count[i]++
	}
	t := newTable(out, "", "BACKEND", "NODE", "WEIGHT", "SLOTS", "SHARE")
	for i, b := range m.Backends {
		t.row(b.Addr.String(), or(b.Node, "<unknown>"), strconv.Itoa(int(max(b.Weight, 1))), strconv.Itoa(count[i]), share(count[i], len(m.Slots)))
	}
	if empty > 0 {
		t.row(none, "", "", strconv.Itoa(empty), share(empty, len(m.Slots)))
	}
	if err := t.flush(); err != nil {
		return err
	}
	shown := m.Slots
	if !all && len(shown) > firstSlots {
		shown = shown[:firstSlots]
	}
	slots := newTable(out, "", "SLOT", "BACKEND")
	for i, b := range shown {
		backend := none
		if b >= 0 && b < len(m.Backends) {
			backend = m.Backends[b].Addr.String()
		}
		slots.row(strconv.Itoa(i), backend)
	}
	if err := slots.flush(); err != nil {
		return err
	}
	if more := len(m.Slots) - len(shown); more > 0 {
		fmt.Fprintf(out, "and %d more (-o wide shows all)\n", more)
	}
	return nil
}

func share[N int | uint64](part, whole N) string {
	if whole == 0 {
		return none
	}
	return fmt.Sprintf("%.2f%%", 100*float64(part)/float64(whole))
}
