package lazyregexp

import (
	"slices"
	"testing"
)

func TestRegexp(t *testing.T) {
	r := New(`([a-z])([0-9]+)`)
	if !r.MatchString("a1") || r.Match([]byte("1")) || r.String() != `([a-z])([0-9]+)` || r.FindString("-b22-") != "b22" {
		t.Error("it does not match as regexp does")
	}
	if got := r.FindStringSubmatch("-b22-"); !slices.Equal(got, []string{"b22", "b", "22"}) {
		t.Errorf("FindStringSubmatch: %q", got)
	}
	if got := r.FindAllString("a1 b2 c3", 2); !slices.Equal(got, []string{"a1", "b2"}) {
		t.Errorf("FindAllString: %q", got)
	}
	if got := r.FindAllStringSubmatch("a1 b2", -1); len(got) != 2 || got[1][2] != "2" {
		t.Errorf("FindAllStringSubmatch: %q", got)
	}
	if got := r.FindSubmatch([]byte("-b22-")); len(got) != 3 || string(got[2]) != "22" {
		t.Errorf("FindSubmatch: %q", got)
	}
	if got := r.FindSubmatchIndex([]byte("-b22-")); !slices.Equal(got, []int{1, 4, 1, 2, 2, 4}) {
		t.Errorf("FindSubmatchIndex: %d", got)
	}
	if got := r.ReplaceAllString("a1 b2", "$2$1"); got != "1a 2b" {
		t.Errorf("ReplaceAllString: %q", got)
	}
}

func TestFaultyExpressionIsNoticedInTests(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a faulty expression is not noticed before its first use")
		}
	}()
	New(`(`)
}
