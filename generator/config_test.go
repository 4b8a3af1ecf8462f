package generator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// small is a configuration of four cells. Its lines are counted by the tests below.
const small = `apiVersion: cloud.debian.org/v1alpha1
kind: ImageConfig
archs:
- {name: amd64, faiClasses: [AMD64]}
- {name: arm64, faiClasses: [ARM64]}
releases:
- {name: trixie, basename: trixie, id: '13', baseid: '13', faiClasses: [TRIXIE]}
vendors:
- name: azure
  size: 30
- name: ec2
  size: 8
  matches:
  - matchArches: [amd64, arm64]
    op: Enable
types:
- {name: dev, outputName: '{release}', outputVersion: '{version}', outputVersionAzure: '{version}'}
- {name: official, outputName: '{release}', outputVersion: '{version}', outputVersionAzure: '{version}'}
publicTypes:
- name: dev
`

// TestBadYAML changes one thing of a good document in each row; the message names file, line and value.
func TestBadYAML(t *testing.T) {
	for _, row := range []struct{ summary, old, new, want string }{
		{"another schema", "cloud.debian.org/v1alpha1", "v2", `c.yaml:1: apiVersion: "v2" is not "cloud.debian.org/v1alpha1"`},
		{"another kind", "kind: ImageConfig", "kind: Build", `c.yaml:2: kind: "Build" is not "ImageConfig"`},
		{"no kind", "kind: ImageConfig\n", "", `c.yaml:1: key "kind" is missing`},
		{"unknown key at the top", "archs:", "arches:", `c.yaml:3: unknown key "arches": it is none of apiVersion, archs,`},
		{"unknown key in a vendor", "size: 8", "sizes: 8", `c.yaml:12: vendors[1]: unknown key "sizes"`},
		{"unknown key in a rule", "op: Enable", "ops: Enable", `c.yaml:15: vendors[1].matches[0]: unknown key "ops"`},
		{"key twice", "size: 8", "size: 8\n  size: 9", `c.yaml:13: vendors[1]: key "size" stands here twice`},
		{"unknown op", "op: Enable", "op: Enabled", `c.yaml:15: vendors[1].matches[0].op: op "Enabled" is none of Enable, EnableUpload, Disable, DisableUpload`},
		{"rule misspells an arch", "[amd64, arm64]", "[amd64, amr64]", `c.yaml:14: vendors[1].matches[0].matchArches[1]: architecture "amr64" is not declared`},
		{"rule names no vendor", "- name: dev\n", "- name: dev\n  matches:\n  - matchVendors: [gce]\n", `c.yaml:22: publicTypes[0].matches[0].matchVendors[0]: vendor "gce" is not declared`},
		{"rule misspells a release", "op: Enable", "matchReleases: [trixy]", `c.yaml:15: vendors[1].matches[0].matchReleases[0]: release "trixy" is not declared`},
		{"a merge key that merges no object", "op: Enable", "<<: [1]", `c.yaml:15: << merges a number, but can merge objects only`},
		{"a group that is no name", "op: Enable", "uploadGroup: a b", `c.yaml:15: vendors[1].matches[0].uploadGroup: "a b" is no upload group`},
		{"rule is a name, not a list", "[amd64, arm64]", "amd64", `c.yaml:14: vendors[1].matches[0].matchArches: it is a string where a list is needed`},
		{"vendor twice", "name: ec2", "name: azure", `c.yaml:11: vendors[1]: vendor "azure" is declared twice, first at c.yaml:9: vendors[0]`},
		{"arch twice", "{name: arm64, faiClasses: [ARM64]}", "{name: amd64}", `c.yaml:5: archs[1]: architecture "amd64" is declared twice`},
		{"no id", "id: '13', ", "", `c.yaml:7: releases[0]: key "id" is missing`},
		{"id is a number", "id: '13'", "id: 13", `c.yaml:7: releases[0].id: 13 is a number where a string is needed: put it in quotes`},
		{"empty name", "name: trixie", "name: ''", `c.yaml:7: releases[0].name: "" is no name`},
		{"name that leaves its directory", "name: trixie", "name: ../trixie", `c.yaml:7: releases[0].name: "../trixie" is no name`},
		{"class with a shell in it", "[AMD64]", "['A;id']", `c.yaml:4: archs[0].faiClasses[0]: "A;id" is no FAI class`},
		{"size that is none", "size: 8", "size: 8G", `c.yaml:12: vendors[1].size: "8G" is no whole number of GiB`},
		{"size of nothing", "size: 8", "size: 0", `c.yaml:12: vendors[1].size: "0" is no whole number of GiB`},
		{"release that excludes itself", "faiClasses: [TRIXIE]", "matches: [{op: Disable}]", `c.yaml:7: releases[0]: release "trixie" excludes itself`},
		{"two cells of one name", "name: azure", "name: x\n  size: 1\n- name: backports-x",
			`c.yaml:12: vendors[1]: two cells are named debian-trixie-backports-x-amd64: "trixie-backports x amd64" and "trixie backports-x amd64"`},
		{"no YAML", "archs:", "archs: [", `c.yaml:`},
		{"nested deeper than YAML is read", "apiVersion:", strings.Repeat("[", 20_000), `c.yaml:1: exceeded max depth`},
		{"two documents", "publicTypes:\n- name: dev\n", "publicTypes: []\n---\nkind: X\n", `the file holds more than one YAML document`},
	} {
		text := strings.Replace(small, row.old, row.new, 1)
		if text == small {
			t.Fatalf("%s: the row changes nothing", row.summary)
		}
		if row.summary == "two cells of one name" {
			text = strings.Replace(text, "vendors:", "- {name: trixie-backports, basename: trixie-backports, id: '13', baseid: '13'}\nvendors:", 1)
		}
		_, err := parse("c.yaml", []byte(text))
		wantInput(t, row.summary, err, row.want)
	}
}

// TestOtherRevisions: what the team's generator takes is taken, whether it is of today or not.
func TestOtherRevisions(t *testing.T) {
	for _, row := range []struct {
		summary, old, new string
		daily             int // cells
	}{
		{"a rule names a release that is gone, or not there yet", "op: Enable", "matchReleases: [bullseye, forky-backports, trixie]", 4},
		{"a rule names an architecture that is gone", "[amd64, arm64]", "[amd64, s390x]", 3},
		{"a rule names an architecture that is like a declared one", "[amd64, arm64]", "[amd64, armhf, armel]", 3},
		{"no build type is declared", "{name: official,", "{name: final,", 4},
		{"a vendor without a size", "  size: 30\n", "", 4},
		{"a name with a line below", "name: azure", "name: azure_gallery", 4},
		{"anchors and merge keys", "- name: ec2\n  size: 8\n", "- &ec2\n  name: ec2\n  size: 8\n- <<: *ec2\n  name: ec2-gov\n", 6},
		{"no vendors at all", small[strings.Index(small, "vendors:"):strings.Index(small, "types:")], "", 0},
	} {
		text := strings.Replace(small, row.old, row.new, 1) + "- name: daily\n"
		c, err := parse("c.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", row.summary, err)
			continue
		}
		plan, err := c.Plan("daily", Selection{})
		if err != nil || len(plan.Data.Cells) != row.daily {
			t.Errorf("%s: %v, %v", row.summary, plan, err)
		}
	}
	c, err := parse("c.yaml", []byte(strings.Replace(small, "  size: 30\n", "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Cell("trixie", "azure", "amd64")
	wantInput(t, "to build a vendor without a size", err, `c.yaml: vendor "azure" has no size`)
}

func TestBadJSON(t *testing.T) {
	for _, row := range []struct{ summary, text, want string }{
		{"empty", "", "c.json:1: the text ends too early"},
		{"ends early", "{\n\"kind\":\n", "c.json:2: the text ends too early"},
		{"no object", "[]", "c.json:1: it is a list where an object is needed"},
		{"unknown key", "{\n\n\"kinds\": 1}", `c.json:3: unknown key "kinds"`},
		{"two values", "{} {}", "more text follows"},
		{"nested too deep", strings.Repeat("[", 1000), "nested more than 100 deep"},
	} {
		_, err := parse("c.json", []byte(row.text))
		wantInput(t, row.summary, err, row.want)
	}
}

func TestBadFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("c.toml", "")
	write("big.yaml", strings.Repeat("#", maxFileSize+1))
	write("bomb.yaml", bomb)
	write("syntax.jsonnet", "{\n  kind: 'ImageConfig'\n  archs: [],\n}")
	write("outside.jsonnet", "import '../secret.jsonnet'")
	write("absolute.jsonnet", "importstr '/etc/hostname'")
	write("recursion.jsonnet", "local f(x) = 1 + f(x); f(1)")
	write("error.jsonnet", "{\n  kind: error 'no such vendor: gcp',\n}")
	write("wrong.jsonnet", `{ apiVersion: 'cloud.debian.org/v1alpha1', kind: 'ImageConfig', archs: [{ name: 7 }] }`)
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link.txt")); err != nil {
		t.Fatal(err)
	}
	write("link.jsonnet", "importstr 'link.txt'")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ summary, file, want string }{
		{"missing", "none.yaml", "none.yaml: there is no such file"},
		{"missing folder", "none/c.yaml", "c.yaml: no such file or directory"},
		{"unknown extension", "c.toml", `its extension ".toml" is none of .jsonnet, .json, .yaml, .yml`},
		{"a named pipe, which would hang", "pipe.yaml", "it is no regular file"},
		{"too large", "big.yaml", "more than the limit of 4194304"},
		{"YAML bomb", "bomb.yaml", "the document has more than 200000 values once its aliases are followed"},
		{"Jsonnet syntax", "syntax.jsonnet", "syntax.jsonnet:3:3"},
		{"import of a file outside", "outside.jsonnet", `import "../secret.jsonnet" leaves the folder`},
		{"import of an absolute path", "absolute.jsonnet", `import "/etc/hostname" leaves the folder`},
		{"import through a link that leaves the folder", "link.jsonnet", `import "link.txt": `},
		{"endless recursion", "recursion.jsonnet", "max stack frames exceeded"},
		{"error of its own, with the line", "error.jsonnet", "no such vendor: gcp"},
		{"computed document is wrong: a path instead of a line", "wrong.jsonnet", "wrong.jsonnet: archs[0].name: 7 is a number where a string is needed"},
	} {
		_, err := Load(t.Context(), filepath.Join(dir, row.file))
		wantInput(t, row.summary, err, row.want)
	}
}

// bomb has 10^9 values in 300 bytes.
var bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
	"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"

// TestCancel: a Jsonnet program that is still busy ends with the context.
func TestCancel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "busy.jsonnet")
	// It is done after a second, for the test's sake: nothing can stop its goroutine.
	busy := "std.foldl(function(a, b) a + b, std.range(1, 300000), 0)"
	if err := os.WriteFile(path, []byte(busy), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Load(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestLoop: a program that calls itself without end is refused before Go's stack is full. It runs in a process of its own,
// because nothing can stop its goroutine.
func TestLoop(t *testing.T) {
	if path := os.Getenv("DEBCLOUD_TEST_LOOP"); path != "" {
		_, err := Load(t.Context(), path)
		fmt.Println("load:", fault.KindOf(err) == fault.Input, err)
		os.Exit(0)
	}
	path := filepath.Join(t.TempDir(), "loop.jsonnet")
	if err := os.WriteFile(path, []byte("local f(n) = f(n + 1) tailstrict; f(0)"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLoop$")
	cmd.Env = append(os.Environ(), "DEBCLOUD_TEST_LOOP="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "load: true evaluate") || !strings.Contains(string(out), "it seems to loop") {
		t.Errorf("%v: %.2000s", err, out)
	}
}

// FuzzLoad: no input panics or hangs; what is refused is an input error; what is accepted can be planned.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(small), true)
	f.Add([]byte(synthetic(100)), true)
	f.Add([]byte(bomb), true)
	f.Add([]byte("a: &a [*a]"), true)
	f.Add([]byte("? [a, b]\n: c"), true)
	f.Add([]byte(`{"kind": "ImageConfig", "archs": [null, 1.5, {"name": "x"}]}`), false)
	f.Fuzz(func(t *testing.T, source []byte, isYAML bool) {
		name := "c.json"
		if isYAML {
			name = "c.yaml"
		}
		c, err := parse(name, source)
		if err != nil {
			if fault.KindOf(err) != fault.Input || !strings.HasPrefix(err.Error(), name) {
				t.Errorf("kind %v: %v", fault.KindOf(err), err)
			}
			if bytes.Contains([]byte(err.Error()), []byte("panic")) {
				t.Error(err)
			}
			return
		}
		for _, p := range c.publicTypes {
			if _, err := c.Plan(p.name, Selection{}); err != nil && fault.KindOf(err) != fault.Input {
				t.Error(err)
			}
		}
	})
}
