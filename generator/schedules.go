package generator

// Schedule is a pipeline schedule that the project shall have in GitLab. The document gives each under the key "schedules";
// jobs/salsa makes them so.
type Schedule struct {
	Name        string            // unique
	Description string            // "" where the document has none
	Cron        string            // as it stands in the document
	Timezone    string            // "" where the document has none
	Ref         string            // branch or tag
	Active      bool              // true where the document says nothing
	Variables   map[string]string // of the schedule's pipelines
}

// Schedules are the declared ones in the document's order: nil where the document has no key "schedules", and an empty slice
// where its list is empty, which asks for the removal of all.
func (c *Config) Schedules() []Schedule {
	if c.schedules == nil {
		return nil
	}
	return append([]Schedule{}, c.schedules...)
}

func (d *decoder) schedules(target *[]Schedule) func(*node, string) error {
	decode := each(d, "schedule", target, func(s Schedule) string { return s.Name }, d.schedule)
	return func(n *node, path string) error {
		*target = []Schedule{}
		return decode(n, path)
	}
}

func (d *decoder) schedule(n *node, path string) (s Schedule, err error) {
	s.Active = true
	err = d.object(n, path, map[string]field{
		"name":        required(d.name(&s.Name)),
		"description": optional(d.plain(&s.Description)),
		"cron":        required(d.plain(&s.Cron)),
		"timezone":    optional(d.plain(&s.Timezone)),
		"ref":         required(d.plain(&s.Ref)),
		"active":      optional(d.boolean(&s.Active)),
		"variables":   optional(d.variables(&s.Variables)),
	})
	return s, err
}

func (d *decoder) boolean(target *bool) func(*node, string) error {
	return func(n *node, path string) error {
		if n.kind != other || n.text != "true" && n.text != "false" {
			return d.at(n, path).errorf("%q is neither true nor false", n.text)
		}
		*target = n.text == "true"
		return nil
	}
}

// variables decodes an object of strings. A value of another kind is refused, because YAML's 010, no and 1e3 would not arrive as they are written.
func (d *decoder) variables(target *map[string]string) func(*node, string) error {
	return func(n *node, path string) error {
		if n.kind != object {
			return d.at(n, path).errorf("it is %s where an object is needed", n.kind)
		}
		*target = map[string]string{}
		for i, key := range n.keys {
			v := n.values[i]
			if v.kind != text {
				return d.at(v, join(path, key.text)).errorf("%s is %s where a string is needed: put it in quotes", v.text, v.kind)
			}
			if _, twice := (*target)[key.text]; twice {
				return d.at(key, path).errorf("key %q stands here twice", key.text)
			}
			(*target)[key.text] = v.text
		}
		return nil
	}
}
