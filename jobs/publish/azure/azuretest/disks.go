package azuretest

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/crc64nvme"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// disk is a managed disk that is uploaded.
type disk struct {
	resource
	size  int64
	pages map[int64][]byte // of 512 bytes, by offset; others are zeros
	sas   string           // "" where nobody may write
	work  *operation
}

var diskName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}$`)

func (c *Cloud) diskID(name string) string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/disks/%s", Subscription, ResourceGroup, name)
}

func (c *Cloud) routeDisks(w http.ResponseWriter, r *http.Request, parts []string) *refusal {
	if len(parts) == 0 && r.Method == "GET" {
		var all []any
		for _, name := range sortedKeys(c.disks) {
			all = append(all, c.disks[name].resource)
		}
		answer(w, 200, map[string]any{"value": all})
		return nil
	}
	if len(parts) == 0 || !diskName.MatchString(parts[0]) {
		return refuse(400, "InvalidParameter", "The name of the disk is not valid.")
	}
	name, d := parts[0], c.disks[parts[0]]
	if d != nil {
		c.settle(d.work)
		d = c.disks[name] // a deletion may have ended
	}
	route := r.Method + " " + strings.Join(parts[1:], "/")
	switch {
	case route == "PUT ":
		return c.putDisk(w, r, name, d)
	case d == nil && route == "DELETE ":
		w.WriteHeader(204)
		return nil
	case d == nil:
		return refuse(404, "ResourceNotFound", "The Resource 'Microsoft.Compute/disks/%s' under resource group '%s' was not found.", name, ResourceGroup)
	case route == "GET ":
		answer(w, 200, d.resource)
		return nil
	case route == "PATCH ":
		return c.patchDisk(w, r, d)
	case route == "DELETE ":
		return c.deleteDisk(w, r, name, d)
	case route == "POST beginGetAccess":
		return c.grant(w, r, name, d)
	case route == "POST endGetAccess":
		c.begin(w, r, 202, nil, &operation{result: func() any { return nil }, finish: func() *refusal {
			d.sas = ""
			if d.text("properties.diskState") == "ActiveUpload" {
				d.properties()["diskState"] = "Unattached"
			}
			return nil
		}})
		return nil
	}
	return refuse(405, "MethodNotAllowed", "%s", route)
}

func (c *Cloud) putDisk(w http.ResponseWriter, r *http.Request, name string, have *disk) *refusal {
	var q resource
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return refuse(400, "InvalidRequestContent", "The request content was invalid: %v", err)
	}
	size, _ := q.at("properties.creationData.uploadSizeBytes").(float64)
	switch {
	case !slices.Contains(c.Locations, q.text("location")):
		return refuse(400, "LocationNotAvailableForResourceType", "The provided location '%s' is not available for resource type 'Microsoft.Compute/disks'.", q.text("location"))
	case q.text("properties.creationData.createOption") != "Upload":
		return refuse(400, "InvalidParameter", "createOption %q", q.text("properties.creationData.createOption"))
	case size < 20<<20+512 || int64(size)%(1<<20) != 512:
		return refuse(400, "InvalidParameter", "The value of parameter uploadSizeBytes is invalid: %v is not whole MiB and the VHD footer, 20972032 at least.", size)
	case q.at("properties.diskSizeGB") != nil:
		return refuse(400, "InvalidParameter", "diskSizeGB may not be given for an upload.")
	case q.text("properties.osType") != "Linux" || q.text("properties.hyperVGeneration") == "":
		return refuse(400, "InvalidParameter", "An OS disk needs osType and hyperVGeneration.")
	case have != nil && have.size != int64(size):
		return refuse(409, "PropertyChangeNotAllowed", "Changing property 'creationData.uploadSizeBytes' is not allowed.")
	case have != nil:
		return refuse(409, "Conflict", "Disk %s exists.", name)
	}
	d := &disk{resource: q, size: int64(size), pages: map[int64][]byte{}}
	q["id"], q["name"], q["type"] = c.diskID(name), name, "Microsoft.Compute/disks"
	p := q.properties()
	p["provisioningState"], p["diskState"], p["timeCreated"] = "Updating", "ReadyToUpload", time.Now().UTC().Format(time.RFC3339)
	p["diskSizeBytes"], p["uniqueId"] = d.size-512, token()
	c.disks[name] = d
	d.work = &operation{finish: func() *refusal { p["provisioningState"] = "Succeeded"; return nil }, result: func() any { return d.resource }}
	c.begin(w, r, 202, d.resource, d.work)
	return nil
}

func (c *Cloud) patchDisk(w http.ResponseWriter, r *http.Request, d *disk) *refusal {
	var q resource
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return refuse(400, "InvalidRequestContent", "The request content was invalid: %v", err)
	}
	c.begin(w, r, 202, d.resource, &operation{result: func() any { return d.resource }, finish: func() *refusal {
		if tags, ok := q["tags"]; ok {
			d.resource["tags"] = tags
		}
		return nil
	}})
	return nil
}

func (c *Cloud) deleteDisk(w http.ResponseWriter, r *http.Request, name string, d *disk) *refusal {
	switch {
	case d.sas != "":
		return refuse(409, "OperationNotAllowed", "There is an active shared access signature outstanding for disk %s. Call EndGetAccess before deleting the disk.", name)
	case c.Conflicts > 0:
		c.Conflicts--
		return refuse(409, "OperationNotAllowed", "Disk %s is being read by another operation.", name)
	case c.reads(name):
		return refuse(409, "OperationNotAllowed", "Disk %s is the source of an image version that is being created.", name)
	}
	d.work = &operation{finish: func() *refusal { delete(c.disks, name); return nil }}
	c.begin(w, r, 202, nil, d.work)
	return nil
}

// reads tells whether a version is being made of the disk.
func (c *Cloud) reads(name string) bool {
	for _, v := range c.versions {
		if v.text("properties.provisioningState") == "Creating" && v.source == name {
			return true
		}
	}
	return false
}

func (c *Cloud) grant(w http.ResponseWriter, r *http.Request, name string, d *disk) *refusal {
	var q resource
	_ = json.NewDecoder(r.Body).Decode(&q) // what is missing is refused below
	seconds, _ := q["durationInSeconds"].(float64)
	state := d.text("properties.diskState")
	switch {
	case q.text("access") != "Write" || seconds < 60 || seconds > 86400*60:
		return refuse(400, "InvalidParameter", "access %v for %v seconds", q["access"], q["durationInSeconds"])
	case d.text("properties.provisioningState") != "Succeeded" || state != "ReadyToUpload" && state != "ActiveUpload":
		return refuse(409, "OperationNotAllowed", "Disk %s is %s and cannot be uploaded to.", name, state)
	}
	c.begin(w, r, 202, nil, &operation{
		finish: func() *refusal {
			if d.sas == "" {
				d.sas = "sv=2018-03-28&sr=b&sig=" + token()
			}
			d.properties()["diskState"] = "ActiveUpload"
			return nil
		},
		result: func() any {
			return map[string]string{"accessSAS": cmp.Or(c.bare, c.server.URL) + "/blobs/" + name + "?" + d.sas}
		},
	})
	return nil
}

// Signatures returns those of all grants, which are secrets.
func (c *Cloud) Signatures() []string {
	c.Lock()
	defer c.Unlock()
	var all []string
	for _, d := range c.disks {
		if _, signature, ok := strings.Cut(d.sas, "sig="); ok {
			all = append(all, signature)
		}
	}
	return all
}

// blob is the page blob of a disk (Put Page and Get Page Ranges of the storage services' REST API).
func (c *Cloud) blob(w http.ResponseWriter, r *http.Request) {
	answer := c.putPage
	switch {
	case r.Method == "GET" && r.URL.Query().Get("comp") == "pagelist":
		answer = c.listPages
	case r.Header.Get("X-Ms-Page-Write") == "clear":
		answer = c.clearPages
	}
	status, code := answer(w, r)
	if code != "" {
		w.Header().Set("X-Ms-Error-Code", code)
	}
	if status != 200 { // else it is written
		w.WriteHeader(status)
	}
}

// granted finds the disk that a request to a page blob is about. It runs under the lock.
func (c *Cloud) granted(r *http.Request) (d *disk, status int, code string) {
	query := r.URL.Query()
	d = c.disks[strings.TrimPrefix(r.URL.Path, "/blobs/")]
	switch {
	case d == nil:
		return nil, 404, "ResourceNotFound"
	case d.sas == "" || query.Get("sig") == "" || !strings.HasSuffix(d.sas, "sig="+query.Get("sig")):
		return nil, 403, "AuthenticationFailed"
	case r.Header.Get("X-Ms-Version") == "":
		return nil, 400, "MissingRequiredHeader"
	}
	return d, 0, ""
}

// listPages lists the ranges of pages that were written, some at a time.
func (c *Cloud) listPages(w http.ResponseWriter, r *http.Request) (int, string) {
	c.Lock()
	defer c.Unlock()
	d, status, code := c.granted(r)
	if d == nil {
		return status, code
	}
	if c.NoList {
		return 403, "AuthorizationPermissionMismatch"
	}
	from, err := strconv.ParseInt("0"+r.URL.Query().Get("marker"), 10, 64)
	if err != nil {
		return 400, "InvalidQueryParameterValue"
	}
	var b bytes.Buffer
	b.WriteString("<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>")
	next, listed := "", 0
	for _, at := range slices.Sorted(maps.Keys(d.pages)) {
		if at < from || d.pages[at-512] != nil && at != from {
			continue
		}
		if listed == 3 { // the real one lists thousands
			next = strconv.FormatInt(at, 10)
			break
		}
		end := at
		for d.pages[end] != nil {
			end += 512
		}
		fmt.Fprintf(&b, "<PageRange><Start>%d</Start><End>%d</End></PageRange>", at, end-1)
		listed++
	}
	fmt.Fprintf(&b, "<NextMarker>%s</NextMarker></PageList>", next)
	w.Header().Set("Content-Type", "application/xml")
	_, _ = w.Write(b.Bytes())
	return 200, ""
}

// clearPages makes pages as if they were never written.
func (c *Cloud) clearPages(_ http.ResponseWriter, r *http.Request) (int, string) {
	c.Lock()
	defer c.Unlock()
	d, status, code := c.granted(r)
	if d == nil {
		return status, code
	}
	from, to, ok := parseRange(r.Header.Get("X-Ms-Range"), r.Header.Get("Range"))
	switch {
	case r.Method != "PUT" || r.URL.Query().Get("comp") != "page":
		return 400, "UnsupportedHttpVerb"
	case !ok || from%512 != 0 || (to+1)%512 != 0 || to < from || to >= d.size:
		return 416, "InvalidPageRange"
	case r.ContentLength > 0:
		return 400, "InvalidHeaderValue"
	}
	for at := from; at < to; at += 512 {
		delete(d.pages, at)
	}
	c.clears++
	return 201, ""
}

// Pieces returns how many writes of pages were taken.
func (c *Cloud) Pieces() int {
	c.Lock()
	defer c.Unlock()
	return c.writes
}

// Clears returns how often pages were cleared.
func (c *Cloud) Clears() int {
	c.Lock()
	defer c.Unlock()
	return c.clears
}

// ForgetPages has all disks lose what was written to them.
func (c *Cloud) ForgetPages() {
	c.Lock()
	defer c.Unlock()
	for _, d := range c.disks {
		clear(d.pages)
	}
}

// ReplaceDisks has all disks be others of the same names, with the same pages.
func (c *Cloud) ReplaceDisks() {
	c.Lock()
	defer c.Unlock()
	for _, d := range c.disks {
		d.properties()["uniqueId"] = token()
	}
}

// maxPages is what one Put Page takes, bytes.
const maxPages = 4 << 20

func (c *Cloud) putPage(w http.ResponseWriter, r *http.Request) (int, string) {
	data, done, err := publishtest.Body(r, maxPages+1)
	if c.Discard {
		defer done()
	}
	if err != nil {
		return 400, "RequestBodyIncomplete"
	}
	c.damage(data)
	sum := crc64nvme.Checksum(data)
	c.Lock()
	defer c.Unlock()
	d, status, code := c.granted(r)
	if d == nil {
		return status, code
	}
	from, to, ok := parseRange(r.Header.Get("X-Ms-Range"), r.Header.Get("Range"))
	switch {
	case r.Method != "PUT" || r.URL.Query().Get("comp") != "page" || r.Header.Get("X-Ms-Page-Write") != "update":
		return 400, "UnsupportedHttpVerb"
	case !ok || from%512 != 0 || (to+1)%512 != 0 || to < from:
		return 416, "InvalidPageRange"
	case to-from+1 > maxPages:
		return 413, "RequestBodyTooLarge"
	case to >= d.size:
		return 416, "InvalidPageRange"
	case int64(len(data)) != to-from+1:
		return 400, "InvalidHeaderValue"
	case r.Header.Get("X-Ms-Content-Crc64") == "":
		return 400, "MissingRequiredHeader" // the real one takes it without, debcloud shall not send it so
	case r.Header.Get("X-Ms-Content-Crc64") != encodeCRC(sum):
		return 400, "Crc64Mismatch"
	}
	for at := int64(0); at < int64(len(data)); at += 512 {
		if c.Discard && from+at != d.size-512 {
			continue
		}
		d.pages[from+at] = slices.Clone(data[at : at+512])
	}
	c.writes++
	if c.OnWrite != nil {
		c.OnWrite(c.writes)
	}
	w.Header().Set("X-Ms-Content-Crc64", encodeCRC(sum))
	return 201, ""
}

func (c *Cloud) damage(data []byte) {
	c.Lock()
	defer c.Unlock()
	if c.Damage > 0 && len(data) > 0 {
		c.Damage--
		data[len(data)/2] ^= 1
	}
}

func encodeCRC(sum uint64) string {
	return base64.StdEncoding.EncodeToString(binary.LittleEndian.AppendUint64(nil, sum))
}

func parseRange(headers ...string) (from, to int64, ok bool) {
	for _, h := range headers {
		a, b, found := strings.Cut(strings.TrimPrefix(h, "bytes="), "-")
		if !found {
			continue
		}
		x, err1 := strconv.ParseInt(a, 10, 64)
		y, err2 := strconv.ParseInt(b, 10, 64)
		return x, y, err1 == nil && err2 == nil
	}
	return 0, 0, false
}

// contents returns what the disk holds, where it was kept, without the footer, which is checked.
func (c *Cloud) contents(d *disk) ([]byte, *refusal) {
	f := d.pages[d.size-512]
	if !bytes.HasPrefix(f, []byte("conectix")) || binary.BigEndian.Uint32(f[60:]) != 2 || binary.BigEndian.Uint64(f[48:]) != uint64(d.size-512) {
		return nil, refuse(400, "InvalidParameter", "The disk is no fixed VHD of %d bytes.", d.size-512)
	}
	var sum uint32
	for i, b := range f {
		if i < 64 || i >= 68 {
			sum += uint32(b)
		}
	}
	if binary.BigEndian.Uint32(f[64:]) != ^sum {
		return nil, refuse(400, "InvalidParameter", "The footer's checksum is wrong.")
	}
	if c.Discard {
		return nil, nil
	}
	data := make([]byte, d.size-512)
	for at, page := range d.pages {
		if at < int64(len(data)) {
			copy(data[at:], page)
		}
	}
	return data, nil
}
