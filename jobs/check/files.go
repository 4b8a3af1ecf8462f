package check

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// runtimeDirectories are filled while a machine runs; what lies there in an image hides below a mount, or leaks.
var runtimeDirectories = []string{"dev", "proc", "run", "sys", "tmp", "var/tmp"}

// aptCaches must not hold files. Their own empty directories, which apt makes again, may stay.
var aptCaches = []string{"var/cache/apt", "var/lib/apt/lists"}

func emptyDirectories(ctx context.Context, s *subject, f *findings) error {
	for _, dir := range runtimeDirectories {
		entries, err := fs.ReadDir(s.root, dir)
		if err != nil {
			f.wrongf("/%s cannot be listed: %s", dir, err)
		}
		for _, e := range entries {
			f.wrongf("/%s is in the image", path.Join(dir, e.Name()))
		}
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if i, err := fs.Lstat(s.root, dir); err == nil && i.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
			f.wrongf("/%s has mode %v, not drwxrwxrwt", dir, i.Mode())
		}
	}
	for _, dir := range aptCaches {
		err := walk(s.root, dir, func(name string, d fs.DirEntry) {
			if !d.IsDir() {
				f.wrongf("/%s is in the image", name)
			}
		})
		if err != nil {
			return err
		}
	}
	f.sawf("looked into /%s", strings.Join(slices.Concat(runtimeDirectories, aptCaches), ", /"))
	return nil
}

// walk visits everything below dir, which may be absent.
func walk(fsys fs.FS, dir string, visit func(name string, d fs.DirEntry)) error {
	return fs.WalkDir(fsys, dir, func(name string, d fs.DirEntry, err error) error {
		if name == dir {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if err == nil {
			visit(name, d)
		}
		return err
	})
}

func noStrays(ctx context.Context, s *subject, f *findings) error {
	names := []string{"etc/mailname", "vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"}
	for _, name := range names {
		there, err := s.exists(name)
		if err != nil {
			return err
		}
		if there {
			f.wrongf("/%s is in the image", name)
		}
	}
	f.sawf("looked for /%s", strings.Join(names, ", /"))
	return nil
}

var assignment = lazyregexp.New(`^([A-Z_]+)=(?:"([^"]*)"|(\S*))$`)

// assignments parses a file of shell assignments, as os-release(5) has them.
func assignments(text string) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if m := assignment.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			values[m[1]] = m[2] + m[3]
		}
	}
	return values
}

func cloudRelease(ctx context.Context, s *subject, f *findings) error {
	text, err := s.text("etc/cloud-release")
	if err != nil {
		return err
	}
	if text == "" {
		f.wrongf("/etc/cloud-release is absent or empty")
		return nil
	}
	values := assignments(text)
	if values["ID"] == "" || values["VERSION"] == "" {
		f.wrongf("/etc/cloud-release names no ID or no VERSION")
	}
	if want := s.build.Data.Info.Version; want != "" && values["VERSION"] != "" && values["VERSION"] != want {
		f.wrongf("/etc/cloud-release says version %q, the build document %q", values["VERSION"], want)
	}
	f.sawf("%s", strings.TrimSpace(text))
	return nil
}

// locale reads the older of the two names: since trixie it is a link to /etc/locale.conf.
func locale(ctx context.Context, s *subject, f *findings) error {
	text, err := s.text("etc/default/locale")
	if err != nil {
		return err
	}
	values := assignments(text)
	if values["LANG"] != "C.UTF-8" {
		f.wrongf("/etc/default/locale sets LANG to %q", values["LANG"])
	}
	for name := range values {
		if name != "LANG" {
			f.wrongf("/etc/default/locale sets %s too", name)
		}
	}
	f.sawf("LANG=%s", values["LANG"])
	return nil
}

func resolvConf(ctx context.Context, s *subject, f *findings) error {
	i, err := fs.Lstat(s.root, "etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		f.sawf("/etc/resolv.conf is absent")
		return nil
	}
	if err != nil {
		return err
	}
	if i.Mode().Type() != fs.ModeSymlink {
		f.wrongf("/etc/resolv.conf is a file of %d bytes: the name servers of the machine that built the image?", i.Size())
		return nil
	}
	target, err := fs.ReadLink(s.root, "etc/resolv.conf")
	f.sawf("/etc/resolv.conf → %s", target)
	return err
}

// logs compares /var/log with what packages make there. Whatever has content was written by the build.
func logs(ctx context.Context, s *subject, f *findings) error {
	err := walk(s.root, "var/log", func(name string, d fs.DirEntry) {
		top, _, _ := strings.Cut(strings.TrimPrefix(name, "var/log/"), "/")
		owner, known := logOwners[top]
		i, err := d.Info()
		switch {
		case err != nil:
			f.wrongf("%s", err)
		case !known:
			f.wrongf("/%s does not belong there", name)
		case i.Mode().IsRegular() && i.Size() > 0:
			f.wrongf("/%s has %d bytes", name, i.Size())
		default:
			f.sawf("/%s, from %s", name, owner)
		}
	})
	return err
}

// machineID: an empty machine-id is filled at boot, and is not a first boot for systemd; "uninitialized" is, which
// units with ConditionFirstBoot= need where nothing but systemd sets a machine up (machine-id(5)).
func machineID(ctx context.Context, s *subject, f *findings) error {
	want := ""
	if s.nocloud() {
		want = "uninitialized\n"
	}
	i, err := fs.Lstat(s.root, "etc/machine-id")
	if err != nil || !i.Mode().IsRegular() {
		f.wrongf("/etc/machine-id is not a file: a read-only boot cannot make it")
		return nil
	}
	text, err := s.text("etc/machine-id")
	if err != nil {
		return err
	}
	if text != want {
		f.wrongf("/etc/machine-id holds %q, not %q", text, want)
	}
	f.sawf("/etc/machine-id holds %q", text)
	old, err := fs.Lstat(s.root, "var/lib/dbus/machine-id")
	if err == nil && old.Mode().Type() != fs.ModeSymlink {
		f.wrongf("/var/lib/dbus/machine-id is a file of its own")
	}
	return nil
}

func hostKeys(ctx context.Context, s *subject, f *findings) error {
	entries, err := fs.ReadDir(s.root, "etc/ssh")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "ssh_host_") {
			f.wrongf("/etc/ssh/%s is in the image", e.Name())
		}
	}
	f.sawf("/etc/ssh has %d entries", len(entries))
	return nil
}

func hostname(ctx context.Context, s *subject, f *findings) error {
	text, err := s.text("etc/hostname")
	if err != nil {
		return err
	}
	if text != "" {
		f.wrongf("/etc/hostname holds %q", text)
	} else {
		f.sawf("/etc/hostname is empty or absent")
	}
	return nil
}

// traces are files of a home directory that only somebody's work there leaves.
var traces = []string{
	".ssh/authorized_keys", ".ssh/authorized_keys2", ".ssh/known_hosts", ".ssh/id_*",
	".*_history", ".lesshst", ".viminfo", ".wget-hsts",
}

func noTraces(ctx context.Context, s *subject, f *findings) error {
	homes := []string{"root", "etc/skel"}
	entries, err := fs.ReadDir(s.root, "home")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		homes = append(homes, "home/"+e.Name())
	}
	names := []string{"etc/ssh/ssh_known_hosts", "etc/ssh/ssh_known_hosts2"}
	for _, home := range homes {
		for _, pattern := range traces {
			found, err := fs.Glob(s.root, home+"/"+pattern)
			if err != nil {
				return err
			}
			names = append(names, found...)
		}
	}
	for _, name := range names {
		i, err := fs.Lstat(s.root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if i.Size() > 0 {
			f.wrongf("/%s has %d bytes", name, i.Size())
		}
	}
	f.sawf("looked into /%s", strings.Join(homes, ", /"))
	return nil
}
