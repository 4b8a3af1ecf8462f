package generator

import (
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// find returns the item with the given name, or an input error that lists the known names and suggests the nearest.
func find[T any](what, name string, items []T, nameOf func(T) string) (T, error) {
	known := make([]string, len(items))
	for i, item := range items {
		if known[i] = nameOf(item); known[i] == name {
			return item, nil
		}
	}
	var none T
	return none, unknown(what, name, known)
}

func unknown(what, name string, known []string) error {
	return withNearest(fault.Inputf("unknown %s %q: it is none of %s", what, name, strings.Join(known, ", ")), name, known)
}

// nearest returns the known name that is at most two edits, and less than half of its letters, away; "" if none is.
func nearest(name string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := edits(name, k); d < distance && 2*d < len(k) {
			best, distance = k, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b in bytes.
func edits(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func withNearest(err error, name string, known []string) error {
	if near := nearest(name, known); near != "" {
		return fault.WithHint(err, "did you mean %q?", near)
	}
	return err
}
