package google

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	fakeHost    = "https://google.test"
	fakeBucket  = "images-being-made"
	fakeIDToken = "id-token-of-a-job"
	fakeToken   = "access-token-of-the-account"
)

// fake is one project of Google, and refuses what the real one refuses.
type fake struct {
	mu       sync.Mutex
	images   map[string]*fakeImage
	objects  map[string]*fakeObject
	sessions map[string]*fakeSession
	ops      map[string]*fakeOp
	last     int
	requests []string

	lacks    []string          // rights that testIamPermissions does not grant
	fails    map[string]string // operation kind → code of its error
	idToken  string            // that the token service takes; "" for fakeIDToken
	conflict int               // so many setIamPolicy find that someone else was quicker
	ahead    time.Duration     // of our clock is Google's
	lag      int               // so many listings do not show a new image
	stuck    string            // what never ends: "image", or a kind of operation
	quick    bool              // operations end at the first look
	spoil    bool              // objects arrive with other bytes than were sent
	// sourceFirst has insert look for the object before it looks whether the name is taken.
	sourceFirst bool
	// bucket, where it is set, opens objects that lie elsewhere than in objects.
	bucket func(name string) (io.ReadCloser, error)
}

type fakeImage struct {
	computeImage
	policy map[string]any
	looks  int // until it is ready
	lag    int // listings that do not show it yet
	data   string
}

type fakeObject struct {
	storageObject
	data []byte
}

type fakeSession struct {
	object storageObject
	data   []byte
	done   *fakeObject
}

type fakeOp struct {
	operation
	waits int
	stuck bool
	end   func()
}

func newFake() *fake {
	return &fake{images: map[string]*fakeImage{}, objects: map[string]*fakeObject{}, sessions: map[string]*fakeSession{}, ops: map[string]*fakeOp{}, fails: map[string]string{}}
}

// RoundTrip implements http.RoundTripper.
func (f *fake) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := httptest.NewRecorder()
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
		r.Body.Close()
	}
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	f.serve(w, r, body)
	return w.Result(), nil
}

func refuse(w http.ResponseWriter, status int, reason, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	message := fmt.Sprintf(format, args...)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": status, "message": message, "errors": []any{map[string]string{"reason": reason, "message": message}}}})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request, body []byte) {
	path := r.URL.EscapedPath()
	switch {
	case path == "/v1/token":
		f.exchange(w, r, body)
		return
	case path == "/token":
		f.login(w, body)
		return
	case r.Header.Get("Authorization") == "Bearer federated" && strings.HasSuffix(path, ":generateAccessToken"):
		var in struct{ Scope []string }
		if json.Unmarshal(body, &in) != nil || len(in.Scope) != 1 || in.Scope[0] != cloudScope || !strings.Contains(path, "/serviceAccounts/publisher@project.example:") {
			refuse(w, 400, "invalid", "scope %q for %s", in.Scope, path)
			return
		}
		reply(w, map[string]string{"accessToken": fakeToken, "expireTime": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)})
		return
	case r.Header.Get("Authorization") != "Bearer "+fakeToken:
		refuse(w, 401, "authError", "Invalid Credentials")
		return
	}
	compute, storage, upload := "/compute/v1/projects/debian-test/global/", "/storage/v1/b/"+fakeBucket+"/o", "/upload/storage/v1/b/"+fakeBucket+"/o"
	switch {
	case strings.HasPrefix(path, compute+"images"):
		f.image(w, r, body, strings.TrimPrefix(strings.TrimPrefix(path, compute+"images"), "/"))
	case strings.HasPrefix(path, compute+"operations/") && r.Method == http.MethodPost:
		f.wait(w, strings.TrimSuffix(strings.TrimPrefix(path, compute+"operations/"), "/wait"))
	case path == upload:
		f.upload(w, r, body)
	case strings.HasPrefix(path, storage):
		f.object(w, r, strings.TrimPrefix(strings.TrimPrefix(path, storage), "/"))
	case path == "/v3/projects/debian-test:testIamPermissions":
		var in struct{ Permissions []string }
		if json.Unmarshal(body, &in) != nil {
			refuse(w, 400, "invalid", "no JSON")
			return
		}
		reply(w, map[string]any{"permissions": slices.DeleteFunc(in.Permissions, func(p string) bool { return slices.Contains(f.lacks, p) })})
	case strings.Contains(path, "/projects/"):
		refuse(w, 403, "forbidden", "Required permission for %s", path)
	default:
		refuse(w, 404, "notFound", "no such method: %s %s", r.Method, path)
	}
}

// exchange is the token service (RFC 8693).
func (f *fake) exchange(w http.ResponseWriter, r *http.Request, body []byte) {
	form, err := url.ParseQuery(string(body))
	want := map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": "//iam.googleapis.com/pool/gitlab",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
	}
	for key, value := range want {
		if err != nil || form.Get(key) != value {
			refuse(w, 400, "invalid_request", "%s is %q", key, form.Get(key))
			return
		}
	}
	if token := form.Get("subject_token"); token != fakeIDToken || f.idToken != "" && token != f.idToken {
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"error":"invalid_grant","error_description":"the token %s has expired"}`, token)
		return
	}
	reply(w, map[string]any{"access_token": "federated", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": 3600})
}

// login is the token service for what was signed with a service account's key (RFC 7523).
func (f *fake) login(w http.ResponseWriter, body []byte) {
	form, _ := url.ParseQuery(string(body))
	parts := strings.Split(form.Get("assertion"), ".")
	var claims struct{ Iat, Exp int64 }
	var text []byte
	if len(parts) == 3 {
		text, _ = base64.RawURLEncoding.DecodeString(parts[1])
	}
	if json.Unmarshal(text, &claims) != nil || form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		w.WriteHeader(400)
		io.WriteString(w, `{"error":"invalid_request","error_description":"Bad Request"}`)
		return
	}
	now := time.Now().Add(f.ahead)
	if time.Unix(claims.Iat, 0).After(now.Add(time.Minute)) || time.Unix(claims.Exp, 0).Before(now) || claims.Exp-claims.Iat > 3600 {
		w.WriteHeader(400)
		io.WriteString(w, `{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."}`)
		return
	}
	reply(w, map[string]any{"access_token": fakeToken, "token_type": "Bearer", "expires_in": 3600})
}

// operate begins an operation that ends at the second look.
func (f *fake) operate(w http.ResponseWriter, kind string, end func()) {
	f.last++
	op := &fakeOp{operation: operation{Name: fmt.Sprintf("operation-%d", f.last), Status: "PENDING"}, waits: 1, stuck: f.stuck == kind, end: end}
	if code := f.fails[kind]; code != "" {
		delete(f.fails, kind)
		op.end = func() {
			op.Error = &struct {
				Errors []struct{ Code, Message string }
			}{[]struct{ Code, Message string }{{code, "it did not work"}}}
			op.HTTPErrorStatusCode = 400
		}
	}
	if f.quick {
		op.waits = 0
	}
	f.ops[op.Name] = op
	reply(w, op.json())
}

func (o *fakeOp) json() map[string]any {
	v := map[string]any{"kind": "compute#operation", "name": o.Name, "status": o.Status}
	if o.Error != nil {
		v["error"] = map[string]any{"errors": []any{map[string]string{"code": o.Error.Errors[0].Code, "message": o.Error.Errors[0].Message}}}
		v["httpErrorStatusCode"] = o.HTTPErrorStatusCode
	}
	return v
}

func (f *fake) wait(w http.ResponseWriter, name string) {
	op := f.ops[name]
	if op == nil {
		refuse(w, 404, "notFound", "no operation %s", name)
		return
	}
	if op.waits--; op.waits < 0 && op.Status != "DONE" && !op.stuck {
		op.Status = "DONE"
		op.end()
	}
	reply(w, op.json())
}

var (
	nameForm     = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	labelForm    = regexp.MustCompile(`^[a-z0-9_-]{0,63}$`)
	featureForms = []string{"GVNIC", "IDPF", "SEV_CAPABLE", "SEV_LIVE_MIGRATABLE_V2", "SEV_SNP_CAPABLE", "UEFI_COMPATIBLE", "VIRTIO_SCSI_MULTIQUEUE"}
)

func strict(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

func (f *fake) image(w http.ResponseWriter, r *http.Request, body []byte, path string) {
	name, verb, _ := strings.Cut(path, "/")
	switch {
	case name == "" && r.Method == http.MethodGet:
		f.listImages(w, r.URL.Query())
		return
	case name == "" && r.Method == http.MethodPost:
		f.insert(w, body)
		return
	}
	i := f.images[name]
	if i == nil {
		refuse(w, 404, "notFound", "The resource 'projects/debian-test/global/images/%s' was not found", name)
		return
	}
	if i.Status == "PENDING" {
		if i.looks--; i.looks < 0 && f.stuck != "image" {
			i.Status = "READY"
		}
	}
	switch r.Method + " " + verb {
	case "GET ":
		reply(w, i.computeImage)
	case "DELETE ":
		f.operate(w, "delete", func() { delete(f.images, name) })
	case "PATCH ":
		var in struct{ Family *string }
		if strict(body, &in) != nil || in.Family == nil || !nameForm.MatchString(*in.Family) || len(*in.Family) > 63 || i.Status != "READY" {
			refuse(w, 400, "invalid", "cannot patch %s with %s", name, body)
			return
		}
		f.operate(w, "patch", func() { i.Family = *in.Family })
	case "POST deprecate":
		f.deprecate(w, i, body)
	case "GET getIamPolicy":
		if r.URL.Query().Get("optionsRequestedPolicyVersion") != "3" {
			refuse(w, 400, "invalid", "bindings with conditions would be lost")
			return
		}
		reply(w, i.policy)
	case "POST setIamPolicy":
		var in struct{ Policy map[string]any }
		if strict(body, &in) != nil || in.Policy["etag"] == nil {
			refuse(w, 400, "invalid", "policy %s", body)
			return
		}
		if f.conflict > 0 || in.Policy["etag"] != i.policy["etag"] {
			f.conflict--
			i.policy["etag"] = fmt.Sprint(i.policy["etag"], "x")
			refuse(w, 409, "conflict", "There were concurrent policy changes")
			return
		}
		in.Policy["etag"] = fmt.Sprint(i.policy["etag"], "+")
		i.policy = in.Policy
		reply(w, i.policy)
	default:
		refuse(w, 404, "notFound", "no such method: %s %s", r.Method, path)
	}
}

func (f *fake) deprecate(w http.ResponseWriter, i *fakeImage, body []byte) {
	var d deprecation
	if err := strict(body, &d); err != nil || !slices.Contains([]string{"ACTIVE", "DEPRECATED", "OBSOLETE"}, d.State) || i.Status != "READY" {
		refuse(w, 400, "invalid", "deprecation %s: %v", body, err)
		return
	}
	for _, at := range []string{d.Deprecated, d.Obsolete} {
		if _, err := time.Parse(time.RFC3339, at); at != "" && err != nil {
			refuse(w, 400, "invalid", "time %q", at)
			return
		}
	}
	if d.Replacement != "" && f.images[d.Replacement[strings.LastIndex(d.Replacement, "/")+1:]] == nil {
		refuse(w, 400, "invalid", "there is no replacement %s", d.Replacement)
		return
	}
	f.operate(w, "deprecate", func() { i.Deprecated = &d })
}

func (f *fake) listImages(w http.ResponseWriter, q url.Values) {
	key, value, ok := strings.Cut(strings.TrimPrefix(q.Get("filter"), "labels."), "=")
	if !ok || q.Get("maxResults") == "" {
		refuse(w, 400, "invalid", "filter %q", q.Get("filter"))
		return
	}
	var names []string
	for name, i := range f.images {
		if q.Get("pageToken") == "" {
			i.lag--
		}
		if i.Labels[key] == value && i.lag < 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	start, _ := strconv.Atoi(q.Get("pageToken"))
	page := map[string]any{"items": []any{}}
	if start < len(names) { // one a page, so that nobody forgets the others
		page["items"] = []any{f.images[names[start]].computeImage}
	}
	if start+1 < len(names) {
		page["nextPageToken"] = strconv.Itoa(start + 1)
	}
	reply(w, page)
}

func (f *fake) insert(w http.ResponseWriter, body []byte) {
	i := &fakeImage{looks: 2, lag: f.lag}
	if err := strict(body, &i.computeImage); err != nil {
		refuse(w, 400, "invalid", "%v", err)
		return
	}
	var wrong string
	for _, feature := range i.GuestOsFeatures {
		if !slices.Contains(featureForms, feature.Type) || i.Architecture == "ARM64" && strings.HasPrefix(feature.Type, "SEV") {
			wrong = "feature " + feature.Type
		}
	}
	for k, v := range i.Labels {
		if !labelForm.MatchString(k) || !labelForm.MatchString(v) {
			wrong = "label " + k + "=" + v
		}
	}
	switch {
	case !nameForm.MatchString(i.Name) || len(i.Name) > 63:
		wrong = "name " + i.Name
	case i.Family != "":
		wrong = "a family that leads to an image nobody may see"
	case i.Architecture != "X86_64" && i.Architecture != "ARM64":
		wrong = "architecture " + i.Architecture
	case i.RawDisk == nil || i.RawDisk.ContainerType != "TAR" || !strings.HasPrefix(i.RawDisk.Source, "https://storage.googleapis.com/"+fakeBucket+"/"):
		wrong = "rawDisk"
	case i.Status != "" || i.SelfLink != "" || i.CreationTimestamp != "" || i.ID != 0:
		wrong = "what only Google sets"
	}
	if wrong != "" {
		refuse(w, 400, "invalid", "Invalid value: %s", wrong)
		return
	}
	taken := f.images[i.Name] != nil
	if taken && !f.sourceFirst {
		refuse(w, 409, "alreadyExists", "The resource '%s' already exists", i.Name)
		return
	}
	object, err := f.open(strings.TrimPrefix(i.RawDisk.Source, "https://storage.googleapis.com/"+fakeBucket+"/"))
	if err != nil || taken {
		refuse(w, 404, "notFound", "no object %s: %v", i.RawDisk.Source, err)
		return
	}
	defer object.Close()
	if f.fails["insert"] != "" {
		f.operate(w, "insert", nil)
		return
	}
	sum := sha256.New()
	size, err := diskSize(io.TeeReader(object, sum))
	if err != nil || size>>30 != int64(i.DiskSizeGb) {
		refuse(w, 400, "invalid", "the archive holds %d bytes: %v", size, err)
		return
	}
	f.last++
	i.ID, i.Status, i.SelfLink = number(f.last), "PENDING", "https://www.googleapis.com/compute/v1/projects/debian-test/global/images/"+i.Name
	i.CreationTimestamp = time.Now().Format(time.RFC3339)
	io.Copy(sum, object) // what diskSize left
	i.data = fmt.Sprintf("%x", sum.Sum(nil))
	i.policy = map[string]any{"etag": "e", "version": 3, "bindings": []any{map[string]any{
		"role": userRole, "members": []any{"allAuthenticatedUsers"}, "condition": map[string]any{"expression": "false"},
	}, map[string]any{"role": "roles/owner", "members": []any{"user:x@debian.example"}}}}
	f.images[i.Name] = i
	f.operate(w, "insert", func() {
		if i := f.images[i.Name]; i != nil && f.stuck != "image" {
			i.Status = "READY"
		}
	})
}

// open opens an object, wherever it lies.
func (f *fake) open(name string) (io.ReadCloser, error) {
	if f.bucket != nil {
		return f.bucket(name)
	}
	o := f.objects[name]
	if o == nil {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(o.data)), nil
}

// diskSize is the size of the disk.raw in an archive, whose format has to be GNU's old one.
func diskSize(data io.Reader) (int64, error) {
	z, err := gzip.NewReader(data)
	if err != nil {
		return 0, err
	}
	h, err := tar.NewReader(z).Next()
	if err != nil {
		return 0, err
	}
	if h.Name != "disk.raw" || h.Size == 0 || h.Size%(1<<30) != 0 {
		return h.Size, fmt.Errorf("%s of %d bytes", h.Name, h.Size)
	}
	return h.Size, nil
}

func (f *fake) upload(w http.ResponseWriter, r *http.Request, body []byte) {
	q := r.URL.Query()
	if id := q.Get("upload_id"); id != "" {
		f.chunk(w, r, body, id)
		return
	}
	var o storageObject
	if err := strict(body, &o); err != nil || r.Method != http.MethodPost || q.Get("uploadType") != "resumable" || q.Get("ifGenerationMatch") != "0" ||
		q.Get("name") != o.Name || r.Header.Get("X-Upload-Content-Type") != o.ContentType {
		refuse(w, 400, "invalid", "upload %s %s: %v", r.URL, body, err)
		return
	}
	if f.objects[o.Name] != nil {
		refuse(w, 412, "conditionNotMet", "%s exists", o.Name)
		return
	}
	f.last++
	id := fmt.Sprintf("secret-session-%d", f.last)
	f.sessions[id] = &fakeSession{object: o}
	w.Header().Set("Location", fakeHost+r.URL.Path+"?uploadType=resumable&upload_id="+id)
}

var (
	rangeForm = regexp.MustCompile(`^bytes (\d+)-(\d+)/(\d+|\*)$`)
	askForm   = regexp.MustCompile(`^bytes \*/(\d+|\*)$`)
)

func (f *fake) chunk(w http.ResponseWriter, r *http.Request, body []byte, id string) {
	s := f.sessions[id]
	if s == nil {
		refuse(w, 404, "notFound", "no session")
		return
	}
	if r.Method == http.MethodDelete {
		delete(f.sessions, id)
		w.WriteHeader(499)
		return
	}
	content := r.Header.Get("Content-Range")
	total := "*"
	if m := rangeForm.FindStringSubmatch(content); m != nil {
		start, _ := strconv.Atoi(m[1])
		end, _ := strconv.Atoi(m[2])
		total = m[3]
		if start != len(s.data) || end-start+1 != len(body) || total == "*" && len(body)%(256<<10) != 0 {
			refuse(w, 400, "invalid", "%q with %d bytes after %d", content, len(body), len(s.data))
			return
		}
		s.data = append(s.data, body...)
	} else if m := askForm.FindStringSubmatch(content); m == nil || len(body) > 0 {
		refuse(w, 400, "invalid", "Content-Range %q", content)
		return
	} else {
		total = m[1]
	}
	if s.done != nil { // its end is asked for again
		reply(w, s.done.storageObject)
		return
	}
	if total == strconv.Itoa(len(s.data)) {
		if f.objects[s.object.Name] != nil {
			refuse(w, 412, "conditionNotMet", "%s exists", s.object.Name)
			return
		}
		if f.spoil {
			s.data[0]++
		}
		o := &fakeObject{storageObject: s.object, data: s.data}
		f.last++
		o.Generation = number(f.last)
		o.Size = number(len(s.data))
		o.CRC32C = base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(s.data, crc32.MakeTable(crc32.Castagnoli))))
		o.TimeCreated = time.Now().Format(time.RFC3339)
		f.objects[o.Name], s.done = o, o
		reply(w, o.storageObject)
		return
	}
	if len(s.data) > 0 {
		w.Header().Set("Range", fmt.Sprintf("bytes=0-%d", len(s.data)-1))
	}
	w.WriteHeader(http.StatusPermanentRedirect)
}

func (f *fake) object(w http.ResponseWriter, r *http.Request, escaped string) {
	name, _ := url.PathUnescape(escaped)
	if name == "" && r.Method == http.MethodGet {
		items := []any{}
		for _, o := range f.objects {
			items = append(items, o.storageObject)
		}
		reply(w, map[string]any{"items": items})
		return
	}
	o := f.objects[name]
	if o == nil {
		refuse(w, 404, "notFound", "No such object: %s", name)
		return
	}
	switch r.Method {
	case http.MethodGet:
		reply(w, o.storageObject)
	case http.MethodDelete:
		if g := r.URL.Query().Get("ifGenerationMatch"); g != "" && g != strconv.FormatInt(int64(o.Generation), 10) {
			refuse(w, 412, "conditionNotMet", "%s has generation %d", name, o.Generation)
			return
		}
		delete(f.objects, name)
		w.WriteHeader(http.StatusNoContent)
	}
}

// Dump describes the project without identifiers and times.
func (f *fake) Dump() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for name, i := range f.images {
		members := map[string]any{}
		for _, b := range i.policy["bindings"].([]any) {
			b := b.(map[string]any)
			members[fmt.Sprint(b["role"], b["condition"])] = b["members"]
		}
		text, _ := json.Marshal([]any{i.Description, i.Family, i.Architecture, i.DiskSizeGb, i.Labels, i.GuestOsFeatures, i.data, members, i.state()})
		line := "image " + name + " " + string(text)
		if i.state() != "" {
			line += " → " + i.Deprecated.Replacement
		}
		lines = append(lines, line)
	}
	for name := range f.objects {
		lines = append(lines, "object "+name)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
