package settings

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Size is a number of bytes, written with a binary unit: "512MiB", "6GiB".
type Size int64

var units = []struct {
	name  string
	bytes Size
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// ParseSize reads "512MiB", "1.5GiB", "6G" (as GiB) or a plain number of bytes.
func ParseSize(text string) (Size, error) {
	number, unit := strings.TrimSpace(text), Size(1)
	for _, u := range units {
		for _, name := range []string{u.name, u.name[:1]} {
			if rest, ok := strings.CutSuffix(number, name); ok && unit == 1 {
				number, unit = strings.TrimSpace(rest), u.bytes
			}
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	// The comparison is also false for NaN. A float64 has 53 bits, which is finer than any size here needs.
	if bytes := n * float64(unit); err == nil && bytes >= 0 && bytes < math.MaxInt64 && !strings.ContainsAny(number, "xXpPnN") {
		return Size(bytes), nil
	}
	return 0, fmt.Errorf("%q is no size such as 512MiB or 6GiB", text)
}

// String writes the largest unit that leaves a whole number.
func (s Size) String() string {
	for _, u := range units {
		if s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MiB is how libvirt takes memory, rounded down.
func (s Size) MiB() int { return int(s >> 20) }

// UnmarshalYAML reads what ParseSize reads.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseSize(n.Value)
	if err != nil || n.Kind != yaml.ScalarNode {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is no size such as 512MiB or 6GiB", n.Line, n.Value)}}
	}
	*s = v
	return nil
}

// MarshalYAML writes String.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalText writes String, for JSON.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *Size) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSize(string(text))
	return err
}
