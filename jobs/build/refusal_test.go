package build

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestNotRoot(t *testing.T) {
	o := tinyOptions(t, nil)
	o.Output = filepath.Join(t.TempDir(), "out")
	c := startBuild(t, o, func(as *syscall.SysProcAttr) { as.Credential = &syscall.Credential{Uid: 65534, Gid: 65534} })
	if code := c.end(t, 10*time.Second); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	for _, want := range []string{"a build needs root", "hint: run the same command with sudo"} {
		if !strings.Contains(c.said.String(), want) {
			t.Errorf("%q does not say %q", c.said.String(), want)
		}
	}
	if _, err := os.Stat(o.Output); !os.IsNotExist(err) {
		t.Errorf("the output directory was made: %v", err)
	}
}

func TestConfigSpaceIsRefused(t *testing.T) {
	needRoot(t)
	for _, row := range []struct {
		summary string
		space   func(dir string) error
	}{
		{"it does not exist", os.Remove},
		{"it is empty", func(string) error { return nil }},
		{"class is a file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "class"), nil, 0o600) }},
		{"it is the parent of one", func(dir string) error { return os.MkdirAll(filepath.Join(dir, "config_space/class"), 0o700) }},
	} {
		t.Run(row.summary, func(t *testing.T) {
			o := tinyOptions(t, nil)
			o.ConfigSpace = t.TempDir()
			if err := row.space(o.ConfigSpace); err != nil {
				t.Fatal(err)
			}
			_, err := Run(t.Context(), o)
			demandFault(t, err, fault.Input, o.ConfigSpace, "class")
			demandClean(t, o)
		})
	}
}

func TestProgramsAreMissing(t *testing.T) {
	err := demandTools("sh", "no-such-program")
	demandFault(t, err, fault.Input, "no-such-program")
	if got := fault.HintOf(err); got != "apt-get install no-such-program" {
		t.Errorf("hint %q", got)
	}
	t.Setenv("PATH", "")
	if _, err := lookPath("mkfs.ext4"); err != nil {
		t.Errorf("sbin is not looked into: %v", err)
	}
}

// A tmpfs stands for an output directory on a disk that is nearly full.
func TestNoSpaceForTheImage(t *testing.T) {
	o := tinyOptions(t, nil)
	err := inNamespace(func() error {
		if err := unix.Mount("tmpfs", o.Output, "tmpfs", 0, "size=64m"); err != nil {
			t.Error(err)
		}
		_, err := Run(t.Context(), o)
		demandFault(t, err, fault.Outside, o.Output, "a build needs ", "which has 64 MiB free")
		if left, _ := os.ReadDir(o.Output); len(left) > 0 {
			t.Errorf("%s is left", left[0].Name())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestNoSpaceForTheTree(t *testing.T) {
	o := tinyOptions(t, map[string]string{"scripts/TINY/50-large": "#!/bin/sh\ndd if=/dev/zero of=$FAI_ROOT/large bs=1M count=9\n"})
	b, err := prepare(o)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), b.work)
	if err != nil {
		t.Fatal(err)
	}
	b.place = place{inMemory: true, size: 8 << 20}
	err = b.make(t.Context())
	unlock()
	demandFault(t, err, fault.Outside, "no space is left for the tree", "large")
	demandClean(t, o)
}

func TestScriptFails(t *testing.T) {
	for _, row := range []struct {
		summary, script string
		says            []string
	}{
		{
			"a shell script that says why", "#!/bin/sh\necho looking for the widget\necho the widget is missing >&2\nexit 7\n",
			[]string{"exit code 7", "looking for the widget; the widget is missing"},
		},
		{"a silent one", "#!/bin/sh\nexit 1\n", []string{"exit code 1", "it printed nothing"}},
		{
			"a long story is cut to its end", "#!/bin/sh\nseq 1001 1009\nexit 1\n",
			[]string{"exit code 1: 1005; 1006; 1007; 1008; 1009"},
		},
		{"another language", "#!/usr/bin/perl\ndie \"no widget\"\n", []string{"no widget at "}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			o := tinyOptions(t, map[string]string{
				"scripts/TINY/10-good":   "#!/bin/sh\necho all is well\n",
				"scripts/TINY/50-broken": row.script,
				"scripts/LAST/90-after":  "#!/bin/sh\necho never a word of this\n",
			})
			_, err := Run(t.Context(), o)
			demandFault(t, err, fault.Work, append(row.says, `script "TINY/50-broken"`)...)
			if err != nil && (strings.Contains(err.Error(), "well") || strings.Contains(err.Error(), "never")) {
				t.Errorf("%q has lines of another script", err)
			}
			if hint := fault.HintOf(err); !strings.Contains(hint, o.Name()+".build.log") {
				t.Errorf("hint %q does not name the log", hint)
			}
			demandClean(t, o)
		})
	}
}

// FAI alone would call this a success.
func TestNothingIsInstalled(t *testing.T) {
	o := tinyOptions(t, nil)
	_, err := Run(t.Context(), o)
	demandFault(t, err, fault.Work, "the tree has no package database")
	demandClean(t, o)
}

func TestMirrorIsRefused(t *testing.T) {
	needRoot(t)
	const never = "127.0.0.1:9" // the discard service, which nobody offers any more
	for _, row := range []struct {
		summary string
		answer  http.HandlerFunc
		plain   bool
	}{
		{summary: "nobody listens"},
		{summary: "nobody listens to debootstrap", plain: true},
		{summary: "it has nothing", answer: http.NotFound},
		{summary: "it has nothing for debootstrap", answer: http.NotFound, plain: true},
		{summary: "it is ill", answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }},
		{summary: "it is a hotel's login page", answer: welcome},
		{summary: "it is a hotel's login page for debootstrap", answer: welcome, plain: true},
		{summary: "its packages are gone", answer: withoutPackages(t)},
	} {
		t.Run(row.summary, func(t *testing.T) {
			t.Parallel()
			o := tinyOptions(t, nil)
			o.ConfigSpace, o.Classes, o.Plain = "", []string{"BASE", "DEBIAN", "TRIXIE", "LAST"}, row.plain
			o.Mirror.Debian = "http://" + never + "/debian"
			if row.answer != nil {
				server := httptest.NewServer(row.answer)
				defer server.Close()
				o.Mirror.Debian = server.URL + "/debian"
			}
			_, err := Run(t.Context(), o)
			demandFault(t, err, fault.Outside, o.Mirror.Debian)
			if hint := fault.HintOf(err); !strings.Contains(hint, "--mirror URL") || !strings.Contains(hint, ".build.log") {
				t.Errorf("hint %q names neither a way out nor the log", hint)
			}
			demandClean(t, o)
		})
	}
}

func welcome(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	_, _ = io.WriteString(w, "<html><body>Welcome to our network</body></html>\n")
}

// withoutPackages is the machine's own mirror but for its packages.
func withoutPackages(t *testing.T) http.HandlerFunc {
	target, err := url.Parse(machineMirror(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, "/debian")
		r.SetURL(target)
	}}
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".deb") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}
}

// The base system is real here, and so is apt.
func TestPackageIsMissing(t *testing.T) {
	o := tinyOptions(t, map[string]string{"package_config/TINY": "PACKAGES install-norec\nno-such-package-x\nhello\n"})
	o.Mirror.Debian = machineMirror(t)
	for name, text := range map[string]string{
		"class/TINY.var":         "FAI_DEBOOTSTRAP=\"$DEBCLOUD_CODENAME $DEBCLOUD_MIRROR\"\nFAI_DEBOOTSTRAP_OPTS=\"--variant=minbase --arch=$DEBCLOUD_ARCH\"\n",
		"hooks/extrbase.TINY.sh": "skiptask updatebase\n",
	} {
		if err := writeFile(filepath.Join(o.ConfigSpace, name), []byte(text), false); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Run(t.Context(), o)
	demandFault(t, err, fault.Input, `package "no-such-package-x" is not in the archive`)
	demandClean(t, o)
}

// machineMirror is the mirror that a build here would use.
func machineMirror(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("DEBCLOUD_MIRROR"); given != "" {
		return given
	}
	m, err := MachineMirrors("/etc/apt")
	if err != nil {
		t.Fatal(err)
	}
	return m.Debian
}

// demandFault demands an error of a kind, in one line that says all of says.
func demandFault(t *testing.T, err error, kind fault.Kind, says ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if got := fault.KindOf(err); got != kind {
		t.Errorf("kind %d, want %d: %v", got, kind, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is not one line", err)
	}
}
