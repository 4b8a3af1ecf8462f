package azure

import (
	"cmp"
	"slices"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// joined sorts extents, which may meet and overlap, and joins those that do.
func joined(extents []raw.Extent) (all []raw.Extent) {
	slices.SortFunc(extents, func(a, b raw.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, e := range extents {
		last := len(all) - 1
		if last < 0 || all[last].Offset+all[last].Length < e.Offset {
			all = append(all, e)
			continue
		}
		all[last].Length = max(all[last].Length, e.Offset+e.Length-all[last].Offset)
	}
	return all
}

// covers tells whether joined extents hold all of one.
func covers(all []raw.Extent, one raw.Extent) bool {
	at, exact := slices.BinarySearchFunc(all, one, func(a, b raw.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	if !exact {
		at--
	}
	return at >= 0 && all[at].Offset+all[at].Length >= one.Offset+one.Length
}

// without returns what of some joined extents is in none of others, joined too.
func without(some, others []raw.Extent) (left []raw.Extent) {
	for _, e := range some {
		end := e.Offset + e.Length
		for _, o := range others {
			if o.Offset+o.Length <= e.Offset || o.Offset >= end {
				continue
			}
			if o.Offset > e.Offset {
				left = append(left, raw.Extent{Offset: e.Offset, Length: o.Offset - e.Offset})
			}
			e.Offset = min(o.Offset+o.Length, end)
		}
		if e.Offset < end {
			left = append(left, raw.Extent{Offset: e.Offset, Length: end - e.Offset})
		}
	}
	return left
}
