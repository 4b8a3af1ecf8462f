package generator

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/xeipuuv/gojsonreference"
	"github.com/xeipuuv/gojsonschema"

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
	result, err := compiled.Validate(gojsonschema.NewGoLoader(l.document.any()))
	if err != nil || result.Valid() {
		return err
	}
	place, text := deepest(result.Errors())
	job := ""
	if len(place) > 0 {
		job = place[0]
	}
	l.add(l.document.at(place), job, "%s: %s", strings.Join(place[min(1, len(place)):], "."), text)
	return nil
}

// drafts are the versions of JSON Schema that are checked whole; of newer ones the library would pass over what it does not know.
var drafts = []string{"http://json-schema.org/draft-04/schema", "http://json-schema.org/draft-06/schema", "http://json-schema.org/draft-07/schema"}

func compileSchema(path string) (*gojsonschema.Schema, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, bare(err))
	}
	var document struct {
		Schema string `json:"$schema"`
	}
	if err := json.Unmarshal(source, &document); err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, err)
	}
	if d := strings.TrimSuffix(document.Schema, "#"); d != "" && !slices.Contains(drafts, d) {
		return nil, fault.WithHint(fault.Inputf("--schema %s: it is written in %q", path, document.Schema), "GitLab's own is in draft 7; drafts 4, 6 and 7 are known")
	}
	compiled, err := gojsonschema.NewSchemaLoader().Compile(offline{gojsonschema.NewBytesLoader(source)})
	if err != nil {
		return nil, fault.Inputf("--schema %s: %w", path, err)
	}
	return compiled, nil
}

// offline is a schema of which nothing that it refers to is loaded from elsewhere.
type offline struct{ gojsonschema.JSONLoader }

// LoaderFactory implements gojsonschema.JSONLoader.
func (offline) LoaderFactory() gojsonschema.JSONLoaderFactory { return refusing{} }

type refusing struct{}

// New implements gojsonschema.JSONLoaderFactory.
func (refusing) New(source string) gojsonschema.JSONLoader { return refused(source) }

// refused is a document that is not loaded.
type refused string

func (r refused) JsonSource() any { return string(r) }

func (r refused) LoadJSON() (any, error) {
	return nil, fmt.Errorf("it refers to %s, and nothing is loaded from elsewhere", string(r))
}

func (r refused) JsonReference() (gojsonreference.JsonReference, error) {
	return gojsonreference.NewJsonReference(string(r))
}

func (refused) LoaderFactory() gojsonschema.JSONLoaderFactory { return refusing{} }

// choices are errors that only say that no branch of a choice fits; those of the nearest branch stand beside them.
var choices = []string{"number_one_of", "number_any_of", "number_all_of", "condition_then", "condition_else"}

// deepest returns the place and the text of the error that is nearest to what was meant: it lies deepest.
func deepest(errors []gojsonschema.ResultError) (place []string, text string) {
	wasChoice := false
	for _, e := range errors {
		here := strings.Split(e.Context().String("\x00"), "\x00")[1:] // the first is the root
		choice := slices.Contains(choices, e.Type())
		if text == "" || len(here) > len(place) || len(here) == len(place) && !choice && wasChoice {
			place, text, wasChoice = here, e.Description(), choice
		}
	}
	return place, text
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
