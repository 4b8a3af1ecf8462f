package notify

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// maxListenersFile bounds the file, in bytes.
const maxListenersFile = 1 << 20

// Listener is someone who wants to know. Its URL may be as secret as its key is: neither is ever printed.
type Listener struct {
	Name     string
	Filter   Filter
	Internal bool // it may be at an inner address, and be spoken to by plain HTTP

	url  string
	keys [][]byte
}

// Filter chooses images. A list that is empty chooses all.
type Filter struct {
	Releases  []string           `yaml:"releases"` // codenames
	Vendors   []string           `yaml:"vendors"`
	Archs     []string           `yaml:"archs"`
	Types     []image.UploadType `yaml:"types"`     // dev, daily, release
	Providers []string           `yaml:"providers"` // names (aws) or domains (aws.amazon.com); directory is the tree
}

// matches tells whether the filter chooses an image that is at some providers.
func (f Filter) matches(i manifest.IndexImage, at []string) bool {
	return chooses(f.Releases, i.Release) && chooses(f.Vendors, i.Vendor) && chooses(f.Archs, i.Arch) && chooses(f.Types, i.UploadType) &&
		(len(f.Providers) == 0 || slices.ContainsFunc(f.Providers, func(p string) bool {
			return slices.Contains(at, p) || slices.Contains(at, manifest.ProviderDomain(p))
		}))
}

func chooses[T comparable](list []T, value T) bool {
	return len(list) == 0 || slices.Contains(list, value)
}

// declaration is a Listener as the file has it.
type declaration struct {
	Name       string `yaml:"name"`
	URL        string `yaml:"url"`
	SecretFile string `yaml:"secretFile"`
	SecretEnv  string `yaml:"secretEnv"`
	Internal   bool   `yaml:"internal"`
	Filter     Filter `yaml:"filter"`
}

// ReadListeners reads a YAML or JSON file {listeners: [{name, url, secretFile or secretEnv, internal, filter}]} and the secrets
// that it names, by lookup those in the environment. Errors are of kind Input and quote no URL and no secret.
func ReadListeners(path string, lookup func(string) (string, bool)) ([]Listener, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fault.Inputf("no listeners file at %q", path)
	}
	if err != nil {
		return nil, fault.Inputf("listeners file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxListenersFile+1))
	if err != nil {
		return nil, fault.Inputf("listeners file: %w", err)
	}
	if len(text) > maxListenersFile {
		return nil, fault.Inputf("listeners file %q has more than %d bytes", path, maxListenersFile)
	}
	return parseListeners(path, text, lookup)
}

func parseListeners(path string, text []byte, lookup func(string) (string, bool)) ([]Listener, error) {
	var document struct {
		Listeners []declaration `yaml:"listeners"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&document); err != nil {
		return nil, fault.WithHint(fault.Inputf("listeners file %q cannot be read%s", path, lineOf(err)), "it is {listeners: [{name, url, secretFile or secretEnv, internal, filter: {releases, vendors, archs, types, providers}}]}")
	}
	var listeners []Listener
	for n, it := range document.Listeners {
		if it.Name == "" || len(it.Name) > 100 || strings.ContainsFunc(it.Name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fault.Inputf("listeners file %q: listener %d has no name of up to 100 printable characters", path, n+1)
		}
		if slices.ContainsFunc(listeners, func(l Listener) bool { return l.Name == it.Name }) {
			return nil, fault.Inputf("listeners file %q: two listeners are called %q: what was told to whom is noted by name", path, it.Name)
		}
		l, err := it.listener(lookup)
		if err != nil {
			return nil, fault.Inputf("listeners file %q: listener %q: %w", path, it.Name, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// lineOf takes no more from the parser's error than the line: the rest may quote a value.
func lineOf(err error) string {
	if m := regexp.MustCompile(`line \d+`).FindString(err.Error()); m != "" {
		return ": " + m + " is wrong"
	}
	return ""
}

func (it declaration) listener(lookup func(string) (string, bool)) (Listener, error) {
	u, err := url.Parse(it.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return Listener{}, errors.New("its url is no https:// URL with a host")
	case u.User != nil:
		return Listener{}, errors.New("its url has a user name in it; events are signed instead")
	case u.Scheme == "http" && !it.Internal:
		return Listener{}, errors.New("its url is plain http, which only a listener with internal: true may have")
	}
	for _, t := range it.Filter.Types {
		if t != image.Dev && t != image.Daily && t != image.Published {
			return Listener{}, fault.Inputf("type %q is none of dev, daily, release", t)
		}
	}
	l := Listener{Name: it.Name, Filter: it.Filter, Internal: it.Internal, url: it.URL}
	l.keys, err = it.secrets(lookup)
	return l, err
}

// secrets reads one secret, or several while they are exchanged: listeners accept an event when any signature is right.
func (it declaration) secrets(lookup func(string) (string, bool)) ([][]byte, error) {
	var text string
	switch {
	case (it.SecretFile == "") == (it.SecretEnv == ""):
		return nil, errors.New("it needs either a secretFile or a secretEnv, which names a variable")
	case it.SecretEnv != "":
		var ok bool
		if text, ok = lookup(it.SecretEnv); !ok {
			return nil, fault.Inputf("there is no variable %q in the environment", it.SecretEnv)
		}
	default:
		b, err := os.ReadFile(it.SecretFile)
		if err != nil {
			return nil, err
		}
		text = string(b)
	}
	var keys [][]byte
	for word := range strings.FieldsSeq(text) {
		k, err := parseSecret(word)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("its secret is empty")
	}
	return keys, nil
}

// parseSecret reads whsec_ and the base64 of 24 to 64 bytes (Standard Webhooks, "Symmetric").
func parseSecret(text string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(text, "whsec_")
	if !ok {
		return nil, errors.New("its secret does not begin with whsec_")
	}
	k, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("its secret is no base64 after whsec_")
	}
	if len(k) < 24 || len(k) > 64 {
		return nil, fault.Inputf("its secret has %d bytes, not 24 to 64", len(k))
	}
	return k, nil
}
