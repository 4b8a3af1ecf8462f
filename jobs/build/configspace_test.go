package build

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/vmimages"
)

// classes that the matrix defines for the releases, vendors and architectures that there are.
var classes = strings.Fields(`BUILD_IMAGE BASE DEBIAN TYPE_DEV
	BULLSEYE BOOKWORM TRIXIE FORKY SID LINUX_VERSION_BASE LINUX_VERSION_BACKPORTS EXTRAS
	SYSTEM_BOOT SYSTEM_BOOT_DEFAULT SYSTEM_BOOT_RASPI CLOUD AZURE EC2 GCE GENERIC NOCLOUD
	LINUX_VARIANT_BASE LINUX_VARIANT_CLOUD TIME_SYSTEMD TIME_CHRONY IPV6_DHCP
	AMD64 ARM64 PPC64EL RISCV64 S390X LAST RUNNER`)

// wholeSpace is the built-in config space with the runner image's on top.
func wholeSpace(t *testing.T) fs.FS {
	t.Helper()
	space, err := openSpace("")
	if err != nil {
		t.Fatal(err)
	}
	runner, err := fs.Sub(vmimages.Runner, "runner")
	if err != nil {
		t.Fatal(err)
	}
	return overlaid{runner, space}
}

// A misspelt class makes FAI leave a file out in silence.
func TestConfigSpaceNamesKnownClasses(t *testing.T) {
	space := wholeSpace(t)
	known := func(where, class string) {
		for part := range strings.SplitSeq(class, "+") {
			if !slices.Contains(classes, part) {
				t.Errorf("%s names class %q, which the matrix does not define", where, part)
			}
		}
	}
	seen := 0
	err := eachFile(space, func(name string, text []byte, _ bool) error {
		seen++
		parts := strings.Split(name, "/")
		switch parts[0] {
		case "class":
			known(name, strings.TrimSuffix(parts[1], ".var"))
		case "debconf", "package_config":
			known(name, parts[1])
		case "hooks":
			_, class, _ := strings.Cut(parts[1], ".")
			known(name, strings.TrimSuffix(class, ".sh"))
		case "scripts":
			known(name, parts[1])
		case "files":
			known(name, path.Base(name))
		case "tools":
		default:
			t.Errorf("FAI does not know the directory of %s", name)
		}
		if parts[0] == "package_config" {
			for _, m := range regexp.MustCompile(`(?m)^PACKAGES \S+(.*)$`).FindAllStringSubmatch(string(text), -1) {
				for _, class := range strings.Fields(m[1]) {
					known(name, class)
				}
			}
		}
		for _, m := range regexp.MustCompile(`\*" ([A-Z0-9_+]+) "\*\)`).FindAllStringSubmatch(string(text), -1) {
			known(name, m[1])
		}
		return nil
	})
	if err != nil || seen < 30 {
		t.Errorf("%d files, %v", seen, err)
	}
}

func TestScriptsAreClean(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("shellcheck is not installed")
	}
	space := wholeSpace(t)
	dir := t.TempDir()
	if err := copySpace(space, dir); err != nil {
		t.Fatal(err)
	}
	own, _ := filepath.Glob("*.sh")
	scripts := own
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(file)
		if strings.HasPrefix(string(text), "#!") {
			scripts = append(scripts, file)
		}
		return err
	})
	if err != nil || len(scripts) < len(own)+5 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil || !strings.Contains(string(text), "set -eu") {
			t.Errorf("%s goes on after errors (set -eu is missing), %v", script, err)
		}
		if info, err := os.Stat(script); err == nil && strings.HasPrefix(script, dir) && info.Mode()&0o111 == 0 {
			t.Errorf("%s is not executable, FAI would leave it out", script)
		}
	}
	if out, err := exec.CommandContext(t.Context(), shellcheck, scripts...).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}

func TestOpenSpace(t *testing.T) {
	_, err := openSpace(t.TempDir())
	if fault.KindOf(err) != fault.Input || fault.HintOf(err) == "" {
		t.Errorf("an empty directory as config space gives %v", err)
	}
	dir := t.TempDir()
	if err := writeFile(dir+"/class/DEFAULT.var", nil, false); err != nil {
		t.Fatal(err)
	}
	space, err := openSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := fingerprint(space)
	if err := writeFile(dir+"/hooks/partition.LAST.sh", []byte("# mine\n"), true); err != nil {
		t.Fatal(err)
	}
	two, err2 := fingerprint(space)
	if err1 != nil || err2 != nil || one == two {
		t.Errorf("another file must give another fingerprint: %s, %s, %v, %v", one, two, err1, err2)
	}
	to := t.TempDir()
	if err := copySpace(space, to); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(to + "/hooks/partition.LAST.sh"); err != nil || string(text) != "# mine\n" {
		t.Errorf("the space's own hook was replaced: %q, %v", text, err)
	}
}

func TestOverlaid(t *testing.T) {
	bottom := fstest.MapFS{
		"class/A.var": {Data: []byte("bottom")}, "class/B.var": {Data: []byte("bottom")}, "scripts/A/1": {Data: []byte("bottom")},
	}
	top := fstest.MapFS{"class/B.var": {Data: []byte("top")}, "class/C.var": {Data: []byte("top")}, "hooks/h.C": {Data: []byte("top")}}
	space := overlaid{top, bottom}
	var got []string
	err := eachFile(space, func(name string, text []byte, _ bool) error {
		got = append(got, name+" "+string(text))
		return nil
	})
	want := []string{"class/A.var bottom", "class/B.var top", "class/C.var top", "hooks/h.C top", "scripts/A/1 bottom"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := fs.ReadDir(space, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that neither has: %v", err)
	}
}
