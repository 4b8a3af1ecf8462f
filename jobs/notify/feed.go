package notify

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// FeedName is the feed's file in a tree.
const FeedName = "feed.atom"

// maxEntries bounds the feed: the dailies of some days. Today's matrix has 105 a day.
const maxEntries = 500

// The elements of Atom that are used (RFC 4287).
type atomFeed struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string      `xml:"id"`
	Title   string      `xml:"title"`
	Updated string      `xml:"updated"`
	Author  atomAuthor  `xml:"author"`
	Links   []atomLink  `xml:"link"`
	Entries []atomEntry `xml:"entry"`
}

type atomAuthor struct {
	Name string `xml:"name"`
}

type atomLink struct {
	Rel    string `xml:"rel,attr"`
	Type   string `xml:"type,attr,omitempty"`
	Href   string `xml:"href,attr"`
	Length int64  `xml:"length,attr,omitempty"`
}

type atomEntry struct {
	ID        string     `xml:"id"`
	Title     string     `xml:"title"`
	Published string     `xml:"published"`
	Updated   string     `xml:"updated"`
	Links     []atomLink `xml:"link"`
	Summary   string     `xml:"summary"`
}

// writeFeed puts the feed of the newest images into the tree, by rename. The same index and state give the same bytes.
func writeFeed(dir string, images []manifest.IndexImage, s *state, base string) (changed bool, err error) {
	text, err := feed(images, s.doc.Data.Known, base)
	if err != nil {
		return false, err
	}
	name := filepath.Join(dir, FeedName)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	return true, atomicfile.Write(name, text, 0o644)
}

// feed lists images, the newest first. Links are relative where it is not known where the tree is seen.
func feed(images []manifest.IndexImage, seen map[string]known, base string) ([]byte, error) {
	f := atomFeed{
		ID: "urn:uuid:" + manifest.NewUID("feed", base), Title: "Debian cloud images", Updated: stamp(time.Unix(0, 0)),
		Author: atomAuthor{"Debian Cloud Team"},
		Links:  []atomLink{{Rel: "self", Type: "application/atom+xml", Href: base + FeedName}, {Rel: "alternate", Type: "text/html", Href: base + "index.html"}},
	}
	images = slices.Clone(images)
	slices.SortStableFunc(images, func(a, b manifest.IndexImage) int {
		return cmp.Or(seen[key(b)].Seen.Compare(seen[key(a)].Seen), cmp.Compare(a.Name, b.Name))
	})
	for _, i := range images[:min(len(images), maxEntries)] {
		f.Entries = append(f.Entries, entry(i, seen[key(i)].Seen, base))
	}
	if len(f.Entries) > 0 {
		f.Updated = f.Entries[0].Updated
	}
	text, err := xml.MarshalIndent(f, "", "  ")
	return append([]byte(xml.Header), append(text, '\n')...), err
}

func entry(i manifest.IndexImage, seen time.Time, base string) atomEntry {
	e := atomEntry{ID: "urn:uuid:" + key(i), Title: title(i), Published: stamp(seen), Updated: stamp(seen), Summary: summary(i)}
	page := url.Values{"release": {i.Release}, "vendor": {i.Vendor}, "arch": {i.Arch}, "type": {string(i.UploadType)}, "version": {i.Version}}
	e.Links = append(e.Links, atomLink{Rel: "alternate", Type: "text/html", Href: base + "index.html?" + page.Encode()})
	for _, file := range i.Files {
		if file.Missing {
			continue
		}
		e.Links = append(e.Links, atomLink{Rel: "enclosure", Type: mediaType(file.Format), Href: base + (&url.URL{Path: file.Path}).EscapedPath(), Length: file.Size})
	}
	return e
}

func title(i manifest.IndexImage) string {
	t := fmt.Sprintf("Debian %s (%s) %s %s, version %s", i.ReleaseID, i.Release, i.Vendor, i.Arch, i.Version)
	if i.UploadType != image.Published {
		t += ", " + string(i.UploadType)
	}
	return t
}

// summary says in a line what people ask first.
func summary(i manifest.IndexImage) string {
	said := []string{i.Name}
	if kernel := i.Versions["kernel"]; kernel != "" {
		said = append(said, "kernel "+kernel)
	}
	if i.Packages > 0 {
		said = append(said, fmt.Sprintf("%d packages", i.Packages))
	}
	if r := i.Report; r != nil {
		said = append(said, fmt.Sprintf("tests: %d passed, %d failed, %d skipped", r.Passed, r.Failed, r.Skipped))
	}
	if at := providers(i); len(at) > 0 {
		said = append(said, "at "+strings.Join(at, ", "))
	}
	return strings.Join(said, "; ")
}

func mediaType(format string) string {
	if format == "internal" {
		return "application/x-xz"
	}
	return "application/octet-stream"
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
