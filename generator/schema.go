package generator

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// schema checks the document against a JSON schema, which may not refer to other files.
func (l *linter) schema(path string) error {
	if path == "" {
		return nil
	}
	compiled, err := compileSchema(path)
	if err != nil {
		return err
	}
	err = compiled.Validate(l.document.any())
	if invalid, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		// Of a choice that nothing fits, every branch fails: what lies deepest is nearest to what was meant.
		leaf := deepest(invalid)
		n := l.document.at(leaf.InstanceLocation)
		job := ""
		if len(leaf.InstanceLocation) > 0 {
			job = leaf.InstanceLocation[0]
		}
		text := leaf.ErrorKind.LocalizedString(message.NewPrinter(language.English))
		l.add(n, job, "%s: %s", strings.Join(leaf.InstanceLocation[min(1, len(leaf.InstanceLocation)):], "."), text)
		return nil
	}
	return err
}

func compileSchema(path string) (*jsonschema.Schema, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, bare(err))
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(source))
	if err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource("schema.json", document); err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, err)
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, err)
	}
	return schema, nil
}

// noLoader keeps the check offline.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s, and nothing is loaded from elsewhere", url)
}

func deepest(e *jsonschema.ValidationError) *jsonschema.ValidationError {
	best := e
	for _, cause := range e.Causes {
		if d := deepest(cause); len(best.Causes) > 0 && best == e || len(d.InstanceLocation) > len(best.InstanceLocation) {
			best = d
		}
	}
	return best
}

// at follows keys and indices as far as they go.
func (n *node) at(path []string) *node {
	for _, step := range path {
		next := n.get(step)
		if i, err := strconv.Atoi(step); n.kind == list && err == nil && i < len(n.values) {
			next = n.values[i]
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}
