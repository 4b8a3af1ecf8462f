package awstest

import (
	"net/http"
	"slices"
	"time"
)

// ec2Calls are the calls of EC2 that the double knows. Each runs under the cloud's lock.
var ec2Calls = map[string]func(*Cloud, *region, *parameters) (element, *Failure){
	"DescribeRegions":                   (*Cloud).describeRegions,
	"DescribeImages":                    (*Cloud).describeImages,
	"RegisterImage":                     (*Cloud).registerImage,
	"CopyImage":                         (*Cloud).copyImage,
	"DeregisterImage":                   (*Cloud).deregisterImage,
	"ModifyImageAttribute":              (*Cloud).modifyImageAttribute,
	"EnableImageDeprecation":            (*Cloud).enableImageDeprecation,
	"DisableImageDeprecation":           (*Cloud).disableImageDeprecation,
	"DescribeSnapshots":                 (*Cloud).describeSnapshots,
	"DescribeSnapshotAttribute":         (*Cloud).describeSnapshotAttribute,
	"ModifySnapshotAttribute":           (*Cloud).modifySnapshotAttribute,
	"DeleteSnapshot":                    (*Cloud).deleteSnapshot,
	"CreateTags":                        (*Cloud).createTags,
	"GetImageBlockPublicAccessState":    (*Cloud).imageBlockState,
	"DisableImageBlockPublicAccess":     (*Cloud).disableImageBlock,
	"GetSnapshotBlockPublicAccessState": (*Cloud).snapshotBlockState,
	"DisableSnapshotBlockPublicAccess":  (*Cloud).disableSnapshotBlock,
}

func (c *Cloud) ec2(r *request) (reply, *Failure) {
	call, ok := ec2Calls[r.call.Action]
	if !ok {
		return nil, refuse("InvalidAction", "The action %s is not valid for this web service.", r.call.Action)
	}
	if v := r.form.Get("Version"); v != "2016-11-15" {
		return nil, refuse("InvalidAction", "version %q is not the double's", v)
	}
	p := newParameters(r.form)
	c.mu.Lock()
	answer, f := call(c, c.region(r.call.Region), p)
	c.mu.Unlock()
	if p.failure != nil {
		f = p.failure
	}
	if f != nil {
		return nil, f
	}
	answer.name = r.call.Action + "Response"
	return sendXML(http.StatusOK, answer), nil
}

func done() element { return el("", flag("return", true)) }

func (c *Cloud) describeRegions(_ *region, p *parameters) (element, *Failure) {
	all := p.bool("AllRegions")
	names := p.list("RegionName")
	if f := p.done(); f != nil {
		return element{}, f
	}
	info := element{name: "regionInfo"}
	add := func(name, status string) {
		if len(names) == 0 || slices.Contains(names, name) {
			info.kids = append(info.kids, el("item", text("regionName", name), text("regionEndpoint", "ec2."+name), text("optInStatus", status)))
		}
	}
	for _, name := range c.settings.Regions {
		add(name, "opt-in-not-required")
	}
	if all {
		for _, name := range c.settings.NotOptedIn {
			add(name, "not-opted-in")
		}
	}
	for _, name := range names {
		if !slices.Contains(c.settings.Regions, name) && !slices.Contains(c.settings.NotOptedIn, name) {
			return element{}, refuse("InvalidParameterValue", "Invalid region provided: '%s'", name)
		}
	}
	return el("", info), nil
}

func (c *Cloud) createTags(r *region, p *parameters) (element, *Failure) {
	ids, tags := p.list("ResourceId"), p.tags("Tag")
	if f := p.done(); f != nil {
		return element{}, f
	}
	if len(ids) == 0 || len(tags) == 0 {
		return element{}, refuse("MissingParameter", "The request must contain resources and tags")
	}
	for _, id := range ids {
		var of map[string]string
		if i, f := r.image(id); f == nil {
			of = i.Tags
		} else if s, f := r.snapshot(id); f == nil {
			of = s.Tags
		} else {
			return element{}, refuse("InvalidID", "The ID '%s' is not valid", id)
		}
		for k, v := range tags {
			of[k] = v
		}
	}
	return done(), nil
}

func (c *Cloud) imageBlockState(r *region, p *parameters) (element, *Failure) {
	if f := p.done(); f != nil {
		return element{}, f
	}
	state := r.imageBlock
	if r.unblocking > 0 {
		r.unblocking--
		state = "block-new-sharing"
	}
	return el("", text("imageBlockPublicAccessState", state)), nil
}

func (c *Cloud) disableImageBlock(r *region, p *parameters) (element, *Failure) {
	if f := p.done(); f != nil {
		return element{}, f
	}
	if r.imageBlock != "unblocked" {
		r.imageBlock, r.unblocking = "unblocked", c.settings.Pending
	}
	return el("", text("imageBlockPublicAccessState", "unblocked")), nil
}

func (c *Cloud) snapshotBlockState(r *region, p *parameters) (element, *Failure) {
	if f := p.done(); f != nil {
		return element{}, f
	}
	return el("", text("state", r.snapBlock)), nil
}

func (c *Cloud) disableSnapshotBlock(r *region, p *parameters) (element, *Failure) {
	if f := p.done(); f != nil {
		return element{}, f
	}
	r.snapBlock = "unblocked"
	return el("", text("state", "unblocked")), nil
}

func tagSet(tags map[string]string) element {
	set := element{name: "tagSet"}
	for _, k := range slices.Sorted(keysOf(tags)) {
		set.kids = append(set.kids, el("item", text("key", k), text("value", tags[k])))
	}
	return set
}

func keysOf(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// page cuts a list as MaxResults and NextToken ask.
func page[T any](p *parameters, all []T) ([]T, string) {
	size, from := p.int("MaxResults"), p.int("NextToken")
	if size != 0 && (size < 5 || size > 1000) {
		p.fail(refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value greater than 5.", size))
	}
	if from < 0 || from > len(all) {
		p.fail(refuse("InvalidNextToken", "The token '%d' is invalid", from))
		return nil, ""
	}
	all = all[from:]
	if size == 0 || len(all) <= size {
		return all, ""
	}
	return all[:size], itoa(from + size)
}
