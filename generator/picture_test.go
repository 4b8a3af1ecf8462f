package generator

import (
	"bytes"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// TestWriteDot: the graph of 105 images has a node a kind and release, and an edge where jobs need jobs.
func TestWriteDot(t *testing.T) {
	plan, err := load(t, "").Plan(image.Daily, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteDot(t.Context(), &b, plan); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"// 105 images of type daily", `label="trixie-backports"`, `"sid build" [label="build\n17"]`,
		`"trixie build" -> "trixie check"`, `"trixie publish directory" -> "trixie promote directory"`, `"sid promote directory" -> " index"`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%.3000s", want, b.String())
		}
	}
	if n := strings.Count(b.String(), "\n"); n > 400 {
		t.Errorf("the graph has %d lines: nobody can read it", n)
	}
}

func TestWriteHTML(t *testing.T) {
	c := load(t, "")
	plan, err := c.Plan(image.Daily, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := c.WriteHTML(t.Context(), &b, plan); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if n := strings.Count(page, `<span class="arch `) - 3; n != 8*7*5 {
		t.Errorf("the grid has %d cells, want %d", n, 8*7*5)
	}
	made := strings.Count(page, `class="arch in" tabindex`) + strings.Count(page, `class="arch upload" tabindex`)
	if made != 105 {
		t.Errorf("%d images are made, want 105", made)
	}
	for _, want := range []string{
		"105 images of type daily", "trixie azure amd64: uploaded to azure debian-13-daily",
		"bullseye azure arm64: vendor &#34;azure&#34; excludes arm64 on bullseye by its 2nd rule (op: Disable)",
		`tabindex="0" aria-label="trixie azure amd64: uploaded`,
		"trixie gce amd64: type &#34;daily&#34; excludes trixie gce amd64: no rule of its list matches",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in the page", want)
		}
	}
}
