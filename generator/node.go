package generator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Bounds of a document. Today's whole matrix has under 600 nodes, at depth 5.
const (
	maxFileSize = 4 << 20 // bytes
	maxNodes    = 200_000 // after aliases are followed, so that a YAML bomb ends here
	maxDepth    = 100     // GitLab's limit, too (max_yaml_depth)
)

type nodeKind int

const (
	object nodeKind = iota
	list
	text
	number
	other // true, false, null
)

func (k nodeKind) String() string {
	return [...]string{"an object", "a list", "a string", "a number", "true, false or null"}[k]
}

// node is one value of a parsed document, with the line on which it stands; 0 where the format cannot tell.
type node struct {
	kind   nodeKind
	line   int
	file   string // of an included document; "" for the one that was named
	text   string // of a scalar, as written
	tag    string // of YAML, where it is not one of YAML's own: "!reference"
	keys   []*node
	values []*node // of an object, one a key; of a list, its items
}

// parseYAML reads the only document of a YAML text, with its aliases and merge keys followed.
func parseYAML(source []byte) (*node, error) {
	d := yaml.NewDecoder(bytes.NewReader(source))
	document, err := nextYAML(d)
	if err != nil {
		return nil, err
	}
	return document, endYAML(d)
}

// parsePipeline reads a pipeline: one YAML document, which a document with the inputs that it takes may precede (spec:inputs).
func parsePipeline(source []byte) (*node, error) {
	d := yaml.NewDecoder(bytes.NewReader(source))
	document, err := nextYAML(d)
	if err != nil || document.get("spec") == nil {
		return document, cmp.Or(err, endYAML(d))
	}
	body, err := nextYAML(d)
	if errors.Is(err, errNoDocument) {
		return document, nil
	}
	if err != nil {
		return nil, err
	}
	return body, endYAML(d)
}

var errNoDocument = errors.New("the file is empty")

func nextYAML(d *yaml.Decoder) (*node, error) {
	var document yaml.Node
	if err := d.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errNoDocument
		}
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if strings.HasPrefix(text, "exceeded") {
			text = "line 1: " + text // the library names every line but the first
		}
		return nil, errors.New(text)
	}
	c := yamlConverter{budget: maxNodes}
	return c.convert(&document, 0)
}

func endYAML(d *yaml.Decoder) error {
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("the file holds more than one YAML document")
	}
	return nil
}

// yamlConverter follows aliases itself, because the number of nodes behind them has to be bounded.
type yamlConverter struct{ budget int }

func (c *yamlConverter) convert(y *yaml.Node, depth int) (*node, error) {
	if c.budget--; c.budget < 0 {
		return nil, fmt.Errorf("line %d: the document has more than %d values once its aliases are followed", y.Line, maxNodes)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("line %d: the document is nested more than %d deep", y.Line, maxDepth)
	}
	switch y.Kind {
	case yaml.DocumentNode:
		return c.convert(y.Content[0], depth)
	case yaml.AliasNode:
		return c.convert(y.Alias, depth+1)
	case yaml.MappingNode:
		return c.mapping(y, depth)
	case yaml.SequenceNode:
		n := &node{kind: list, line: y.Line, tag: ownTag(y)}
		for _, item := range y.Content {
			v, err := c.convert(item, depth+1)
			if err != nil {
				return nil, err
			}
			n.values = append(n.values, v)
		}
		return n, nil
	}
	return yamlScalar(y), nil
}

// mapping puts what is merged behind the mapping's own keys, of which none is merged over (yaml.org/type/merge.html).
func (c *yamlConverter) mapping(y *yaml.Node, depth int) (*node, error) {
	n := &node{kind: object, line: y.Line}
	var merged []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, err := c.convert(y.Content[i], depth+1)
		if err != nil {
			return nil, err
		}
		v, err := c.convert(y.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		if y.Content[i].ShortTag() == "!!merge" && v.tag == "" {
			sources, err := mergeSources(v)
			if err != nil {
				return nil, err
			}
			merged = append(merged, sources...)
			continue
		}
		n.keys, n.values = append(n.keys, k), append(n.values, v)
	}
	if merged != nil {
		n.merge(merged)
	}
	return n, nil
}

func mergeSources(v *node) ([]*node, error) {
	sources := []*node{v}
	if v.kind == list {
		sources = v.values
	}
	for _, s := range sources {
		if s.kind != object {
			return nil, fmt.Errorf("line %d: << merges %s, but can merge objects only", s.line, s.kind)
		}
	}
	return sources, nil
}

// merge adds the keys of the sources that n does not have; of one key in several sources the first counts.
func (n *node) merge(sources []*node) {
	own := map[string]bool{}
	for _, k := range n.keys {
		own[k.text] = true
	}
	for _, s := range sources {
		for i, k := range s.keys {
			if !own[k.text] {
				own[k.text] = true
				n.keys, n.values = append(n.keys, k), append(n.values, s.values[i])
			}
		}
	}
}

// ownTag returns a tag like !reference, which the program that reads the document gives a meaning.
func ownTag(y *yaml.Node) string {
	if strings.HasPrefix(y.Tag, "!") && !strings.HasPrefix(y.Tag, "!!") {
		return y.Tag
	}
	return ""
}

func yamlScalar(y *yaml.Node) *node {
	kinds := map[string]nodeKind{"!!str": text, "!!int": number, "!!float": number}
	kind, ok := kinds[y.ShortTag()]
	if !ok {
		kind = other
	}
	return &node{kind: kind, line: y.Line, text: y.Value, tag: ownTag(y)}
}

// parseJSON reads the only value of a JSON text. With lines false the text was computed and its lines mean nothing.
func parseJSON(source []byte, lines bool) (*node, error) {
	p := jsonParser{source: source, lines: lines, line: 1, decoder: json.NewDecoder(bytes.NewReader(source))}
	p.decoder.UseNumber()
	n, err := p.value(0)
	if err != nil {
		return nil, p.located(err)
	}
	if _, err := p.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, p.located(errors.New("more text follows the document"))
	}
	return n, nil
}

type jsonParser struct {
	source  []byte
	decoder *json.Decoder
	lines   bool
	offset  int64 // up to where line breaks were counted
	line    int
	nodes   int
}

// here returns the line of the token that was read last.
func (p *jsonParser) here() int {
	if !p.lines {
		return 0
	}
	at := min(p.decoder.InputOffset(), int64(len(p.source)))
	p.line += bytes.Count(p.source[p.offset:at], []byte("\n"))
	p.offset = at
	return p.line
}

func (p *jsonParser) located(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the text ends too early")
		if p.lines {
			return fmt.Errorf("line %d: %w", 1+bytes.Count(bytes.TrimRight(p.source, "\n"), []byte("\n")), err)
		}
	}
	if line := p.here(); line > 0 {
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

func (p *jsonParser) value(depth int) (*node, error) {
	token, err := p.decoder.Token()
	if err != nil {
		return nil, err
	}
	if p.nodes++; p.nodes > maxNodes || depth > maxDepth {
		return nil, fmt.Errorf("the document has more than %d values or is nested more than %d deep", maxNodes, maxDepth)
	}
	n := &node{line: p.here()}
	switch token := token.(type) {
	case json.Delim:
		return n, p.fill(n, token, depth)
	case string:
		n.kind, n.text = text, token
	case json.Number:
		n.kind, n.text = number, token.String()
	default:
		n.kind, n.text = other, fmt.Sprint(token)
	}
	return n, nil
}

func (p *jsonParser) fill(n *node, open json.Delim, depth int) error {
	n.kind = list
	if open == '{' {
		n.kind = object
	}
	for p.decoder.More() {
		if n.kind == object {
			k, err := p.value(depth + 1)
			if err != nil {
				return err
			}
			n.keys = append(n.keys, k)
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		n.values = append(n.values, v)
	}
	_, err := p.decoder.Token()
	return err
}

// get returns the value of a key of an object, or nil. The last of equal keys counts, as for YAML readers in general.
func (n *node) get(key string) *node {
	if n == nil || n.kind != object {
		return nil
	}
	for i := len(n.keys) - 1; i >= 0; i-- {
		if n.keys[i].text == key {
			return n.values[i]
		}
	}
	return nil
}

// any returns the value as encoding/json would decode it.
func (n *node) any() any {
	switch n.kind {
	case object:
		m := make(map[string]any, len(n.keys))
		for i, k := range n.keys {
			m[k.text] = n.values[i].any()
		}
		return m
	case list:
		l := make([]any, len(n.values))
		for i, v := range n.values {
			l[i] = v.any()
		}
		return l
	case number:
		if f, err := strconv.ParseFloat(n.text, 64); err == nil {
			return f
		}
		return n.text
	case other:
		switch strings.ToLower(n.text) {
		case "true", "yes", "on":
			return true
		case "false", "no", "off":
			return false
		}
		return nil
	}
	return n.text
}

// position says where in which file a value stands.
type position struct {
	file string
	line int
	path string // vendors[0].matches[1]
}

func (p position) String() string {
	s := p.file
	if p.line > 0 {
		s = fmt.Sprintf("%s:%d", s, p.line)
	}
	if p.path != "" {
		s += ": " + p.path
	}
	return s
}

// errorf is an input error that begins with the position.
func (p position) errorf(format string, args ...any) error {
	return fault.Inputf("%s: %w", p, fmt.Errorf(format, args...))
}
