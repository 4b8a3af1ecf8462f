package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// maxFile bounds the file; today's example has 6 kB.
const maxFile = 1 << 20

// Load reads and checks the file at path. The error names every fault that was found, each with its line; it is bad
// input (fault.Input), also where the file cannot be read.
func Load(path string) (*Settings, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.WithHint(fault.Inputf("settings of the executor: %w", err), "debcloud executor check-config --help tells where the file is looked for")
	}
	defer f.Close()
	source, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fault.Inputf("settings of the executor: %w", err)
	}
	if len(source) > maxFile {
		return nil, fault.Inputf("%s is larger than %d bytes: these are no settings of the executor", path, maxFile)
	}
	return Parse(path, source)
}

// Parse is Load of a text; path is what errors call it. An empty text means the defaults.
func Parse(path string, source []byte) (*Settings, error) {
	s := bare()
	s.Path = path
	root, err := decode(source, s)
	if err != nil {
		return nil, fault.Inputf("%s: %w", path, err)
	}
	s.complete()
	if err := s.check(root); err != nil {
		return nil, fault.Inputf("%s: %w", path, err)
	}
	return s, nil
}

// decode returns the document's root too, for the lines of what turns out to be wrong later.
func decode(source []byte, s *Settings) (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(source, &root); err != nil {
		return nil, plain(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(source))
	d.KnownFields(true)
	if err := d.Decode(s); errors.Is(err, io.EOF) {
		return &root, nil
	} else if err != nil {
		return nil, plain(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds more than one YAML document")
	}
	return &root, nil
}

var (
	unknownKey = lazyregexp.New(`field (\S+) not found in type \S+`)
	wrongKind  = lazyregexp.New("cannot unmarshal !!(\\w+)(?: `(.*)`)? into (\\S+)")
)

// plain says what the YAML library found in words of the file, not of the program.
func plain(err error) error {
	list, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var all []error
	for _, text := range list.Errors {
		text = unknownKey.ReplaceAllString(text, `there is no setting "$1" here`)
		if m := wrongKind.FindStringSubmatch(text); m != nil {
			text = strings.Replace(text, m[0], fmt.Sprintf("%s is not %s", describe(m[1], m[2]), kindOf(m[3])), 1)
		}
		all = append(all, errors.New(text))
	}
	return errors.Join(all...)
}

func describe(tag, value string) string {
	if value != "" {
		return fmt.Sprintf("%q", value)
	}
	return map[string]string{"map": "a mapping", "seq": "a list"}[tag]
}

// kindOf names what a Go type is in YAML.
func kindOf(goType string) string {
	switch {
	case goType == "int":
		return "a whole number"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "a string"
	case goType == "time.Duration":
		return "a duration such as 90s or 1h30m"
	case goType == "settings.Size":
		return "a size such as 512MiB or 6GiB"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	default:
		return "a mapping"
	}
}
