package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"
)

// The formats of -o.
const (
	outputTable = "table"
	outputWide  = "wide"
	outputYAML  = "yaml"
	outputJSON  = "json"
)

func checkOutput(cmd *cobra.Command, output string) error {
	formats := []string{outputTable, outputWide, outputYAML, outputJSON}
	if cmd.Flags().Lookup("output") != nil && !slices.Contains(formats, output) {
		return fmt.Errorf("unknown output format %q: want %s", output, strings.Join(formats, ", "))
	}
	return nil
}

// isTable says whether people are to read it, and not programs.
func isTable(output string) bool { return output == outputTable || output == outputWide }

// printValue writes v as YAML or JSON.
func printValue(w io.Writer, output string, v any) error {
	if output == outputYAML {
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("write yaml: %w", err)
		}
		_, err = w.Write(data)
		return err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "    ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table lays its rows out in columns.
type table struct {
	out    io.Writer
	indent string
	text   *bytes.Buffer
	layout *tabwriter.Writer
}

// newTable begins a table. Each of its lines begins with indent.
func newTable(out io.Writer, indent string, header ...string) table {
	text := &bytes.Buffer{}
	t := table{out, indent, text, tabwriter.NewWriter(text, 0, 8, 3, ' ', 0)}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

func (t table) row(cells ...string) {
	line := strings.Join(cells, "\t")
	fmt.Fprintln(t.layout, strings.ReplaceAll(line, "\n", "; ")) // an error may have lines
}

// flush writes the table, without the blanks that would end its lines.
func (t table) flush() error {
	if err := t.layout.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(t.text.String()) {
		if _, err := fmt.Fprintln(t.out, strings.TrimRight(t.indent+line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// ageOf is how long ago t was, as kubectl prints it.
func ageOf(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t))
}

// timestamp is t for people, to the second, in UTC.
func timestamp(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return t.UTC().Format(time.RFC3339)
}

// or returns s, or else what stands for nothing.
func or(s, nothing string) string {
	if s == "" {
		return nothing
	}
	return s
}

// none is what kubectl prints for an empty list.
const none = "<none>"

func join(items []string) string { return or(strings.Join(items, ","), none) }
