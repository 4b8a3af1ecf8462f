package build

import (
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

const status = `Package: zlib1g
Status: install ok installed
Multi-Arch: same
Architecture: amd64
Description: compression
 Status: not a field: this is text
Version: 1:1.3.1-1

Package: apt
Status: install ok installed
Architecture: amd64
Version: 3.0.3

Package: gone
Status: deinstall ok config-files
Version: 1

`

func TestParseStatus(t *testing.T) {
	got, err := parseStatus(status)
	want := []manifest.Package{{Name: "apt", Version: "3.0.3"}, {Name: "zlib1g:amd64", Version: "1:1.3.1-1"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	_, err = parseStatus(strings.Replace(status, "install ok installed", "install ok half-configured", 1))
	if err == nil || !strings.Contains(err.Error(), `"zlib1g"`) || !strings.Contains(err.Error(), "half-configured") {
		t.Errorf("a half-configured package gives %v", err)
	}
}

func TestLatestKernel(t *testing.T) {
	tree := t.TempDir()
	for _, name := range []string{"boot/vmlinuz-6.12.9-cloud-amd64", "boot/vmlinuz-6.12.41+deb13-cloud-amd64", "var/lib/dpkg/status"} {
		if err := writeFile(tree+"/"+name, nil, false); err != nil {
			t.Fatal(err)
		}
	}
	c, err := readContent(tree)
	if err != nil || c.kernel != "6.12.41+deb13-cloud-amd64" {
		t.Errorf("got %+v, %v", c, err)
	}
}
