package generator

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
)

// decoder turns nodes into a Config and refuses what it does not know.
type decoder struct {
	file string
	// uses are the names that rules mention, to be looked up when all are declared.
	uses []use
	// declared tells where each release, vendor and arch stands.
	declared map[string]position
}

// use is a name in a rule.
type use struct {
	at   position
	what string // release, vendor, architecture
	name string
}

type field struct {
	required bool
	decode   func(n *node, path string) error
}

func (d *decoder) at(n *node, path string) position { return position{d.file, n.line, path} }

// object decodes n, which must have every required field and no unknown one.
func (d *decoder) object(n *node, path string, fields map[string]field) error {
	if n.kind != object {
		return d.at(n, path).errorf("it is %s where an object is needed", n.kind)
	}
	seen := map[string]bool{}
	for i, key := range n.keys {
		f, known := fields[key.text]
		switch {
		case !known:
			err := d.at(key, path).errorf("unknown key %q: it is none of %s", key.text, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			return withNearest(err, key.text, slices.Collect(maps.Keys(fields)))
		case seen[key.text]:
			return d.at(key, path).errorf("key %q stands here twice", key.text)
		}
		seen[key.text] = true
		if err := f.decode(n.values[i], join(path, key.text)); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if fields[key].required && !seen[key] {
			return d.at(n, path).errorf("key %q is missing", key)
		}
	}
	return nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func required(decode func(*node, string) error) field { return field{true, decode} }
func optional(decode func(*node, string) error) field { return field{false, decode} }

func (d *decoder) list(n *node, path string, item func(n *node, path string) error) error {
	if n.kind != list {
		return d.at(n, path).errorf("it is %s where a list is needed", n.kind)
	}
	for i, v := range n.values {
		if err := item(v, fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	return nil
}

// str decodes a string that form matches; what names such a string in messages.
func (d *decoder) str(target *string, form *lazyregexp.Regexp, what string) func(*node, string) error {
	return func(n *node, path string) error {
		if n.kind != text {
			return d.at(n, path).errorf("%s is %s where a string is needed: put it in quotes", n.text, n.kind)
		}
		if !form.MatchString(n.text) {
			return d.at(n, path).errorf("%q is no %s: it must match %s", n.text, what, form)
		}
		*target = n.text
		return nil
	}
}

var (
	// Names become parts of file and job names, joined by - and spaces, and of variables.
	nameForm = lazyregexp.New(`^[a-z0-9]+([-_][a-z0-9]+)*$`)
	// GitLab's resource groups and Azure's offers take these, too. An empty group is none.
	groupForm = lazyregexp.New(`^([A-Za-z0-9]+([-_.][A-Za-z0-9]+)*)?$`)
	classForm = lazyregexp.New(`^[A-Za-z0-9_-]+$`)
	plainForm = lazyregexp.New(`^[ -~]+$`)
	// rule lists may have "*" for every name.
	useForm = lazyregexp.New(`^([a-z0-9]+([-_][a-z0-9]+)*|\*)$`)
)

func (d *decoder) name(target *string) func(*node, string) error {
	return d.str(target, nameForm, "name")
}

// maxPlain bounds what becomes part of names and descriptions.
const maxPlain = 200

func (d *decoder) plain(target *string) func(*node, string) error {
	decode := d.str(target, plainForm, "printable ASCII text")
	return func(n *node, path string) error {
		if len(n.text) > maxPlain {
			return d.at(n, path).errorf("it has %d characters, more than %d: %.40q…", len(n.text), maxPlain, n.text)
		}
		return decode(n, path)
	}
}

func (d *decoder) classes(target *[]string) func(*node, string) error {
	return d.strings(target, classForm, "FAI class")
}

func (d *decoder) strings(target *[]string, form *lazyregexp.Regexp, what string) func(*node, string) error {
	return func(n *node, path string) error {
		return d.list(n, path, func(n *node, path string) error {
			var s string
			err := d.str(&s, form, what)(n, path)
			*target = append(*target, s)
			return err
		})
	}
}

// each appends to target what item decodes from every entry of a list, and refuses a name that is there already.
func each[T any](d *decoder, what string, target *[]T, nameOf func(T) string, item func(n *node, path string) (T, error)) func(*node, string) error {
	return func(n *node, path string) error {
		return d.list(n, path, func(n *node, path string) error {
			v, err := item(n, path)
			if err != nil {
				return err
			}
			key := what + " " + nameOf(v)
			if first, twice := d.declared[key]; twice {
				return d.at(n, path).errorf("%s %q is declared twice, first at %s", what, nameOf(v), first)
			}
			d.declared[key] = d.at(n, path)
			*target = append(*target, v)
			return nil
		})
	}
}

func (d *decoder) config(n *node, c *Config) error {
	d.declared = map[string]position{}
	var kind, version string
	is := func(target *string, want string) func(*node, string) error {
		return func(n *node, path string) error {
			if *target = n.text; n.kind != text || n.text != want {
				return d.at(n, path).errorf("%q is not %q, the only one that is understood", n.text, want)
			}
			return nil
		}
	}
	return d.object(n, "", map[string]field{
		"apiVersion":  required(is(&version, manifest.APIVersion)),
		"kind":        required(is(&kind, "ImageConfig")),
		"archs":       optional(each(d, "architecture", &c.archs, func(a image.Arch) string { return a.Name }, d.arch)),
		"releases":    optional(each(d, "release", &c.releases, func(r release) string { return r.Name }, d.release)),
		"vendors":     optional(each(d, "vendor", &c.vendors, func(v vendor) string { return v.Name }, d.vendor)),
		"types":       optional(each(d, "build type", &c.buildTypes, func(t image.BuildType) string { return t.Name }, d.buildType)),
		"publicTypes": optional(each(d, "public type", &c.publicTypes, func(t publicType) string { return string(t.name) }, d.publicType)),
		"schedules":   optional(d.schedules(&c.schedules)),
		"targets":     optional(each(d, "target", &c.targets, func(t target.Target) string { return t.Name }, d.target)),
		"retention":   optional(d.retention(&c.retention)),
	})
}

func (d *decoder) arch(n *node, path string) (a image.Arch, err error) {
	err = d.object(n, path, map[string]field{
		"name":       required(d.name(&a.Name)),
		"azureName":  optional(d.plain(&a.Azure)),
		"ociArch":    optional(d.plain(&a.OCI)),
		"faiClasses": optional(d.classes(&a.Classes)),
	})
	return a, err
}

func (d *decoder) release(n *node, path string) (r release, err error) {
	err = d.object(n, path, map[string]field{
		"name":       required(d.name(&r.Name)),
		"basename":   required(d.name(&r.Basename)),
		"id":         required(d.name(&r.ID)),
		"baseid":     required(d.name(&r.BaseID)),
		"faiClasses": optional(d.classes(&r.Classes)),
		"matches":    optional(d.rules(&r.rules)),
	})
	return r, err
}

func (d *decoder) vendor(n *node, path string) (v vendor, err error) {
	err = d.object(n, path, map[string]field{
		"name":       required(d.name(&v.Name)),
		"faiClasses": optional(d.classes(&v.Classes)),
		"size":       optional(d.size(&v.SizeGB)),
		"matches":    optional(d.rules(&v.rules)),
	})
	return v, err
}

// size decodes the size of a disk in GiB. GPT would allow more, no cloud does.
func (d *decoder) size(target *int) func(*node, string) error {
	return func(n *node, path string) error {
		v, err := strconv.Atoi(n.text)
		if n.kind != number || err != nil || v < 1 || v > 65536 {
			return d.at(n, path).errorf("%q is no whole number of GiB from 1 to 65536", n.text)
		}
		*target = v
		return nil
	}
}

func (d *decoder) buildType(n *node, path string) (t image.BuildType, err error) {
	err = d.object(n, path, map[string]field{
		"name":               required(d.name(&t.Name)),
		"faiClasses":         optional(d.classes(&t.Classes)),
		"outputName":         required(d.plain(&t.OutputName)),
		"outputVersion":      required(d.plain(&t.OutputVersion)),
		"outputVersionAzure": required(d.plain(&t.OutputVersionAzure)),
	})
	return t, err
}

func (d *decoder) publicType(n *node, path string) (t publicType, err error) {
	var name string
	err = d.object(n, path, map[string]field{
		"name":    required(d.name(&name)),
		"matches": optional(d.rules(&t.rules)),
	})
	t.name = image.UploadType(name)
	return t, err
}

func (d *decoder) rules(target *[]rule) func(*node, string) error {
	return func(n *node, path string) error {
		return d.list(n, path, func(n *node, path string) error {
			r := rule{op: opEnable}
			err := d.object(n, path, map[string]field{
				"matchArches":   optional(d.names(&r.arches, "architecture")),
				"matchReleases": optional(d.names(&r.releases, "release")),
				"matchVendors":  optional(d.names(&r.vendors, "vendor")),
				"op":            optional(d.op(&r.op)),
				"uploadGroup":   optional(d.group(&r)),
			})
			*target = append(*target, r)
			return err
		})
	}
}

func (d *decoder) group(r *rule) func(*node, string) error {
	return func(n *node, path string) error {
		r.namesGroup = true
		return d.str(&r.group, groupForm, "upload group")(n, path)
	}
}

func (d *decoder) op(target *string) func(*node, string) error {
	return func(n *node, path string) error {
		if n.kind != text || !slices.Contains(ops, n.text) {
			err := d.at(n, path).errorf("op %q is none of %s", n.text, strings.Join(ops, ", "))
			return withNearest(err, n.text, ops)
		}
		*target = n.text
		return nil
	}
}

// names decodes the names of a rule and remembers to look them up.
func (d *decoder) names(target *[]string, what string) func(*node, string) error {
	return func(n *node, path string) error {
		if err := d.strings(target, useForm, what)(n, path); err != nil {
			return err
		}
		for i, v := range n.values {
			d.uses = append(d.uses, use{d.at(v, fmt.Sprintf("%s[%d]", path, i)), what, v.text})
		}
		return nil
	}
}

// check looks at what only the whole document can tell.
func (c *Config) check(d *decoder) error {
	if err := c.checkUses(d.uses); err != nil {
		return err
	}
	for _, r := range c.releases {
		if len(r.rules) > 0 && c.excludesItself(r) {
			return d.declared["release "+r.Name].errorf("release %q excludes itself: its %d rules let no vendor and architecture pass", r.Name, len(r.rules))
		}
	}
	return c.checkNames(d)
}

func (c *Config) excludesItself(r release) bool {
	for _, v := range c.vendors {
		for _, a := range c.archs {
			if judge(r.rules, image.Cell{Release: r.Release, Vendor: v.Vendor, Arch: a}).passes {
				return false
			}
		}
	}
	return true
}

// checkUses refuses rules with names that are not declared. Releases and architectures come and go while rules for them stay, or
// stand there in advance, as the team's own for forky-backports: those are warned of, unless the name is most likely misspelt.
// The built-in matrix, of any commit, is not warned of.
func (c *Config) checkUses(uses []use) error {
	known := map[string][]string{}
	for _, r := range c.releases {
		known["release"] = append(known["release"], r.Basename)
	}
	for _, v := range c.vendors {
		known["vendor"] = append(known["vendor"], v.Name)
	}
	for _, a := range c.archs {
		known["architecture"] = append(known["architecture"], a.Name)
	}
	warned := map[string]bool{}
	for _, u := range uses {
		if u.name == "*" || slices.Contains(known[u.what], u.name) {
			continue
		}
		misspelt := nearest(u.name, known[u.what]) != "" && !(u.what == "architecture" && image.IsDebians(u.name))
		if u.what == "vendor" || misspelt {
			err := u.at.errorf("%s %q is not declared: it is none of %s", u.what, u.name, strings.Join(known[u.what], ", "))
			return withNearest(err, u.name, known[u.what])
		}
		if key := u.what + " " + u.name; !warned[key] && !strings.HasSuffix(c.source, builtIn) {
			warned[key] = true
			slog.Warn("a rule names what is not declared", "kind", u.what, "name", u.name, "at", u.at.String())
		}
	}
	return nil
}

// checkNames refuses two cells whose files would have one name, such as trixie-backports × x and trixie × backports-x.
func (c *Config) checkNames(d *decoder) error {
	named := map[string]image.Cell{}
	for cell := range c.cells() {
		name := strings.Join([]string{cell.Release.Name, cell.Vendor.Name, cell.Arch.Name}, "-")
		if other, twice := named[name]; twice {
			return d.declared["vendor "+cell.Vendor.Name].errorf("two cells are named debian-%s: %q and %q", name, other, cell)
		}
		named[name] = cell
	}
	return nil
}
