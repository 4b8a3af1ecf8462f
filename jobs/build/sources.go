package build

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Mirrors are where packages come from: the URLs that sources.list(5) calls URI, of Debian and of its security updates.
type Mirrors struct {
	Debian   string
	Security string
}

// or returns m with what it leaves open taken from other.
func (m Mirrors) or(other Mirrors) Mirrors {
	if m.Debian == "" {
		m.Debian = other.Debian
	}
	if m.Security == "" {
		m.Security = other.Security
	}
	return m
}

// besideDebian returns m with security updates taken from beside Debian, …/debian-security beside …/debian, where nothing names
// a mirror of them: a machine that debootstrap made has no such entry, and most mirrors carry both.
func (m Mirrors) besideDebian() Mirrors {
	if base := strings.TrimRight(m.Debian, "/"); m.Security == "" && strings.HasSuffix(base, "/debian") {
		m.Security = base + "-security"
	}
	return m
}

// MachineMirrors finds the mirrors in the apt sources below etcApt, which is /etc/apt but in tests. It takes the first
// entry of each kind that is Debian's own: of a Debian suite, component main, signed by nobody else.
func MachineMirrors(etcApt string) (Mirrors, error) {
	var found Mirrors
	for _, entry := range readSources(etcApt) {
		if !entry.isDebians() {
			continue
		}
		uri := resolveMirrorList(entry.uris[0], etcApt)
		if strings.HasSuffix(entry.suites[0], "-security") || strings.HasSuffix(entry.suites[0], "/updates") {
			found = found.or(Mirrors{Security: uri})
		} else {
			found = found.or(Mirrors{Debian: uri})
		}
	}
	if found.Debian == "" {
		return found, fault.WithHint(fault.Inputf("no Debian mirror: the apt sources in %s name none", etcApt),
			"give --mirror URL or set DEBCLOUD_MIRROR")
	}
	return found, nil
}

// source is an entry of the apt sources, in either format.
type source struct {
	types, uris, suites, components []string
	signedBy                        string
	disabled                        bool
}

// codenames of which an entry can be Debian's; others are those of third parties, such as bookworm-pgdg.
var codenames = []string{
	"oldoldstable", "oldstable", "stable", "testing", "unstable", "buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
}

func (s source) isDebians() bool {
	if s.disabled || !slices.Contains(s.types, "deb") || len(s.uris) == 0 || len(s.suites) == 0 || !slices.Contains(s.components, "main") {
		return false
	}
	if s.signedBy != "" && !strings.Contains(s.signedBy, "debian-archive") {
		return false
	}
	suite := s.suites[0]
	for _, suffix := range []string{"-security", "/updates", "-updates"} {
		suite = strings.TrimSuffix(suite, suffix)
	}
	return slices.Contains(codenames, suite)
}

// readSources reads debian.sources, where Debian's installer and images keep theirs, before the other files.
func readSources(etcApt string) []source {
	list, _ := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*")) // the pattern is well-formed
	slices.SortStableFunc(list, func(a, b string) int { return rank(a) - rank(b) })
	var all []source
	for _, file := range append(list, filepath.Join(etcApt, "sources.list")) {
		text, err := os.ReadFile(file)
		switch {
		case err != nil:
		case filepath.Ext(file) == ".sources":
			all = append(all, parseDeb822(string(text))...)
		case filepath.Ext(file) == ".list":
			all = append(all, parseOneLine(string(text))...)
		}
	}
	return all
}

func rank(file string) int {
	if filepath.Base(file) == "debian.sources" {
		return 0
	}
	return 1
}

// parseDeb822 reads the stanzas of a .sources file (sources.list(5), DEB822-STYLE FORMAT).
func parseDeb822(text string) []source {
	var all []source
	var s source
	field := ""
	flush := func() {
		if len(s.uris) > 0 {
			all = append(all, s)
		}
		s, field = source{}, ""
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if strings.TrimSpace(line) == "" {
			flush()
			continue
		}
		value := line
		if line[0] != ' ' && line[0] != '\t' {
			field, value, _ = strings.Cut(line, ":")
		}
		s.set(strings.ToLower(strings.TrimSpace(field)), value)
	}
	flush()
	return all
}

func (s *source) set(field, value string) {
	words := strings.Fields(value)
	switch field {
	case "types":
		s.types = append(s.types, words...)
	case "uris":
		s.uris = append(s.uris, words...)
	case "suites":
		s.suites = append(s.suites, words...)
	case "components":
		s.components = append(s.components, words...)
	case "signed-by":
		s.signedBy += strings.Join(words, " ")
	case "enabled":
		s.disabled = len(words) > 0 && strings.EqualFold(words[0], "no")
	}
}

// parseOneLine reads a .list file (sources.list(5), ONE-LINE-STYLE FORMAT).
func parseOneLine(text string) []source {
	var all []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		var s source
		if before, rest, ok := strings.Cut(line, "["); ok {
			options, after, _ := strings.Cut(rest, "]")
			for _, option := range strings.Fields(options) {
				if key, value, _ := strings.Cut(option, "="); strings.EqualFold(key, "signed-by") {
					s.signedBy = value
				}
			}
			line = before + after
		}
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		s.types, s.uris, s.suites, s.components = words[:1], words[1:2], words[2:3], words[3:]
		all = append(all, s)
	}
	return all
}

// resolveMirrorList returns the first mirror of a list, where uri names a list as on Debian's own cloud images:
// mirror+file:/etc/apt/mirrors/debian.list (apt-transport-mirror(1)).
func resolveMirrorList(uri, etcApt string) string {
	file, ok := strings.CutPrefix(uri, "mirror+file:")
	if !ok {
		return strings.TrimSuffix(uri, "/")
	}
	file = filepath.Join(etcApt, strings.TrimPrefix(filepath.Clean(file), "/etc/apt"))
	text, err := os.ReadFile(file)
	if err != nil {
		return uri
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			return strings.TrimSuffix(words[0], "/")
		}
	}
	return uri
}
