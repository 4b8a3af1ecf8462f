package awstest

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// readForm decodes the body of the query protocol.
func (r *request) readForm() *Failure {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return nil
	}
	form, err := url.ParseQuery(string(r.body))
	if err != nil {
		return refuse("MalformedQueryString", "%v", err)
	}
	r.form = form
	return nil
}

// name finds the action and what it is about.
func (r *request) name() {
	switch r.call.Service {
	case "ec2", "sts":
		r.call.Action = r.form.Get("Action")
		for _, key := range []string{"ImageId", "SnapshotId", "SourceImageId", "Name", "ImageId.1", "SnapshotId.1", "ResourceId.1"} {
			if v := r.form.Get(key); v != "" {
				r.call.Target = v
				break
			}
		}
	case "ebs":
		r.call.Action, r.call.Target = ebsAction(r.Request)
	case "ssm":
		_, r.call.Action, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		r.call.Target = parameterName(r.body)
	}
}

// parameters reads a query call's parameters and remembers which it was asked for, so that those that nothing knows are refused.
type parameters struct {
	form    url.Values
	read    map[string]bool
	failure *Failure
}

func newParameters(form url.Values) *parameters {
	return &parameters{form: form, read: map[string]bool{"Action": true, "Version": true}}
}

func (p *parameters) fail(f *Failure) {
	if p.failure == nil {
		p.failure = f
	}
}

func (p *parameters) get(key string) string {
	p.read[key] = true
	return p.form.Get(key)
}

func (p *parameters) need(key string) string {
	v := p.get(key)
	if v == "" {
		p.fail(refuse("MissingParameter", "The request must contain the parameter %s", key))
	}
	return v
}

func (p *parameters) bool(key string) bool {
	v := p.get(key)
	if v != "" && v != "true" && v != "false" {
		p.fail(refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", v, key))
	}
	return v == "true"
}

func (p *parameters) oneOf(key string, allowed ...string) string {
	v := p.get(key)
	if v != "" && !slices.Contains(allowed, v) {
		p.fail(refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", v, key))
	}
	return v
}

func (p *parameters) int(key string) int {
	v := p.get(key)
	n, err := strconv.Atoi(v)
	if v != "" && err != nil {
		p.fail(refuse("InvalidParameterValue", "Value (%s) for parameter %s is invalid.", v, key))
	}
	return n
}

// list reads key.1, key.2 and so on.
func (p *parameters) list(key string) []string {
	var out []string
	for i := 1; p.form.Has(fmt.Sprintf("%s.%d", key, i)); i++ {
		out = append(out, p.get(fmt.Sprintf("%s.%d", key, i)))
	}
	return out
}

// tags reads key.1.Key, key.1.Value and so on.
func (p *parameters) tags(key string) map[string]string {
	tags := map[string]string{}
	for i := 1; p.form.Has(fmt.Sprintf("%s.%d.Key", key, i)); i++ {
		name := p.get(fmt.Sprintf("%s.%d.Key", key, i))
		if _, twice := tags[name]; twice {
			p.fail(refuse("InvalidParameterValue", "Duplicate tag key '%s' specified.", name))
		}
		tags[name] = p.get(fmt.Sprintf("%s.%d.Value", key, i))
	}
	p.failTags(tags)
	return tags
}

// specifications reads the tags for each type of resource that a call makes.
func (p *parameters) specifications(types ...string) map[string]map[string]string {
	out := map[string]map[string]string{}
	for i := 1; p.form.Has(fmt.Sprintf("TagSpecification.%d.ResourceType", i)); i++ {
		t := p.get(fmt.Sprintf("TagSpecification.%d.ResourceType", i))
		if !slices.Contains(types, t) || out[t] != nil {
			p.fail(refuse("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", t))
		}
		out[t] = p.tags(fmt.Sprintf("TagSpecification.%d.Tag", i))
	}
	return out
}

func (p *parameters) failTags(tags map[string]string) {
	if f := checkTags(tags); f != nil {
		p.fail(f)
	}
}

func checkTags(tags map[string]string) *Failure {
	if len(tags) > 50 {
		return refuse("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
	}
	for k, v := range tags {
		if k == "" || len(k) > 128 || strings.HasPrefix(strings.ToLower(k), "aws:") {
			return refuse("InvalidParameterValue", "Tag key '%s' is not valid.", k)
		}
		if len(v) > 256 {
			return refuse("InvalidParameterValue", "Tag value exceeds the maximum length of 256 characters")
		}
	}
	return nil
}

// filters reads Filter.1.Name, Filter.1.Value.1 and so on.
func (p *parameters) filters() map[string][]string {
	out := map[string][]string{}
	for i := 1; p.form.Has(fmt.Sprintf("Filter.%d.Name", i)); i++ {
		out[p.get(fmt.Sprintf("Filter.%d.Name", i))] = p.list(fmt.Sprintf("Filter.%d.Value", i))
	}
	return out
}

// done refuses what is missing, wrong, or was never asked for, and answers a dry run.
func (p *parameters) done() *Failure {
	dry := p.bool("DryRun")
	if p.failure != nil {
		return p.failure
	}
	for key := range p.form {
		if !p.read[key] {
			return refuse("UnknownParameter", "The parameter %s is not recognized", key)
		}
	}
	if dry {
		return &Failure{Status: 412, Code: "DryRunOperation", Message: "Request would have succeeded, but DryRun flag is set."}
	}
	return nil
}

// matches tells whether tags and properties of a thing fit the filters.
func matches(filters map[string][]string, tags map[string]string, properties map[string]string) (bool, *Failure) {
	for name, values := range filters {
		have, known := properties[name]
		if tag, ok := strings.CutPrefix(name, "tag:"); ok {
			have, known = tags[tag], true
			if _, tagged := tags[tag]; !tagged {
				return false, nil
			}
		}
		if !known {
			return false, refuse("InvalidParameterValue", "The filter '%s' is invalid", name)
		}
		if !slices.Contains(values, have) {
			return false, nil
		}
	}
	return true, nil
}
