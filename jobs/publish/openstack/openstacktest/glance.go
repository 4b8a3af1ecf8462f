package openstacktest

import (
	"crypto/md5" // Glance still tells it, as "checksum"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"salsa.debian.org/cloud-team/debcloud/internal/qcow2/qcow2test"
)

// Glance is the image service of one region.
type Glance struct {
	// Import lists the import methods that are offered; empty: only direct uploads work.
	Import []string
	// Converts tells that an import makes a raw image out of a qcow2 one, as its plugin for stores on Ceph does.
	Converts bool
	// Quota is how many images the project may have; 0: as many as it likes.
	Quota int
	// Polls is after how many looks at an image an import is done, and Lag how many listings a new image is missing in.
	Polls, Lag int
	// Hash is what images are hashed by, sha512 or sha256: hashing_algorithm of its configuration.
	Hash string
	// Spoil lets the store keep other bytes than were sent.
	Spoil bool
	// Page is how many images a listing shows at once.
	Page int
	// Discard tells that images are hashed, not kept. They cannot be converted then.
	Discard bool

	mu     sync.Mutex
	images map[string]*stored
	order  []string
	gone   map[string]bool // identifiers of deleted images, which Glance never takes again
	clock  time.Time
}

type stored struct {
	attributes map[string]any // as they are answered, custom properties among them
	data       []byte
	staged     *content
	polls, lag int
	old        map[string]any // attributes that an import task writes back when it ends
}

func newGlance() *Glance {
	return &Glance{Hash: "sha512", Import: []string{"glance-direct", "web-download"}, Polls: 1, Page: 3, images: map[string]*stored{}, gone: map[string]bool{}, clock: time.Now().Add(-time.Minute)}
}

// readOnly are attributes that no client may set.
var readOnly = []string{"checksum", "created_at", "direct_url", "file", "os_hash_algo", "os_hash_value", "schema", "self", "size", "status", "stores", "updated_at", "virtual_size", "locations"}

// typed are the attributes that are more than custom properties, with what they must be.
var typed = map[string]func(v any) bool{
	"id": func(v any) bool {
		s, ok := v.(string)
		_, err := uuid.Parse(s)
		return ok && err == nil && len(s) == 36
	},
	"name":             func(v any) bool { s, ok := v.(string); return ok && len(s) <= 255 },
	"visibility":       func(v any) bool { return slices.Contains([]any{"private", "public", "shared", "community"}, v) },
	"os_hidden":        isBool,
	"protected":        isBool,
	"container_format": func(v any) bool { return v == nil || slices.Contains([]any{"bare", "ami", "ovf", "ova", "docker"}, v) },
	"disk_format": func(v any) bool {
		return v == nil || slices.Contains([]any{"raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso"}, v)
	},
	"min_disk": isNumber,
	"min_ram":  isNumber,
	"owner":    func(v any) bool { _, ok := v.(string); return ok },
	"tags":     isTags,
}

func isBool(v any) bool   { _, ok := v.(bool); return ok }
func isNumber(v any) bool { n, ok := v.(float64); return ok && n >= 0 && n == float64(int64(n)) }
func isTags(v any) bool {
	list, ok := v.([]any)
	for _, tag := range list {
		if s, isString := tag.(string); !isString || len(s) > 255 {
			return false
		}
	}
	return ok
}

func (g *Glance) tick() string {
	g.clock = g.clock.Add(time.Second)
	return stamp(g.clock)
}

func (g *Glance) serve(w http.ResponseWriter, r *http.Request, path string, u *user) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "v2" {
		parts = parts[1:]
	}
	route := r.Method + " " + strings.Join(parts, "/")
	switch {
	case route == "GET ":
		answer(w, http.StatusMultipleChoices, map[string]any{"versions": []any{map[string]any{"id": "v2.15", "status": "CURRENT", "links": []any{map[string]string{"rel": "self", "href": "http://" + r.Host + strings.TrimSuffix(r.URL.Path, "/") + "/v2/"}}}}})
	case route == "GET info/import":
		answer(w, 200, map[string]any{"import-methods": map[string]any{"description": "Import methods available.", "type": "array", "value": g.Import}})
	case route == "POST images":
		g.create(w, r, u)
	case route == "GET images":
		g.list(w, r, u)
	case len(parts) == 2 && parts[0] == "images":
		g.one(w, r, parts[1], u)
	case len(parts) == 3 && parts[0] == "images":
		g.data(w, r, parts[1], r.Method+" "+parts[2])
	default:
		refuse(w, 404, "The resource could not be found.")
	}
}

func (g *Glance) create(w http.ResponseWriter, r *http.Request, u *user) {
	var q map[string]any
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse(w, 400, "Malformed JSON in request body.")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !u.has("member") {
		refuse(w, 403, "You are not authorized to complete add_image action.")
		return
	}
	for name, v := range q {
		if code, text := g.judge(name, v, u); code != 0 {
			refuse(w, code, "%s", text)
			return
		}
	}
	id, _ := q["id"].(string)
	if id == "" {
		id = uuid.NewString()
	}
	if g.images[id] != nil || g.gone[id] {
		refuse(w, 409, "Image ID %s already exists!", id)
		return
	}
	if g.Quota > 0 && len(g.images) >= g.Quota {
		refuse(w, 413, "Project %s is over a limit for [Resource image_count_total is over limit of %d due to current usage %d and delta 1]", u.project, g.Quota, len(g.images))
		return
	}
	now := g.tick()
	a := map[string]any{
		"visibility": "shared", "os_hidden": false, "protected": false, "min_disk": 0, "min_ram": 0, "tags": []any{}, "name": nil,
		"container_format": nil, "disk_format": nil, "owner": u.project, "status": "queued", "size": nil, "virtual_size": nil, "checksum": nil,
		"os_hash_algo": nil, "os_hash_value": nil, "created_at": now, "updated_at": now,
		"self": "/v2/images/" + id, "file": "/v2/images/" + id + "/file", "schema": "/v2/schemas/image",
	}
	for name, v := range q {
		a[name] = v
	}
	a["id"] = id
	g.images[id] = &stored{attributes: a, lag: g.Lag}
	g.order = append(g.order, id)
	if len(g.Import) > 0 {
		w.Header().Set("OpenStack-image-import-methods", strings.Join(g.Import, ","))
	}
	w.Header().Set("Location", "/v2/images/"+id)
	answer(w, 201, a)
}

// judge says why an attribute may not have a value.
func (g *Glance) judge(name string, v any, u *user) (int, string) {
	if slices.Contains(readOnly, name) {
		return 403, fmt.Sprintf("Attribute '%s' is read-only.", name)
	}
	if strings.HasPrefix(name, "os_glance") {
		return 403, fmt.Sprintf("Attribute '%s' is reserved.", name)
	}
	if right, ok := typed[name]; ok {
		if !right(v) {
			return 400, fmt.Sprintf("Provided object does not match schema 'image': %v is not valid for '%s'", v, name)
		}
		if name == "visibility" && v == "public" && !u.has("admin") {
			return 403, "You are not authorized to complete publicize_image action."
		}
		return 0, ""
	}
	if s, ok := v.(string); !ok || len(s) > 255 || name == "" || len(name) > 255 {
		return 400, fmt.Sprintf("Provided object does not match schema 'image': %v is not of type 'string' for '%s'", v, name)
	}
	return 0, ""
}

func (g *Glance) list(w http.ResponseWriter, r *http.Request, u *user) {
	q := r.URL.Query()
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range q {
		if !slices.Contains([]string{"name", "owner", "os_hidden", "visibility", "status", "tag", "limit", "marker", "sort", "sort_key", "sort_dir"}, key) && !strings.HasPrefix(key, "debcloud_") {
			refuse(w, 400, "Invalid filter %s", key)
			return
		}
	}
	limit := g.Page
	if n, err := strconv.Atoi(q.Get("limit")); err == nil && n < limit {
		limit = n
	}
	images, marker := []any{}, q.Get("marker")
	var next string
	for _, id := range slices.Backward(g.order) { // newest first, as Glance does by default
		s := g.images[id]
		if s == nil || !s.matches(q.Get("os_hidden") == "true", q) || !s.visible(u) {
			continue
		}
		if s.lag > 0 {
			s.lag--
			continue
		}
		if marker != "" {
			if id == marker {
				marker = ""
			}
			continue
		}
		if len(images) == limit {
			q.Set("marker", images[limit-1].(map[string]any)["id"].(string))
			next = "/v2/images?" + q.Encode()
			break
		}
		images = append(images, s.attributes)
	}
	body := map[string]any{"images": images, "schema": "/v2/schemas/images", "first": "/v2/images"}
	if next != "" {
		body["next"] = next
	}
	answer(w, 200, body)
}

func (s *stored) visible(u *user) bool {
	return s.attributes["owner"] == u.project || s.attributes["visibility"] == "public"
}

func (s *stored) matches(hidden bool, q map[string][]string) bool {
	if s.attributes["os_hidden"] != hidden {
		return false
	}
	for key, values := range q {
		switch {
		case key == "tag":
			for _, v := range values {
				if !slices.Contains(s.attributes["tags"].([]any), any(v)) {
					return false
				}
			}
		case key == "name" || key == "owner" || key == "visibility" || key == "status" || strings.HasPrefix(key, "debcloud_"):
			if s.attributes[key] != values[0] {
				return false
			}
		}
	}
	return true
}

func (g *Glance) one(w http.ResponseWriter, r *http.Request, id string, u *user) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.images[id]
	if s == nil || !s.visible(u) {
		refuse(w, 404, "Failed to find image %s to %s", id, strings.ToLower(r.Method))
		return
	}
	switch r.Method {
	case "GET":
		s.poll(g)
		answer(w, 200, s.attributes)
	case "PATCH":
		g.patch(w, r, s, u)
	case "DELETE":
		if s.attributes["protected"] == true {
			refuse(w, 403, "Image %s is protected and cannot be deleted.", id)
			return
		}
		delete(g.images, id)
		g.gone[id] = true
		w.WriteHeader(204)
	default:
		refuse(w, 405, "This action is not allowed here.")
	}
}

// poll lets an import go on.
func (s *stored) poll(g *Glance) {
	if s.old != nil {
		s.attributes, s.old = s.old, nil
		delete(s.attributes, "os_glance_import_task")
	}
	if s.attributes["status"] != "importing" {
		return
	}
	if s.polls > 0 {
		s.polls--
		return
	}
	c := s.staged
	s.staged = nil
	if g.Converts && s.attributes["disk_format"] == "qcow2" {
		data, err := qcow2test.Raw(c.data)
		if err != nil {
			s.attributes["status"] = "queued"
			s.attributes["os_glance_failed_import"] = "file"
			delete(s.attributes, "os_glance_import_task")
			return
		}
		s.attributes["disk_format"] = "raw"
		c = g.contentOf(data)
	}
	g.keep(s, c)
	s.old = maps.Clone(s.attributes)
}

// content is what was sent of an image.
type content struct {
	data  []byte // unless it is discarded
	size  int64
	begin string // its first bytes
	sum   []byte
}

func (g *Glance) newHash() hash.Hash {
	if g.Hash == "sha256" {
		return sha256.New()
	}
	return sha512.New()
}

func (g *Glance) contentOf(data []byte) *content {
	h := g.newHash()
	h.Write(data)
	return &content{data, int64(len(data)), string(data[:min(4, len(data))]), h.Sum(nil)}
}

func (g *Glance) receive(r io.Reader) (*content, error) {
	if !g.Discard {
		data, err := io.ReadAll(r)
		return g.contentOf(data), err
	}
	begin := make([]byte, 4)
	n, err := io.ReadFull(r, begin)
	if err != nil {
		return nil, err
	}
	h := g.newHash()
	h.Write(begin)
	rest, err := io.CopyBuffer(h, r, make([]byte, 1<<20))
	return &content{size: int64(n) + rest, begin: string(begin), sum: h.Sum(nil)}, err
}

// keep puts content into the store.
func (g *Glance) keep(s *stored, c *content) {
	if g.Spoil && c.size > 0 {
		c.data[c.size/2] ^= 1
		c = g.contentOf(c.data)
	}
	s.data = c.data
	sum5 := md5.Sum(c.data)
	s.attributes["size"], s.attributes["checksum"] = c.size, hex.EncodeToString(sum5[:])
	s.attributes["os_hash_algo"], s.attributes["os_hash_value"] = g.Hash, hex.EncodeToString(c.sum)
	s.attributes["status"], s.attributes["updated_at"] = "active", g.tick()
}

type change struct {
	Op, Path string
	Value    any
}

func (g *Glance) patch(w http.ResponseWriter, r *http.Request, s *stored, u *user) {
	if r.Header.Get("Content-Type") != "application/openstack-images-v2.1-json-patch" {
		refuse(w, 415, "Unsupported media type %q", r.Header.Get("Content-Type"))
		return
	}
	var changes []change
	if err := json.NewDecoder(r.Body).Decode(&changes); err != nil {
		refuse(w, 400, "Malformed JSON in request body.")
		return
	}
	fresh := map[string]any{}
	for k, v := range s.attributes {
		fresh[k] = v
	}
	for _, c := range changes {
		name := strings.NewReplacer("~1", "/", "~0", "~").Replace(strings.TrimPrefix(c.Path, "/"))
		_, there := fresh[name]
		if c.Op != "remove" {
			if code, text := g.judge(name, c.Value, u); code != 0 {
				refuse(w, code, "%s", text)
				return
			}
		}
		switch {
		case name == "id" || name == "owner":
			refuse(w, 403, "Attribute '%s' is read-only.", name)
			return
		case c.Op != "add" && !there:
			refuse(w, 409, "Property %s does not exist.", name)
			return
		case c.Op == "remove":
			delete(fresh, name)
		default:
			fresh[name] = c.Value
		}
	}
	fresh["updated_at"] = g.tick()
	s.attributes = fresh
	answer(w, 200, fresh)
}

// data takes and gives the bytes of images.
func (g *Glance) data(w http.ResponseWriter, r *http.Request, id, route string) {
	g.mu.Lock()
	s := g.images[id]
	if s == nil {
		g.mu.Unlock()
		refuse(w, 404, "No image found with ID %s", id)
		return
	}
	switch route {
	case "PUT file":
		g.take(w, r, id, s, "saving")
	case "PUT stage":
		if !slices.Contains(g.Import, "glance-direct") {
			g.mu.Unlock()
			refuse(w, 404, "The resource could not be found.")
			return
		}
		g.take(w, r, id, s, "uploading")
	case "POST import":
		defer g.mu.Unlock()
		g.importImage(w, r, s)
	case "GET file":
		data, status := s.data, s.attributes["status"]
		g.mu.Unlock()
		if status != "active" {
			w.WriteHeader(204)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(data)
	default:
		g.mu.Unlock()
		refuse(w, 404, "The resource could not be found.")
	}
}

// take reads data for an image that waits for it. The lock is held when it is called, not while data comes, and not after.
func (g *Glance) take(w http.ResponseWriter, r *http.Request, id string, s *stored, status string) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	was := s.attributes["status"]
	code, text := 0, ""
	switch {
	case kind != "application/octet-stream":
		code, text = 415, "Unsupported media type"
	case was != "queued":
		code, text = 409, fmt.Sprintf("Image status transition from %s to %s is not allowed", was, status)
	case s.attributes["disk_format"] == nil || s.attributes["container_format"] == nil:
		code, text = 400, "Properties disk_format, container_format must be set prior to saving data."
	}
	if code != 0 {
		g.mu.Unlock()
		refuse(w, code, "%s", text)
		return
	}
	s.attributes["status"] = status
	g.mu.Unlock()
	c, err := g.receive(r.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.images[id] == nil:
		refuse(w, 410, "Image %s could not be found after upload. The image may have been deleted during the upload.", id)
	case err != nil:
		s.attributes["status"] = "queued"
		refuse(w, 400, "Client disconnected before sending all data to backend")
	case s.attributes["disk_format"] == "qcow2" && c.begin != "QFI\xfb":
		s.attributes["status"] = "queued"
		refuse(w, 415, "Image content did not match disk_format qcow2")
	case status == "uploading":
		s.staged = c
		s.attributes["size"] = c.size
		w.WriteHeader(204)
	default:
		g.keep(s, c)
		w.WriteHeader(204)
	}
}

func (g *Glance) importImage(w http.ResponseWriter, r *http.Request, s *stored) {
	var q struct {
		Method *struct{ Name, URI string }
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Method == nil {
		refuse(w, 400, "Import request requires a 'method' field.")
		return
	}
	switch {
	case q.Method.Name != "glance-direct" || !slices.Contains(g.Import, "glance-direct"):
		refuse(w, 400, "Unknown import method name '%s'.", q.Method.Name)
	case s.attributes["status"] != "uploading" || s.staged == nil:
		refuse(w, 409, "Import operation conflicts with current image status %v: only images with status 'uploading' can be imported", s.attributes["status"])
	default:
		s.attributes["status"], s.polls = "importing", g.Polls
		s.attributes["os_glance_import_task"] = uuid.NewString()
		w.WriteHeader(202)
	}
}

// Image is what a Glance has of one image.
type Image struct {
	ID, Name, Status, Visibility string
	Hidden, Protected            bool
	Tags                         []string
	Properties                   map[string]string
	Data                         []byte
}

// Images lists all that the service has, whoever may see them, in the order in which they were made.
func (g *Glance) Images() []Image {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Image
	for _, id := range g.order {
		s := g.images[id]
		if s == nil {
			continue
		}
		i := Image{ID: id, Hidden: s.attributes["os_hidden"].(bool), Protected: s.attributes["protected"].(bool), Properties: map[string]string{}, Data: s.data}
		for name, v := range s.attributes {
			text, isString := v.(string)
			switch {
			case name == "name":
				i.Name = text
			case name == "status":
				i.Status = text
			case name == "visibility":
				i.Visibility = text
			case isString:
				i.Properties[name] = text
			}
		}
		for _, tag := range s.attributes["tags"].([]any) {
			i.Tags = append(i.Tags, tag.(string))
		}
		all = append(all, i)
	}
	return all
}

// Set changes an attribute, as an operator could with the database.
func (g *Glance) Set(id, name string, v any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.images[id].attributes[name] = v
}

// Delete removes an image, as an operator can.
func (g *Glance) Delete(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.images, id)
	g.gone[id] = true
}

// Remove takes a property away.
func (g *Glance) Remove(id, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.images[id].attributes, name)
}

// Put makes an image of the project that someone else made, with the given attributes.
func (g *Glance) Put(attributes map[string]any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	id := uuid.NewString()
	now := g.tick()
	a := map[string]any{
		"id": id, "status": "active", "owner": ProjectID, "visibility": "private", "os_hidden": false, "protected": false, "tags": []any{},
		"min_disk": 0, "min_ram": 0, "size": 1, "created_at": now, "updated_at": now,
	}
	for name, v := range attributes {
		a[name] = v
	}
	g.images[id] = &stored{attributes: a}
	g.order = append(g.order, id)
}
