package check

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// account is a line of passwd(5), group(5), shadow(5) or gshadow(5), split.
type account []string

func (a account) name() string { return a[0] }

// readAccounts reads a file of colon-separated lines. A line without columns fields is an error.
func readAccounts(s *subject, name string, columns int) ([]account, error) {
	text, err := fs.ReadFile(s.root, name)
	if err != nil {
		return nil, err
	}
	var list []account
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) != columns {
			return nil, fmt.Errorf("/%s has a line of %d fields, not %d, for %q", name, len(fields), columns, fields[0])
		}
		list = append(list, account(fields))
	}
	return list, nil
}

// Required accounts: without root and nobody nothing works; the groups are those that cloud-init's default user joins.
var (
	requiredUsers  = []string{"root", "nobody"}
	requiredGroups = []string{
		"root", "nogroup", "adm", "audio", "cdrom", "dialout", "dip", "floppy", "plugdev", "sudo", "video",
	}
)

func accounts(ctx context.Context, s *subject, f *findings) error {
	packages, err := s.packages()
	if err != nil {
		return err
	}
	for _, kind := range []struct {
		name, file string
		columns    int
		required   []string
		owners     map[string][]string
	}{
		{"user", "etc/passwd", 7, requiredUsers, userOwners},
		{"group", "etc/group", 4, requiredGroups, groupOwners},
	} {
		list, err := readAccounts(s, kind.file, kind.columns)
		if err != nil {
			return err
		}
		names := map[string]bool{}
		for _, a := range list {
			if names[a.name()] {
				f.wrongf("%s %q is there twice", kind.name, a.name())
			}
			names[a.name()] = true
			if why := foreign(a.name(), kind.owners, packages); why != "" {
				f.wrongf("%s %q %s", kind.name, a.name(), why)
			}
		}
		for _, name := range kind.required {
			if !names[name] {
				f.wrongf("%s %q is missing", kind.name, name)
			}
		}
		f.sawf("%d %ss", len(list), kind.name)
	}
	return nil
}

// foreign says why no installed package accounts for a name, or "". Names that begin with an underscore are reserved
// for packages (Debian Policy, 9.2.1), as are systemd's own.
func foreign(name string, owners map[string][]string, p *packages) string {
	if strings.HasPrefix(name, "_") || strings.HasPrefix(name, "systemd-") {
		return ""
	}
	from, known := owners[name]
	if !known {
		return "is not one that a package of these images makes"
	}
	if !slices.ContainsFunc(from, p.installed) {
		return "comes from " + strings.Join(from, " or ") + ", which is not installed"
	}
	return ""
}

var noShells = []string{"/bin/false", "/sbin/nologin", "/usr/sbin/nologin"}

func shells(ctx context.Context, s *subject, f *findings) error {
	users, err := readAccounts(s, "etc/passwd", 7)
	if err != nil {
		return err
	}
	for _, u := range users {
		name, id, shell := u.name(), u[2], u[6]
		login := name == "root" && shell == "/bin/bash" || name == "sync" && shell == "/bin/sync"
		if !login && !slices.Contains(noShells, shell) {
			f.wrongf("user %q has the shell %q", name, shell)
		}
		if !systemID(id) {
			f.wrongf("user %q has the identifier %s", name, id)
		}
		if (name == "root") != (id == "0") {
			f.wrongf("user %q has the identifier %s", name, id)
		}
	}
	groups, err := readAccounts(s, "etc/group", 4)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if !systemID(g[2]) {
			f.wrongf("group %q has the identifier %s", g.name(), g[2])
		}
	}
	f.sawf("%d users, %d groups", len(users), len(groups))
	return nil
}

// systemID tells whether an identifier is one of those for packages, or nobody's (Debian Policy, 9.2.2).
func systemID(text string) bool {
	id, err := strconv.ParseUint(text, 10, 32)
	return err == nil && (id < 1000 || id == 65534)
}

// noPasswords never repeats what it found: a hash in a report is a hash published.
func noPasswords(ctx context.Context, s *subject, f *findings) error {
	users, err := readAccounts(s, "etc/passwd", 7)
	if err != nil {
		return err
	}
	for _, u := range users {
		if u[1] != "x" {
			f.wrongf("user %q has a password field in /etc/passwd that is not x", u.name())
		}
	}
	shadow, err := readAccounts(s, "etc/shadow", 9)
	if err != nil {
		return err
	}
	for _, a := range shadow {
		s.judgePassword(a, f)
	}
	groups, err := readAccounts(s, "etc/gshadow", 4)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if !locked(g[1]) {
			f.wrongf("group %q has a password", g.name())
		}
	}
	f.sawf("%d lines in /etc/shadow, %d in /etc/gshadow", len(shadow), len(groups))
	return nil
}

func (s *subject) judgePassword(a account, f *findings) {
	open := s.nocloud() && a.name() == "root"
	switch {
	case open && a[1] != "":
		f.wrongf("user %q cannot log in on the console: its password is not empty", a.name())
	case open:
		f.sawf("user %q has an empty password, as nocloud needs", a.name())
	case a[1] == "":
		f.wrongf("user %q has an empty password", a.name())
	case !locked(a[1]):
		f.wrongf("user %q has a password", a.name())
	}
}

// locked tells whether no password can match the field (shadow(5)).
func locked(field string) bool {
	return field == "*" || field == "!" || field == "!*" || field == "!!"
}
