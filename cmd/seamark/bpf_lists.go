package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/seamark-lb/seamark/cmd/internal/control"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"
)

// listing is how a table of the datapath is listed, for rows of one type.
type listing[T any] struct {
	use     string // name of the command above list
	short   string
	table   string // of package control
	columns []string
	cells   func(T) []string
}

// newLists returns a command for each table that can be listed.
func newLists(c *cli) map[string]*cobra.Command {
	return map[string]*cobra.Command{
		"ct": listing[control.Flow]{"ct", "Flows to pods of this node", control.TableFlows,
			[]string{"CLIENT", "FRONTEND", "POD", "PROTO", "STATE", "IDLE", "SERVICE"},
			func(f control.Flow) []string {
				return []string{f.Client.String(), f.Frontend.String(), f.Pod.String(), f.Protocol, f.State, idle(f.Idle), or(f.Service, unknown)}
			}}.command(c),
		"nat": listing[control.NATFlow]{"nat", "Flows that this node translates to other nodes' backends", control.TableNAT,
			[]string{"CLIENT", "FRONTEND", "SOURCE", "BACKEND", "PROTO", "STATE", "FROM", "IDLE", "SERVICE"},
			func(f control.NATFlow) []string {
				from := "outside"
				if f.Inside {
					from = "pod"
				}
				return []string{f.Client.String(), f.Frontend.String(), f.Source.String(), f.Backend.String(), f.Protocol, f.State, from, idle(f.Idle), or(f.Service, unknown)}
			}}.command(c),
		"pins": listing[control.Pin]{"pins", "Flows whose Maglev slot does not say their backend", control.TablePins,
			[]string{"CLIENT", "FRONTEND", "BACKEND", "PROTO", "STATE", "IDLE", "SERVICE"},
			func(p control.Pin) []string {
				return []string{p.Client.String(), p.Frontend.String(), address(p.Backend), p.Protocol, p.State, idle(p.Idle), or(p.Service, unknown)}
			}}.command(c),
		"affinity": listing[control.Affinity]{"affinity", "Clients that keep their backend (sessionAffinity)", control.TableAffinity,
			[]string{"CLIENT", "BACKEND", "IDLE", "SERVICE"},
			func(a control.Affinity) []string {
				return []string{a.Client.String(), address(a.Backend), idle(a.Idle), or(a.Service, unknown)}
			}}.command(c),
		"sources": listing[control.SourceRange]{"sources", "Clients that service ports are open to (loadBalancerSourceRanges)", control.TableSources,
			[]string{"PREFIX", "SERVICE"},
			func(s control.SourceRange) []string { return []string{s.Prefix.String(), or(s.Service, unknown)} }}.command(c),
		"fragments": listing[control.Fragment]{"fragments", "Packets that came in fragments", control.TableFragments,
			[]string{"SOURCE", "DESTINATION", "PROTO", "ID", "IDLE", "SERVICE"},
			func(f control.Fragment) []string {
				return []string{f.Source.String(), f.Dest.String(), f.Protocol, fmt.Sprintf("%#x", f.ID), idle(f.Idle), or(f.Service, unknown)}
			}}.command(c),
		"maglev": listing[control.MaglevTable]{"maglev", "Maglev tables", control.TableMaglev,
			[]string{"FRONTEND", "PROTO", "SET", "SLOTS", "BACKENDS", "MOVED", "SERVICE"},
			func(m control.MaglevTable) []string {
				return []string{m.Frontend.String(), m.Protocol, fmt.Sprint(m.Set), strconv.Itoa(m.Slots), strconv.Itoa(m.Backends), strconv.Itoa(m.Moved), or(m.Service, unknown)}
			}}.command(c),
	}
}

const unknown = "<unknown>"

func idle(seconds uint32) string {
	return duration.HumanDuration(time.Duration(seconds) * time.Second)
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return unknown
	}
	return a.String()
}

func (l listing[T]) command(c *cli) *cobra.Command {
	var query control.ListQuery
	var service string
	list := &cobra.Command{
		Use:   "list",
		Short: "List them, in the order of their addresses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if query.Service, err = serviceName(service); err != nil {
				return err
			}
			if query.Limit < 0 {
				return fmt.Errorf("--limit %d: want a number, 0 for all", query.Limit)
			}
			out := newRowWriter(cmd.OutOrStdout(), c.output, l.columns, l.cells)
			more, err := control.List(cmd.Context(), c.client(), l.table, query, out.row)
			if err == nil {
				err = out.end()
			}
			if err == nil && more > 0 {
				where := cmd.OutOrStdout()
				if !isTable(c.output) {
					where = cmd.ErrOrStderr() // not among the rows
				}
				fmt.Fprintf(where, "and %d more (--limit 0 lists all, in the kernel's order)\n", more)
			}
			return err
		},
	}
	list.Flags().StringVar(&service, "service", "", "only those of this Service, as NAMESPACE/NAME")
	list.Flags().IntVar(&query.Limit, "limit", 1000, "how many are listed; 0: all, in the kernel's order")
	c.outputFlag(list)
	cmd := &cobra.Command{Use: l.use, Short: l.short, RunE: wantSubcommand}
	cmd.AddCommand(list)
	return cmd
}

// rowsPerTable is how many rows are laid out together, and kept for it: a list
// can be longer than one would want to keep.
const rowsPerTable = 1000

// rowWriter writes rows as they come.
type rowWriter[T any] struct {
	out     io.Writer
	output  string
	columns []string
	cells   func(T) []string
	table   table
	rows    int
}

func newRowWriter[T any](out io.Writer, output string, columns []string, cells func(T) []string) *rowWriter[T] {
	return &rowWriter[T]{out: out, output: output, columns: columns, cells: cells, table: newTable(out, "", columns...)}
}

func (w *rowWriter[T]) row(row T) error {
	w.rows++
	if !isTable(w.output) {
		return w.value(row)
	}
	w.table.row(w.cells(row)...)
	if w.rows%rowsPerTable > 0 {
		return nil
	}
	err := w.table.flush()
	w.table = newTable(w.out, "")
	return err
}

// value writes a row as one item of a list, which end ends.
func (w *rowWriter[T]) value(row T) error {
	if w.output == outputYAML {
		text, err := yaml.Marshal([]T{row})
		if err == nil {
			_, err = w.out.Write(text)
		}
		return err
	}
	before := "[\n    "
	if w.rows > 1 {
		before = ",\n    "
	}
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(row); err != nil {
		return err
	}
	_, err := io.WriteString(w.out, before+strings.TrimSuffix(text.String(), "\n"))
	return err
}

func (w *rowWriter[T]) end() (err error) {
	switch {
	case isTable(w.output):
		return w.table.flush()
	case w.rows == 0:
		_, err = io.WriteString(w.out, "[]\n")
	case w.output == outputJSON:
		_, err = io.WriteString(w.out, "\n]\n")
	}
	return err
}
