package generator

import (
	"strconv"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
)

// Targets are what --to can name, in the document's order, under its key "targets". Their values are as they stand there:
// target.Target.Resolve puts the environment's in.
func (c *Config) Targets() []target.Target { return append([]target.Target{}, c.targets...) }

// Target finds a Target by name.
func (c *Config) Target(name string) (target.Target, error) {
	return find("target", name, c.targets, func(t target.Target) string { return t.Name })
}

// Retention is what the document says under its key "retention" of how long images are kept.
func (c *Config) Retention() holding.Policy { return c.retention }

func (d *decoder) target(n *node, path string) (t target.Target, err error) {
	err = d.object(n, path, map[string]field{
		"name":      required(d.name(&t.Name)),
		"provider":  required(d.name(&t.Provider)),
		"account":   optional(d.plain(&t.Account)),
		"partition": optional(d.plain(&t.Partition)),
		"regions":   optional(d.strings(&t.Regions, plainForm, "region")),
		"vendors":   optional(d.names(&t.Vendors, "vendor")),
		"cloudTest": optional(d.boolean(&t.CloudTest)),
		"settings":  optional(d.variables(&t.Settings)),
	})
	return t, err
}

// retention decodes { daily: { keep, hideAfterDays, deleteAfterDays }, …, orphanDays }.
func (d *decoder) retention(p *holding.Policy) func(*node, string) error {
	return func(n *node, path string) error {
		p.Types = map[image.UploadType]holding.Retention{}
		of := func(t image.UploadType) field {
			return optional(func(n *node, path string) error {
				var r holding.Retention
				err := d.object(n, path, map[string]field{
					"keep":            required(d.number(&r.Keep, 1, 10_000)),
					"hideAfterDays":   required(d.days(&r.HideAfter)),
					"deleteAfterDays": required(d.days(&r.DeleteAfter)),
				})
				p.Types[t] = r
				return err
			})
		}
		return d.object(n, path, map[string]field{
			"dev": of(image.Dev), "daily": of(image.Daily), "release": of(image.Published),
			"orphanDays": required(d.days(&p.Orphans)),
		})
	}
}

// days decodes a number of days. None is less than one: what changes twice in a day nobody notices in time.
func (d *decoder) days(target *time.Duration) func(*node, string) error {
	return func(n *node, path string) error {
		var days int
		err := d.number(&days, 1, 36_500)(n, path)
		*target = time.Duration(days) * 24 * time.Hour
		return err
	}
}

func (d *decoder) number(target *int, least, most int) func(*node, string) error {
	return func(n *node, path string) error {
		v, err := strconv.Atoi(n.text)
		if n.kind != number || err != nil || v < least || v > most {
			return d.at(n, path).errorf("%q is no whole number from %d to %d", n.text, least, most)
		}
		*target = v
		return nil
	}
}

// demandedSuites are what a cell's image needs beyond check and boot before it becomes public: a passing report from
// each cloud that asks for one.
func (c *Config) demandedSuites(vendor string, upload bool) (suites []string) {
	for _, t := range c.targets {
		if upload && t.CloudTest && t.Takes(vendor) {
			suites = append(suites, t.Suite())
		}
	}
	return suites
}
