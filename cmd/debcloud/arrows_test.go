package main

import (
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "salsa.debian.org/cloud-team/debcloud/"

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

// TestArrows holds the import arrows of the design: data imports nothing, nouns import nouns, the generator, the
// executor and each job know only nouns and data, and only cmd/debcloud knows them all.
func TestArrows(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if why := forbidden(p.ImportPath, imported); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
	}
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-tags", "clouds", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); err == io.EOF {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// forbidden says why package from must not import package to, or "" where it may.
func forbidden(from, to string) string {
	from = strings.TrimPrefix(from, module)
	switch {
	case to == "github.com/digitalocean/go-libvirt" && from != "internal/vm":
		return "only internal/vm speaks to libvirt"
	case strings.HasPrefix(to, "github.com/spf13/") && room(from) != "cmd":
		return "only cmd/debcloud reads flags"
	case !strings.HasPrefix(to, module):
		return ""
	}
	to = strings.TrimPrefix(to, module)
	a, b := room(from), room(to)
	switch {
	case a == "cmd" && b != "cmd", a == b && !isData(a), b == "internal" && !isData(a):
		return ""
	case isData(b) && a != "internal" && !isData(a):
		return ""
	case isData(a):
		return "data folders import nothing"
	case a == "internal":
		return "nouns import nouns only"
	default:
		return "what two rooms share is a noun in internal/, what joins them is wired in cmd/debcloud"
	}
}

// room returns the part of a package path between which the arrows are drawn: "jobs/build", "generator", "internal", "cmd".
func room(path string) string {
	parts := strings.Split(path, "/")
	if parts[0] == "jobs" && len(parts) > 1 {
		return parts[0] + "/" + parts[1]
	}
	return parts[0]
}

func isData(room string) bool { return room == "vmimages" || room == "templates" }

func TestForbidden(t *testing.T) {
	for _, row := range []struct {
		from, to string
		allowed  bool
	}{
		{module + "cmd/debcloud", module + "jobs/build", true},
		{module + "jobs/build", module + "jobs/build/disk", true},
		{module + "jobs/build", module + "internal/image", true},
		{module + "jobs/build", module + "vmimages", true},
		{module + "jobs/boot", module + "jobs/build", false},
		{module + "jobs/boot", module + "generator", false},
		{module + "generator", module + "executor", false},
		{module + "internal/vm", module + "internal/guest", true},
		{module + "internal/vm", module + "jobs/boot", false},
		{module + "internal/image", module + "vmimages", false},
		{module + "vmimages", module + "internal/image", false},
		{module + "internal/vm", "github.com/digitalocean/go-libvirt", true},
		{module + "executor", "github.com/digitalocean/go-libvirt", false},
		{module + "executor", module + "executor/settings", true},
		{module + "executor", module + "internal/vm", true},
		{module + "executor/runnertest", module + "executor/settings", true},
		{module + "executor", module + "jobs/boot", false},
		{module + "jobs/boot", module + "executor", false},
		{module + "internal/guest", module + "executor", false},
		{module + "jobs/build", "github.com/spf13/cobra", false},
		{module + "executor/tools", module + "vmimages", true},
		{module + "executor/vmimage", module + "jobs/build", false},
		{module + "internal/guest/agent", module + "internal/guest", true},
		{module + "internal/guest/agent", module + "executor/tools", false},
	} {
		if why := forbidden(row.from, row.to); (why == "") != row.allowed {
			t.Errorf("%s → %s: allowed %v, because %q", row.from, row.to, !row.allowed, why)
		}
	}
}
