package awstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Policy is an IAM policy, as far as the double reads one: what it allows, under conditions of StringEquals.
type Policy struct {
	Version   string
	Statement []struct {
		Sid, Effect      string
		Action, Resource oneOrMore
		Condition        struct{ StringEquals map[string]oneOrMore }
	}
}

// oneOrMore is a list that may be written as its only member.
type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*o = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(o))
}

// ParsePolicy reads a policy, and refuses what the double would pass over.
func ParsePolicy(text []byte) (*Policy, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var p Policy
	if err := d.Decode(&p); err != nil {
		return nil, err
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" || len(s.Action) == 0 || len(s.Resource) == 0 {
			return nil, fmt.Errorf("statement %q does not allow an action on a resource", s.Sid)
		}
	}
	return &p, nil
}

// Actions are those that the policy allows, each once, sorted.
func (p *Policy) Actions() []string {
	var all []string
	for _, s := range p.Statement {
		all = append(all, s.Action...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// access is one of the permissions that a call takes.
type access struct {
	action, resource string
	keys             map[string]string // for conditions
}

func (p *Policy) allows(a access) bool {
	for _, s := range p.Statement {
		met := slices.Contains(s.Action, a.action) && slices.ContainsFunc(s.Resource, func(pattern string) bool { return like(pattern, a.resource) })
		for key, values := range s.Condition.StringEquals {
			v, there := a.keys[key]
			met = met && there && slices.Contains(values, v)
		}
		if met {
			return true
		}
	}
	return false
}

// like tells whether a pattern, in which * stands for any text, is that of a resource.
func like(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	after, ok := strings.CutPrefix(text, first)
	for at := 0; ok && at <= len(after); at++ {
		if like(rest, after[at:]) {
			return true
		}
	}
	return false
}

// authorize refuses a call that the policy does not allow.
func (c *Cloud) authorize(r *request, p *Policy) *Failure {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.accesses(r) {
		if !p.allows(a) {
			f := denied(r)
			f.Message += " on " + a.resource + " by way of " + a.action
			return f
		}
	}
	return nil
}

// accesses are the permissions that a call takes: for each thing that it is about, with the tags that it has or is to have, and for tags that it
// gives to what it makes (EC2 user guide, "Grant permission to tag Amazon EC2 resources during creation", and the service authorization reference).
func (c *Cloud) accesses(r *request) []access {
	action := r.call.Service + ":" + r.call.Action
	have := func(id string) access { return c.onThing(action, r.call.Region, id) }
	switch r.call.Action {
	case "ModifyImageAttribute", "EnableImageDeprecation", "DeregisterImage":
		return []access{have(r.form.Get("ImageId"))}
	case "ModifySnapshotAttribute", "DeleteSnapshot":
		return []access{have(r.form.Get("SnapshotId"))}
	case "PutSnapshotBlock", "CompleteSnapshot", "ListSnapshotBlocks", "GetSnapshotBlock":
		return []access{have(r.call.Target)}
	case "CreateTags":
		a := have(r.form.Get("ResourceId.1"))
		maps.Copy(a.keys, requestTags(newParameters(r.form).tags("Tag")))
		return []access{a}
	case "RegisterImage":
		return append(r.making("image"), have(r.form.Get("BlockDeviceMapping.1.Ebs.SnapshotId")))
	case "CopyImage":
		return append(r.making("image", "snapshot"), c.onThing(action, r.form.Get("SourceRegion"), r.form.Get("SourceImageId")))
	case "StartSnapshot":
		return r.making("snapshot")
	case "GetParameter", "PutParameter", "DeleteParameter":
		return []access{{action: action, resource: "arn:aws:ssm:" + r.call.Region + ":" + c.settings.Account + ":parameter" + r.call.Target}}
	}
	return []access{{action: action, resource: "*"}}
}

// onThing is the permission for something that may be there.
func (c *Cloud) onThing(action, region, id string) access {
	kind, tags := "snapshot", map[string]string(nil)
	if i := c.region(region).images[id]; i != nil {
		tags = i.Tags
	} else if s := c.region(region).snapshots[id]; s != nil {
		tags = s.Tags
	}
	if strings.HasPrefix(id, "ami-") {
		kind = "image"
	}
	a := access{action: action, resource: arn(region, kind, id), keys: map[string]string{}}
	for k, v := range tags {
		a.keys["aws:ResourceTag/"+k] = v
	}
	return a
}

func arn(region, kind, id string) string { return "arn:aws:ec2:" + region + "::" + kind + "/" + id }

// making are the permissions to make things of the kinds and to give them tags.
func (r *request) making(kinds ...string) []access {
	var all []access
	for _, kind := range kinds {
		tags := r.tagsToBe(kind)
		keys := requestTags(tags)
		all = append(all, access{r.call.Service + ":" + r.call.Action, arn(r.call.Region, kind, "new"), keys})
		if len(tags) > 0 {
			tagging := maps.Clone(keys)
			tagging["ec2:CreateAction"] = r.call.Action
			all = append(all, access{"ec2:CreateTags", arn(r.call.Region, kind, "new"), tagging})
		}
	}
	return all
}

// tagsToBe are those that a call gives to what it makes.
func (r *request) tagsToBe(kind string) map[string]string {
	if r.call.Service == "ec2" {
		return newParameters(r.form).specifications("image", "snapshot")[kind]
	}
	var in struct{ Tags []struct{ Key, Value string } }
	json.Unmarshal(r.body, &in) // what is no JSON is refused later
	tags := map[string]string{}
	for _, t := range in.Tags {
		tags[t.Key] = t.Value
	}
	return tags
}

func requestTags(tags map[string]string) map[string]string {
	keys := map[string]string{}
	for k, v := range tags {
		keys["aws:RequestTag/"+k] = v
	}
	return keys
}
