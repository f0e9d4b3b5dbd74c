package source_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seamark-lb/seamark/source"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each file under testdata/bad has beside it what is to be said of it.
func TestBadManifests(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.[yj][as][mo][ln]")
	if err != nil || len(files) < 5 {
		t.Fatalf("found %d bad manifests (%v), want at least 5", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = source.ReadManifests(filepath.Base(file), bytes.NewReader(data))
			if err == nil {
				t.Fatal("the file was accepted")
			}
			got := err.Error() + "\n"
			golden := file + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			for line := range strings.Lines(got) {
				// file:line: object: field: what: cure
				if parts := strings.Split(line, ": "); len(parts) < 3 || !strings.HasPrefix(line, filepath.Base(file)+":") {
					t.Errorf("does not name file, line, field and cure: %s", line)
				}
			}
		})
	}
}
