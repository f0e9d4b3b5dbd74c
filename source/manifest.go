package source

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	sigsyaml "sigs.k8s.io/yaml"
)

// Manifest is one object of a manifest file.
type Manifest struct {
	File   string
	Line   int  // where the object begins
	Kind   Kind // zero when Seamark does not know it
	Object *unstructured.Unstructured

	lines nodeLines
}

// Locate says of each problem where in the file it stands.
func (m Manifest) Locate(problems Problems) Problems {
	located := slices.Clone(problems)
	for i := range located {
		located[i].File, located[i].Line = m.File, m.lines.line(located[i].Field)
	}
	return located
}

// ReadManifests reads YAML or JSON, one document or many, and Lists. It
// returns the objects that are right, with their defaults set, and an error of
// type Problems that names everything that is wrong, with name as the file.
func ReadManifests(name string, r io.Reader) ([]Manifest, error) {
	return readManifests(name, r, Admit)
}

// ReadObjects reads as ReadManifests does, and takes objects of any kind as
// they are written.
func ReadObjects(name string, r io.Reader) ([]Manifest, error) {
	return readManifests(name, r, func(*unstructured.Unstructured) Problems { return nil })
}

func readManifests(name string, r io.Reader, admit func(*unstructured.Unstructured) Problems) ([]Manifest, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	reader := manifestReader{file: name, admit: admit}
	for _, doc := range splitDocuments(data) {
		reader.document(doc)
	}
	slices.SortStableFunc(reader.problems, func(a, b Problem) int { return a.Line - b.Line })
	return reader.manifests, reader.problems.err()
}

// document is one YAML document or JSON value, and the lines before it.
type document struct {
	text   []byte
	before int
}

// splitDocuments cuts at lines that begin with ---, which can be nothing but
// a document marker in YAML, and between JSON values.
func splitDocuments(data []byte) []document {
	var docs []document
	var text []byte
	start, line := 0, 0
	flush := func() {
		docs = append(docs, splitJSON(document{text, start})...)
		text = nil
	}
	for l := range bytes.Lines(data) {
		line++
		if bytes.Equal(bytes.TrimRight(l, " \t\r\n"), []byte("---")) || bytes.HasPrefix(l, []byte("--- ")) {
			flush()
			start = line
			// What follows the marker on its line belongs to the new document.
			if rest := bytes.TrimSpace(l[3:]); len(rest) > 0 {
				text, start = append(text, l[4:]...), line-1
			}
			continue
		}
		text = append(text, l...)
	}
	flush()
	return docs
}

// splitJSON cuts a document that is several JSON values one after another.
func splitJSON(doc document) []document {
	if !bytes.HasPrefix(bytes.TrimSpace(doc.text), []byte("{")) {
		return []document{doc}
	}
	var docs []document
	dec := stdjson.NewDecoder(bytes.NewReader(doc.text))
	for {
		var raw stdjson.RawMessage
		if err := dec.Decode(&raw); err != nil {
			if errors.Is(err, io.EOF) && len(docs) > 0 {
				return docs
			}
			return []document{doc} // flow-style YAML, or broken: the YAML parser will say
		}
		end := dec.InputOffset()
		begin := end - int64(len(raw))
		docs = append(docs, document{raw, doc.before + bytes.Count(doc.text[:begin], []byte("\n"))})
	}
}

type manifestReader struct {
	file      string
	admit     func(*unstructured.Unstructured) Problems
	manifests []Manifest
	problems  Problems
}

func (r *manifestReader) problem(line int, message, cure string) {
	r.problems = append(r.problems, Problem{File: r.file, Line: line, Message: message, Cure: cure})
}

func (r *manifestReader) document(doc document) {
	var root yaml.Node
	if err := yaml.Unmarshal(doc.text, &root); err != nil {
		r.syntaxErrors(doc, err)
		return
	}
	if len(root.Content) == 0 || root.Content[0].Tag == "!!null" {
		return // empty, or comments only
	}
	// The values are read as kubectl reads them (YAML 1.1 booleans and all);
	// the nodes are for the line numbers.
	js, err := sigsyaml.YAMLToJSONStrict(doc.text)
	if err != nil {
		r.syntaxErrors(doc, err)
		return
	}
	var value any
	if err := json.Unmarshal(js, &value); err != nil {
		r.problem(doc.before+1, err.Error(), "correct the document")
		return
	}
	r.value(value, nodeLines{root.Content[0], doc.before})
}

// syntaxErrors passes on what the YAML parser says, with lines of the file.
func (r *manifestReader) syntaxErrors(doc document, err error) {
	found := false
	for text := range strings.SplitSeq(err.Error(), "\n") {
		m := regexp.MustCompile(`line (\d+): (.*)`).FindStringSubmatch(text)
		if m == nil {
			continue
		}
		found = true
		line, _ := strconv.Atoi(m[1])
		cure := "correct the YAML"
		if strings.Contains(m[2], "already set") {
			cure = "remove one"
		}
		r.problem(doc.before+line, m[2], cure)
	}
	if !found {
		r.problem(doc.before+1, strings.TrimPrefix(err.Error(), "yaml: "), "correct the YAML")
	}
}

func (r *manifestReader) value(value any, lines nodeLines) {
	object, ok := value.(map[string]any)
	if !ok {
		r.problem(lines.line(""), fmt.Sprintf("is %s, not an object", jsonType(value)), "begin with apiVersion: and kind:")
		return
	}
	kind, _ := object["kind"].(string)
	if items, ok := object["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		for i, item := range items {
			r.value(item, lines.child(fmt.Sprintf("items[%d]", i)))
		}
		return
	}
	m := Manifest{File: r.file, Line: lines.line(""), Object: &unstructured.Unstructured{Object: object}, lines: lines}
	if problems := r.admit(m.Object); len(problems) > 0 {
		r.problems = append(r.problems, m.Locate(problems)...)
		return
	}
	m.Kind, _ = KindOf(m.Object.GetAPIVersion(), m.Object.GetKind())
	r.manifests = append(r.manifests, m)
}

// nodeLines finds the line of a field.
type nodeLines struct {
	node   *yaml.Node
	before int
}

// line returns where the field stands, or where what would contain it stands.
func (n nodeLines) line(path string) int { return n.child(path).node.Line + n.before }

// child returns the node of the field, or the nearest that contains it. For a
// key: value pair that is the key's line with the value's content.
func (n nodeLines) child(path string) nodeLines {
	for _, step := range splitPath(path) {
		next := childNode(n.node, step)
		if next == nil {
			break
		}
		n.node = next
	}
	return n
}

func childNode(n *yaml.Node, step string) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				value := *n.Content[i+1]
				value.Line = n.Content[i].Line
				return &value
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}

// splitPath cuts spec.blocks[0].cidr into spec, blocks, 0, cidr; what stands
// in brackets is one step, dots and all.
func splitPath(path string) []string {
	var steps []string
	for path != "" {
		switch path[0] {
		case '.':
			path = path[1:]
		case '[':
			inside, rest, _ := strings.Cut(path[1:], "]")
			steps, path = append(steps, inside), rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			steps, path = append(steps, path[:end]), path[end:]
		}
	}
	return steps
}
