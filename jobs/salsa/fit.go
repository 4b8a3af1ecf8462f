package salsa

import "strings"

// section is a part of a note whose items can be cut off at the end.
type section struct {
	open, close string
	items       []string
	rest        func(n int) string // says that n items are missing
	share       int                // percent of the note that it may have when all others are full too
}

func (s section) size() int {
	n := len(s.open) + len(s.close)
	for _, i := range s.items {
		n += len(i)
	}
	return n
}

// fit joins sections to at most limit bytes. Each gets what it needs up to its share; what some leave over goes to the first that need more.
func fit(sections []section, limit int) string {
	allowed := make([]int, len(sections))
	left := limit
	for i, s := range sections {
		allowed[i] = min(s.size(), limit*s.share/100)
		left -= allowed[i]
	}
	var b strings.Builder
	for i, s := range sections {
		more := min(s.size()-allowed[i], max(0, left))
		left -= more
		b.WriteString(s.cut(allowed[i] + more))
	}
	return b.String()
}

// cut renders s in at most limit bytes; a section of which not even the frame fits is left out.
func (s section) cut(limit int) string {
	if s.size() <= limit {
		return s.open + strings.Join(s.items, "") + s.close
	}
	frame := len(s.open) + len(s.close) + len(s.rest(len(s.items)))
	if frame > limit {
		return ""
	}
	n := 0
	for used := frame; n < len(s.items) && used+len(s.items[n]) <= limit; n++ {
		used += len(s.items[n])
	}
	return s.open + strings.Join(s.items[:n], "") + s.rest(len(s.items)-n) + s.close
}
