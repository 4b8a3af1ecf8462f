package index

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// finderDir holds everything of the finder but the tree's index.html.
const finderDir = "finder"

// mark tells our index.html from a page that someone else put there.
const mark = `<meta name="generator" content="debcloud">`

//go:embed finder
var assets embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{"size": humanSize, "label": formatLabel, "up": func(p string) string { return "../" + p }}).
	ParseFS(assets, "finder/*.tmpl"))

// page is one file of the finder, path relative to the tree.
type page struct {
	path string
	text []byte
}

// finderFiles returns the pages, scripts and styles. The two pages with a static table work without JavaScript.
func finderFiles(index *manifest.Index) ([]page, error) {
	var pages []page
	for _, name := range []string{"finder.css", "finder.js", "report.js", "report.html"} {
		text, err := assets.ReadFile("finder/" + name)
		if err != nil {
			return nil, err
		}
		pages = append(pages, page{finderDir + "/" + name, text})
	}
	var latest []manifest.IndexImage
	for _, i := range index.Data.Images {
		if i.Latest {
			latest = append(latest, i)
		}
	}
	for _, p := range []struct {
		path, template string
		images         []manifest.IndexImage
	}{
		{finderDir + "/all.html", "all.html.tmpl", index.Data.Images},
		{"index.html", "index.html.tmpl", latest},
	} {
		var b bytes.Buffer
		if err := templates.ExecuteTemplate(&b, p.template, p.images); err != nil {
			return nil, err
		}
		pages = append(pages, page{p.path, b.Bytes()})
	}
	return pages, nil
}

// write puts the page into dir by rename. One with these contents is left alone, and so is an index.html of someone else's. It needs
// the index's lock.
func (p page) write(dir string) (changed bool, err error) {
	name := filepath.Join(dir, p.path)
	old, err := os.ReadFile(name)
	if err == nil && bytes.Equal(old, p.text) {
		return false, nil
	}
	if err == nil && p.path == "index.html" && !bytes.Contains(old, []byte(mark)) {
		return false, fault.WithHint(fault.Inputf("%s is a page that debcloud did not write", name), "move it away; the finder needs its place")
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return false, err
	}
	if err := atomicfile.Sweep(name); err != nil {
		return false, err
	}
	return true, atomicfile.Write(name, p.text, 0o644)
}

// humanSize writes bytes as people do.
func humanSize(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if u == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[u]
}

func formatLabel(format string) string {
	if format == "internal" {
		return "tar.xz"
	}
	return format
}
