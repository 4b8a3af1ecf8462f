package build

import (
	"os"
	"path/filepath"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestMachineMirrors(t *testing.T) {
	const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	for _, test := range []struct {
		summary string
		files   map[string]string
		want    Mirrors
		err     bool
	}{{
		summary: "deb822, main and security",
		files: map[string]string{"sources.list.d/debian.sources": `Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: ` + keyring + `

# a comment between stanzas
Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main contrib
`},
		want: Mirrors{"http://mirror.example/debian", "http://security.example/debian-security"},
	}, {
		summary: "one line each, with options, as old installations have it",
		files: map[string]string{"sources.list": `# deb http://commented.example/debian bookworm main
deb-src http://src.example/debian trixie main
deb [arch=amd64 signed-by=` + keyring + `] http://mirror.example/debian trixie main contrib # comment
deb http://security.example/debian-security bullseye/updates main
`},
		want: Mirrors{"http://mirror.example/debian", "http://security.example/debian-security"},
	}, {
		summary: "third parties are not Debian: by suite, by component, by key, or switched off",
		files: map[string]string{
			"sources.list.d/aaa.list": `deb http://pgdg.example/apt bookworm-pgdg main
deb http://docker.example/debian bookworm stable
deb [signed-by=/etc/apt/keyrings/hashi.gpg] http://hashi.example bookworm main
`,
			"sources.list.d/bbb.sources": "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: sid\nComponents: main\n",
			"sources.list":               "deb http://mirror.example/debian sid main\n",
		},
		want: Mirrors{Debian: "http://mirror.example/debian"},
	}, {
		summary: "a list of mirrors, as on Debian's cloud images",
		files: map[string]string{
			"sources.list.d/debian.sources": "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie\nComponents: main\n",
			"mirrors/debian.list":           "# nearest first\nhttps://near.example/debian/ priority:1\nhttps://far.example/debian\n",
		},
		want: Mirrors{Debian: "https://near.example/debian"},
	}, {
		summary: "values on continuation lines",
		files: map[string]string{
			"sources.list.d/debian.sources": "Types: deb\nURIs:\n http://mirror.example/debian\nSuites:\n trixie\n trixie-updates\nComponents: main\nSigned-By:\n -----BEGIN PGP debian-archive-----\n",
		},
		want: Mirrors{Debian: "http://mirror.example/debian"},
	}, {
		summary: "nothing of Debian's",
		files:   map[string]string{"sources.list": "deb http://hashi.example focal main\n"},
		err:     true,
	}, {
		summary: "no sources at all",
		err:     true,
	}} {
		t.Run(test.summary, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range test.files {
				if err := writeFile(filepath.Join(dir, name), []byte(text), false); err != nil {
					t.Fatal(err)
				}
			}
			got, err := MachineMirrors(dir)
			if test.err {
				if fault.KindOf(err) != fault.Input || fault.HintOf(err) == "" {
					t.Errorf("error %v, want bad input with a hint", err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

func TestMirrorsOfOptions(t *testing.T) {
	o := Options{
		Mirror:      Mirrors{"http://mirror.example/debian", "http://mirror.example/debian-security"},
		ImageMirror: Mirrors{"http://image.example/debian", "http://image.example/debian-security"},
	}
	want := o
	if err := o.findMirrors(); err != nil || o.Mirror != want.Mirror || o.ImageMirror != want.ImageMirror {
		t.Errorf("got %+v, %v; given mirrors must stay", o, err)
	}
}

func TestAvailableMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(file, []byte("MemTotal:       24684084 kB\nMemAvailable:     524288 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := availableMemory(file); err != nil || got > 512<<20 {
		t.Errorf("got %d, %v; want at most 512 MiB", got, err)
	}
	if err := os.WriteFile(file, []byte("MemTotal: 1 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := availableMemory(file); err == nil {
		t.Error("a meminfo without MemAvailable must be an error")
	}
}

func TestBesideDebian(t *testing.T) {
	for _, row := range []struct {
		summary string
		in      Mirrors
		want    string
	}{
		{"most mirrors carry both", Mirrors{Debian: "http://mirror.example/debian"}, "http://mirror.example/debian-security"},
		{"a slash at the end changes nothing", Mirrors{Debian: "http://mirror.example/pub/debian/"}, "http://mirror.example/pub/debian-security"},
		{"what is named counts", Mirrors{"http://mirror.example/debian", "http://security.example/x"}, "http://security.example/x"},
		{"another layout tells nothing", Mirrors{Debian: "http://mirror.example/apt"}, ""},
	} {
		if got := row.in.besideDebian().Security; got != row.want {
			t.Errorf("%s: got %q, want %q", row.summary, got, row.want)
		}
	}
}
