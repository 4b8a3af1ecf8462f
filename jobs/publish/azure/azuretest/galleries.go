package azuretest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// version is one version of an image in the gallery.
type version struct {
	resource
	definition string
	source     string // name of the disk
	data       []byte
	work       *operation
}

var (
	definitionName = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,78}[A-Za-z0-9])?$`)
	versionName    = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)$`)
)

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// routeGalleries takes a path from "galleries" on.
func (c *Cloud) routeGalleries(w http.ResponseWriter, r *http.Request, parts []string) *refusal {
	if len(parts) < 2 || parts[0] != "galleries" || parts[1] != Gallery {
		return refuse(404, "ResourceNotFound", "The Resource 'Microsoft.Compute/%s' under resource group '%s' was not found.", strings.Join(parts, "/"), ResourceGroup)
	}
	gallery := fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/galleries/%s", Subscription, ResourceGroup, Gallery)
	switch {
	case len(parts) == 2 && r.Method == "GET":
		answer(w, 200, resource{"id": gallery, "name": Gallery, "location": c.Locations[0], "properties": map[string]any{"provisioningState": "Succeeded"}})
		return nil
	case len(parts) == 3 && parts[2] == "images" && r.Method == "GET":
		var all []any
		for _, name := range sortedKeys(c.definitions) {
			all = append(all, c.definitions[name])
		}
		answer(w, 200, map[string]any{"value": all})
		return nil
	case len(parts) == 4 && parts[2] == "images":
		return c.definition(w, r, gallery+"/images/"+parts[3], parts[3])
	case len(parts) == 5 && parts[4] == "versions" && r.Method == "GET":
		return c.listVersions(w, r, parts[3])
	case len(parts) == 6 && parts[4] == "versions":
		return c.version(w, r, gallery+"/images/"+parts[3]+"/versions/"+parts[5], parts[3], parts[5])
	}
	return refuse(404, "InvalidResourceType", "%s", r.URL.Path)
}

func (c *Cloud) definition(w http.ResponseWriter, r *http.Request, id, name string) *refusal {
	have := c.definitions[name]
	switch {
	case r.Method == "GET" && have != nil:
		answer(w, 200, have)
		return nil
	case r.Method == "GET":
		return refuse(404, "ResourceNotFound", "The Resource 'Microsoft.Compute/galleries/%s/images/%s' was not found.", Gallery, name)
	case r.Method != "PUT":
		return refuse(405, "MethodNotAllowed", "%s", r.Method)
	case !definitionName.MatchString(name):
		return refuse(400, "InvalidParameter", "The entity name 'galleryImageName' is invalid.")
	}
	var q resource
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return refuse(400, "InvalidRequestContent", "The request content was invalid: %v", err)
	}
	if q.text("location") != c.Locations[0] || q.text("properties.osType") != "Linux" || q.text("properties.osState") != "Generalized" && q.text("properties.osState") != "Specialized" {
		return refuse(400, "InvalidParameter", "location, osType and osState are required.")
	}
	triple := []string{q.text("properties.identifier.publisher"), q.text("properties.identifier.offer"), q.text("properties.identifier.sku")}
	if slices.Contains(triple, "") {
		return refuse(400, "InvalidParameter", "Required parameter 'galleryImage.properties.identifier' is missing.")
	}
	for other, d := range c.definitions {
		if other != name && slices.Equal(triple, []string{d.text("properties.identifier.publisher"), d.text("properties.identifier.offer"), d.text("properties.identifier.sku")}) {
			return refuse(409, "Conflict", "The gallery image %s has the same publisher, offer and sku.", other)
		}
	}
	for _, fixed := range []string{"properties.architecture", "properties.hyperVGeneration", "properties.osState", "properties.identifier"} {
		if have != nil && !reflect.DeepEqual(have.at(fixed), q.at(fixed)) {
			return refuse(409, "PropertyChangeNotAllowed", "Changing property '%s' is not allowed.", fixed)
		}
	}
	q["id"], q["name"] = id, name
	q.properties()["provisioningState"] = "Creating"
	c.definitions[name] = q
	c.begin(w, r, 201, q, &operation{finish: func() *refusal { q.properties()["provisioningState"] = "Succeeded"; return nil }})
	return nil
}

func (c *Cloud) listVersions(w http.ResponseWriter, _ *http.Request, definition string) *refusal {
	all := []any{}
	for _, name := range sortedKeys(c.versions) {
		if v := c.versions[name]; v.definition == definition {
			all = append(all, v.shown(false))
		}
	}
	answer(w, 200, map[string]any{"value": all})
	return nil
}

// shown is the version without what is only told when it is asked for.
func (v *version) shown(replication bool) resource {
	if replication {
		return v.resource
	}
	out := resource(maps.Clone(v.resource))
	p := maps.Clone(v.properties())
	delete(p, "replicationStatus")
	out["properties"] = p
	return out
}

func (c *Cloud) version(w http.ResponseWriter, r *http.Request, id, definition, name string) *refusal {
	key := definition + "/" + name
	v := c.versions[key]
	if v != nil {
		c.settle(v.work)
		v = c.versions[key]
	}
	switch r.Method {
	case "GET":
		if v == nil {
			return refuse(404, "ResourceNotFound", "The Resource 'Microsoft.Compute/galleries/%s/images/%s/versions/%s' was not found.", Gallery, definition, name)
		}
		answer(w, 200, v.shown(r.URL.Query().Get("$expand") == "ReplicationStatus"))
		return nil
	case "PUT":
		return c.putVersion(w, r, id, definition, name, v)
	case "DELETE":
		if v == nil {
			w.WriteHeader(204)
			return nil
		}
		if s := v.text("properties.provisioningState"); s == "Creating" || s == "Updating" {
			return refuse(409, "Conflict", "The gallery image version %s is %s.", name, s)
		}
		v.properties()["provisioningState"] = "Deleting"
		v.work = &operation{finish: func() *refusal { delete(c.versions, key); return nil }}
		c.begin(w, r, 202, nil, v.work)
		return nil
	}
	return refuse(405, "MethodNotAllowed", "%s", r.Method)
}

func (c *Cloud) putVersion(w http.ResponseWriter, r *http.Request, id, definition, name string, have *version) *refusal {
	var q resource
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return refuse(400, "InvalidRequestContent", "The request content was invalid: %v", err)
	}
	d := c.definitions[definition]
	if d == nil {
		return refuse(404, "ParentResourceNotFound", "Can not perform requested operation on nested resource. Parent resource '%s/%s' not found.", Gallery, definition)
	}
	for _, part := range append(versionName.FindStringSubmatch(name), "")[:1] {
		if part == "" {
			return refuse(400, "InvalidParameter", "The entity name 'galleryImageVersionName' %q is invalid: it should be three integers.", name)
		}
	}
	for _, number := range versionName.FindStringSubmatch(name)[1:] {
		if _, err := strconv.ParseInt(number, 10, 32); err != nil {
			return refuse(400, "InvalidParameter", "%q is no 32-bit integer.", number)
		}
	}
	if x := c.demandRegions(q); x != nil {
		return x
	}
	if have != nil {
		return c.changeVersion(w, r, q, have)
	}
	if c.Quota > 0 && len(c.versions) >= c.Quota {
		return refuse(409, "QuotaExceeded", "The gallery has reached its limit of %d image versions.", c.Quota)
	}
	source := q.text("properties.storageProfile.osDiskImage.source.id")
	disk := c.disks[source[strings.LastIndex(source, "/")+1:]]
	switch {
	case disk == nil || disk.text("id") != source:
		return refuse(404, "NotFound", "The source %q was not found.", source)
	case disk.text("location") != q.text("location"):
		return refuse(400, "InvalidParameter", "The source is in %s, the version in %s.", disk.text("location"), q.text("location"))
	case disk.text("properties.diskState") != "Unattached":
		return refuse(409, "Conflict", "The source disk is %s.", disk.text("properties.diskState"))
	case disk.text("properties.hyperVGeneration") != d.text("properties.hyperVGeneration"):
		return refuse(400, "BadRequest", "The HyperVGeneration of the source does not match the definition's.")
	case !strings.EqualFold(disk.text("properties.supportedCapabilities.architecture"), d.text("properties.architecture")):
		return refuse(400, "BadRequest", "The architecture of the source does not match the definition's.")
	}
	data, x := c.contents(disk)
	if x != nil {
		return x
	}
	v := &version{resource: q, definition: definition, source: disk.text("name"), data: data}
	q["id"], q["name"] = id, name
	p := q.properties()
	p["provisioningState"] = "Creating"
	profile := p["publishingProfile"].(map[string]any)
	profile["publishedDate"] = time.Now().UTC().Format(time.RFC3339)
	v.work = &operation{finish: func() *refusal { return c.replicate(v) }}
	c.versions[definition+"/"+name] = v
	c.begin(w, r, 201, v.shown(false), v.work)
	return nil
}

func (c *Cloud) demandRegions(q resource) *refusal {
	regions, _ := q.at("properties.publishingProfile.targetRegions").([]any)
	home := false
	for _, region := range regions {
		name := normal(resource(region.(map[string]any)).text("name"))
		if !slices.Contains(c.Locations, name) {
			return refuse(400, "InvalidParameter", "The target region '%s' is not available for the subscription.", name)
		}
		home = home || name == normal(q.text("location"))
	}
	if !home {
		return refuse(400, "InvalidParameter", "The publishing profile's target regions must contain the location of the version, '%s'.", q.text("location"))
	}
	return nil
}

func normal(region string) string { return strings.ToLower(strings.ReplaceAll(region, " ", "")) }

func (c *Cloud) changeVersion(w http.ResponseWriter, r *http.Request, q resource, v *version) *refusal {
	if s := v.text("properties.provisioningState"); s != "Succeeded" && s != "Failed" {
		return refuse(409, "Conflict", "The gallery image version is %s.", s)
	}
	if q.text("properties.storageProfile.osDiskImage.source.id") != v.text("properties.storageProfile.osDiskImage.source.id") {
		return refuse(409, "PropertyChangeNotAllowed", "Changing property 'galleryImageVersion.properties.storageProfile.osDiskImage.source.id' is not allowed.")
	}
	q["id"], q["name"] = v.resource["id"], v.resource["name"]
	p := q.properties()
	p["storageProfile"] = v.properties()["storageProfile"]
	p["replicationStatus"] = v.properties()["replicationStatus"]
	p["publishingProfile"].(map[string]any)["publishedDate"] = v.at("properties.publishingProfile.publishedDate")
	p["provisioningState"] = "Updating"
	v.resource = q
	v.work = &operation{finish: func() *refusal { return c.replicate(v) }}
	c.begin(w, r, 200, v.shown(false), v.work)
	return nil
}

// replicate brings the version to its regions.
func (c *Cloud) replicate(v *version) *refusal {
	var summary []any
	state := "Completed"
	var failed []string
	for _, region := range v.at("properties.publishingProfile.targetRegions").([]any) {
		m := region.(map[string]any)
		name := normal(m["name"].(string))
		one := map[string]any{"region": cmp.Or(display(name), name), "state": "Completed", "progress": 100, "details": ""}
		if slices.Contains(c.Broken, name) {
			one["state"], one["progress"], one["details"] = "Failed", 0, "Replication failed due to an internal error."
			failed = append(failed, name)
			state = "Failed"
		}
		summary = append(summary, one)
	}
	v.properties()["replicationStatus"] = map[string]any{"aggregatedState": state, "summary": summary}
	v.properties()["provisioningState"] = "Succeeded"
	if len(failed) > 0 {
		v.properties()["provisioningState"] = "Failed"
		return refuse(500, "ReplicationFailed", "Replication to %s failed.", strings.Join(failed, ", "))
	}
	return nil
}

// letTimePass ends all operations: they go on whether someone looks or not.
func (c *Cloud) letTimePass() {
	for _, o := range c.operations {
		for !o.done {
			o.advance()
		}
	}
}

// Version is what the gallery has of one version.
type Version struct {
	Definition, Name, State string
	Tags                    map[string]string
	ExcludeFromLatest       bool
	EndOfLife               string
	Regions                 []string
	Data                    []byte
}

// Versions lists all that the gallery has.
func (c *Cloud) Versions() []Version {
	c.Lock()
	defer c.Unlock()
	c.letTimePass()
	var all []Version
	for _, key := range sortedKeys(c.versions) {
		v := c.versions[key]
		one := Version{Definition: v.definition, Name: v.text("name"), State: v.text("properties.provisioningState"), Tags: map[string]string{}, EndOfLife: v.text("properties.publishingProfile.endOfLifeDate"), Data: v.data}
		one.ExcludeFromLatest, _ = v.at("properties.publishingProfile.excludeFromLatest").(bool)
		if tags, ok := v.resource["tags"].(map[string]any); ok {
			for k, text := range tags {
				one.Tags[k] = text.(string)
			}
		}
		for _, region := range v.at("properties.publishingProfile.targetRegions").([]any) {
			one.Regions = append(one.Regions, normal(region.(map[string]any)["name"].(string)))
		}
		all = append(all, one)
	}
	return all
}

// Definitions describes all definitions, and Disks all disks, one a line.
func (c *Cloud) Definitions() []string {
	c.Lock()
	defer c.Unlock()
	c.letTimePass()
	var all []string
	for _, name := range sortedKeys(c.definitions) {
		text, _ := json.Marshal(c.definitions[name])
		all = append(all, "definition "+string(text))
	}
	return all
}

// Disks names all disks and their states.
func (c *Cloud) Disks() []string {
	c.Lock()
	defer c.Unlock()
	c.letTimePass()
	var all []string
	for _, name := range sortedKeys(c.disks) {
		all = append(all, "disk "+name+" "+c.disks[name].text("properties.diskState"))
	}
	return all
}

// Drop removes a version, as someone could.
func (c *Cloud) Drop(definition, name string) {
	c.Lock()
	defer c.Unlock()
	delete(c.versions, definition+"/"+name)
}

// AgeDisks has all disks be older by some time.
func (c *Cloud) AgeDisks(by time.Duration) {
	c.Lock()
	defer c.Unlock()
	for _, d := range c.disks {
		made, _ := time.Parse(time.RFC3339, d.text("properties.timeCreated")) // putDisk wrote it
		d.properties()["timeCreated"] = made.Add(-by).Format(time.RFC3339)
	}
}

// SetTag changes a tag of a version, and removes it where the value is "".
func (c *Cloud) SetTag(definition, name, tag, value string) {
	c.Lock()
	defer c.Unlock()
	tags := c.versions[definition+"/"+name].resource["tags"].(map[string]any)
	tags[tag] = value
	if value == "" {
		delete(tags, tag)
	}
}

// Define makes an image definition, as someone else could.
func (c *Cloud) Define(name string, properties map[string]any) {
	c.Lock()
	defer c.Unlock()
	c.definitions[name] = resource{"name": name, "location": c.Locations[0], "properties": properties}
}
