package salsa

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// double is a GitLab on loopback with one project. It is strict: a request that GitLab would not understand, or would understand in
// another way than it is meant, fails the test; one that GitLab refuses is refused in GitLab's words.
// Facts are from lib/api/*.rb of GitLab 18.
type double struct {
	t      *testing.T
	server *httptest.Server
	mu     sync.Mutex

	schedules []*schedule
	notes     []*note
	statuses  []*status
	jobs      []*job
	bridges   []*bridge
	pipelines []int64 // that are no children, the newest last
	lint      func(lintRequest) map[string]any
	page      int // upper limit of per_page, 100 in GitLab

	nextID   int64
	injected []*injection
	requests []string // method and path, in order
	waits    []time.Duration
}

const (
	doubleToken    = "glpat-s3cr3t-ACCESS"
	doubleJobToken = "glcbt-64-s3cr3t-JOB"
	doubleProject  = "cloud-team/debcloud"
	me, other      = 7, 8
)

type schedule struct {
	ID          int64               `json:"id"`
	Description string              `json:"description"`
	Ref         string              `json:"ref"`
	Cron        string              `json:"cron"`
	Timezone    string              `json:"cron_timezone"`
	Active      bool                `json:"active"`
	Owner       *owner              `json:"owner"`
	Variables   []*scheduleVariable `json:"variables,omitempty"` // not in listings
}

type owner struct {
	ID    int64  `json:"id"`
	State string `json:"state"`
}

type scheduleVariable struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Type  string `json:"variable_type"`
}

type note struct {
	ID     int64  `json:"id"`
	Body   string `json:"body"`
	Author owner  `json:"author"`
	System bool   `json:"system"`
	mr     string
}

type status struct {
	ID          int64  `json:"id"`
	SHA         string `json:"sha"`
	Name        string `json:"name"`
	Status      string `json:"status"`
	Description string `json:"description"`
	TargetURL   string `json:"target_url"`
	PipelineID  int64  `json:"pipeline_id"`
}

type job struct {
	ID       int64  `json:"id"`
	Name     string `json:"name"`
	Ref      string `json:"ref"`
	Status   string `json:"status"`
	Pipeline struct {
		ID int64 `json:"id"`
	} `json:"pipeline"`
	Artifacts *struct {
		Filename string `json:"filename"`
		Size     int    `json:"size"`
	} `json:"artifacts_file,omitempty"`
	Expire  *time.Time `json:"artifacts_expire_at,omitempty"`
	archive []byte
}

// bridge is a job that starts another pipeline.
type bridge struct {
	ID         int64     `json:"id"`
	Name       string    `json:"name"`
	Status     string    `json:"status"`
	Pipeline   pipeline  `json:"pipeline"`
	Downstream *pipeline `json:"downstream_pipeline"`
}

type pipeline struct {
	ID        int64 `json:"id"`
	ProjectID int64 `json:"project_id"`
}

type injection struct {
	request *regexp.Regexp
	times   int
	act     func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc)
}

func newDouble(t *testing.T) *double {
	d := &double{t: t, page: 100, nextID: 100, pipelines: []int64{500}}
	d.server = httptest.NewServer(http.HandlerFunc(d.serve))
	t.Cleanup(d.server.Close)
	return d
}

// client returns a Client of d that does not really wait.
func (d *double) client(change ...func(*Options)) *Client {
	d.t.Helper()
	o := Options{URL: d.server.URL + "/api/v4", Project: doubleProject, Token: doubleToken, JobToken: doubleJobToken}
	for _, f := range change {
		f(&o)
	}
	c, err := New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	c.patience.sleep = func(ctx context.Context, w time.Duration) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.waits = append(d.waits, w)
		return context.Cause(ctx)
	}
	return c
}

// inject acts on the next times requests whose "METHOD /path" matches.
func (d *double) inject(request string, times int, act func(http.ResponseWriter, *http.Request, http.HandlerFunc)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.injected = append(d.injected, &injection{regexp.MustCompile(request), times, act})
}

// says answers with a code and headers instead of acting.
func says(code int, headers ...string) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
	return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		io.Copy(io.Discard, r.Body)
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		http.Error(w, "<html>load balancer</html>", code)
	}
}

// actsAndSays acts, then loses the answer behind a code.
func actsAndSays(code int) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
	return func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
		real(httptest.NewRecorder(), r)
		http.Error(w, "<html>load balancer</html>", code)
	}
}

// truncates acts and cuts the answer in its middle.
func truncates(w http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
	rec := httptest.NewRecorder()
	real(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
	w.WriteHeader(rec.Code)
	w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

// hangs answers nothing until the client goes.
func hangs(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func (d *double) serve(w http.ResponseWriter, r *http.Request) {
	request := r.Method + " " + r.URL.EscapedPath()
	d.mu.Lock()
	d.requests = append(d.requests, request)
	var hit *injection
	for _, i := range d.injected {
		if i.times > 0 && i.request.MatchString(request) {
			i.times--
			hit = i
			break
		}
	}
	d.mu.Unlock()
	if hit != nil {
		hit.act(w, r, d.act)
		return
	}
	d.act(w, r)
}

// call is a checked request.
type call struct {
	*double
	w     http.ResponseWriter
	r     *http.Request
	body  []byte
	match []string
}

// routes is the API, as far as it is needed. job tells that a job token will do.
var routes = []struct {
	pattern string
	job     bool
	query   string // parameters that GitLab knows
	serve   func(*call)
}{
	{`GET /user`, false, "", (*call).user},
	{`POST /projects/P/ci/lint`, false, "", (*call).ciLint},
	{`GET /projects/P/pipeline_schedules`, false, "per_page page scope", (*call).listSchedules},
	{`POST /projects/P/pipeline_schedules`, false, "", (*call).createSchedule},
	{`GET /projects/P/pipeline_schedules/(\d+)`, false, "", (*call).getSchedule},
	{`PUT /projects/P/pipeline_schedules/(\d+)`, false, "", (*call).editSchedule},
	{`DELETE /projects/P/pipeline_schedules/(\d+)`, false, "", (*call).deleteSchedule},
	{`POST /projects/P/pipeline_schedules/(\d+)/take_ownership`, false, "", (*call).ownSchedule},
	{`POST /projects/P/pipeline_schedules/(\d+)/variables`, false, "", (*call).createVariable},
	{`PUT /projects/P/pipeline_schedules/(\d+)/variables/(\w+)`, false, "", (*call).editVariable},
	{`DELETE /projects/P/pipeline_schedules/(\d+)/variables/(\w+)`, false, "", (*call).deleteVariable},
	{`GET /projects/P/merge_requests/(\d+)/notes`, true, "per_page page order_by sort", (*call).listNotes},
	{`POST /projects/P/merge_requests/(\d+)/notes`, false, "", (*call).createNote},
	{`PUT /projects/P/merge_requests/(\d+)/notes/(\d+)`, false, "", (*call).editNote},
	{`DELETE /projects/P/merge_requests/(\d+)/notes/(\d+)`, false, "", (*call).deleteNote},
	{`GET /projects/P/repository/commits/([0-9a-f]{40})/statuses`, false, "per_page page pipeline_id", (*call).listStatuses},
	{`POST /projects/P/statuses/([0-9a-f]{40})`, false, "", (*call).setStatus},
	{`GET /projects/P/pipelines`, false, "per_page page order_by sort sha", (*call).listPipelines},
	{`GET /projects/P/jobs`, true, "per_page pagination order_by sort scope[] cursor", (*call).listJobs},
	{`GET /projects/P/pipelines/(\d+)/bridges`, false, "per_page page scope[]", (*call).listBridges},
	{`GET /projects/P/pipelines/(\d+)/jobs`, true, "per_page page scope[]", (*call).listPipelineJobs},
	{`GET /projects/P/jobs/(\d+)/artifacts`, true, "", (*call).artifacts},
}

func (d *double) act(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		d.t.Errorf("body of %s: %v", r.URL, err)
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v4")
	if !ok {
		d.t.Errorf("%s %s is not below /api/v4", r.Method, r.URL)
	}
	for _, route := range routes {
		pattern := strings.ReplaceAll(route.pattern, "/P/", "/(?:cloud-team%2Fdebcloud|77)/")
		m := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(r.Method + " " + path)
		if m == nil {
			continue
		}
		c := &call{d, w, r, body, m}
		c.check(strings.Fields(route.query))
		if c.authenticated(route.job) {
			route.serve(c)
		}
		return
	}
	d.t.Errorf("GitLab has no %s %s", r.Method, r.URL)
	http.NotFound(w, r)
}

func (c *call) check(query []string) {
	for key := range c.r.URL.Query() {
		if !slices.Contains(query, key) {
			c.t.Errorf("%s %s: GitLab knows no parameter %q", c.r.Method, c.r.URL, key)
		}
	}
	hasBody := c.r.Method == http.MethodPost || c.r.Method == http.MethodPut
	if !hasBody && len(c.body) > 0 {
		c.t.Errorf("%s %s has a body", c.r.Method, c.r.URL)
	}
	if len(c.body) > 0 && c.r.Header.Get("Content-Type") != "application/json" {
		c.t.Errorf("%s %s has the content type %q", c.r.Method, c.r.URL, c.r.Header.Get("Content-Type"))
	}
	if agent := c.r.Header.Get("User-Agent"); agent != "debcloud" {
		c.t.Errorf("%s %s comes from %q", c.r.Method, c.r.URL, agent)
	}
	if strings.Contains(c.r.URL.String(), "s3cr3t") || bytes.Contains(c.body, []byte("s3cr3t")) {
		c.t.Errorf("%s %s shows a token outside of its header", c.r.Method, c.r.URL)
	}
}

func (c *call) authenticated(job bool) bool {
	access, token := c.r.Header.Values("Private-Token"), c.r.Header.Values("Job-Token")
	if len(access)+len(token) > 1 || c.r.Header.Get("Authorization") != "" {
		c.t.Errorf("%s %s authenticates in two ways", c.r.Method, c.r.URL)
	}
	switch {
	case len(access) == 1 && access[0] == doubleToken, job && len(token) == 1 && token[0] == doubleJobToken:
		return true
	case len(access)+len(token) == 0 && strings.HasPrefix(c.r.URL.Path, "/api/v4/projects") && c.r.Method == http.MethodGet:
		c.refuse(http.StatusNotFound, "404 Project Not Found")
	default:
		// A badly behaved GitLab shows the token that it refuses.
		c.refuse(http.StatusUnauthorized, "401 Unauthorized "+strings.Join(append(access, token...), ""))
	}
	return false
}

func (c *call) refuse(code int, message any) { c.answer(code, map[string]any{"message": message}) }

func (c *call) answer(code int, body any) {
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(code)
	json.NewEncoder(c.w).Encode(body)
}

// decode reads the body; fields that GitLab does not know, which it would drop in silence, fail the test.
func (c *call) decode(into any) {
	dec := json.NewDecoder(bytes.NewReader(c.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		c.t.Errorf("%s %s with body %s: %v", c.r.Method, c.r.URL, c.body, err)
	}
}

func (c *call) number(i int) int64 {
	n, _ := strconv.ParseInt(c.match[i], 10, 64)
	return n
}

func (c *call) id() int64 { c.nextID++; return c.nextID }

// list answers one page of all and names the next.
func list[T any](c *call, all []T) {
	q := c.r.URL.Query()
	per, err := strconv.Atoi(q.Get("per_page"))
	if err != nil || per < 1 || per > 100 {
		c.t.Errorf("%s asks for per_page=%q", c.r.URL, q.Get("per_page"))
		per = 20
	}
	per = min(per, c.page)
	from := 0
	if q.Get("pagination") == "keyset" {
		from, _ = strconv.Atoi(q.Get("cursor"))
		if from+per < len(all) {
			q.Set("cursor", strconv.Itoa(from+per))
			c.w.Header().Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, c.server.URL, c.r.URL.Path, q.Encode()))
		}
	} else {
		page, _ := strconv.Atoi(q.Get("page"))
		page = max(1, page)
		from = (page - 1) * per
		next := ""
		if from+per < len(all) {
			next = strconv.Itoa(page + 1)
		}
		c.w.Header().Set("X-Next-Page", next)
		c.w.Header().Set("X-Page", strconv.Itoa(page))
	}
	c.answer(http.StatusOK, append([]T{}, all[min(from, len(all)):min(from+per, len(all))]...))
}

func (c *call) user() { c.answer(http.StatusOK, owner{me, "active"}) }

type lintRequest struct {
	Content *string `json:"content"`
	DryRun  bool    `json:"dry_run"`
	Ref     string  `json:"ref"`
}

func (c *call) ciLint() {
	var in lintRequest
	c.decode(&in)
	if in.Content == nil {
		c.refuse(http.StatusBadRequest, "content is missing")
		return
	}
	c.answer(http.StatusOK, c.lint(in))
}

func (c *call) listSchedules() {
	short := []*schedule{}
	for _, s := range c.schedules {
		one := *s
		one.Variables = nil
		short = append(short, &one)
	}
	list(c, short)
}

func (c *call) schedule() *schedule {
	for _, s := range c.schedules {
		if s.ID == c.number(1) {
			return s
		}
	}
	c.refuse(http.StatusNotFound, "404 Pipeline Schedule Not Found")
	return nil
}

func (c *call) getSchedule() {
	if s := c.schedule(); s != nil {
		c.answer(http.StatusOK, s)
	}
}

type scheduleFields struct {
	Description *string `json:"description"`
	Ref         *string `json:"ref"`
	Cron        *string `json:"cron"`
	Timezone    *string `json:"cron_timezone"`
	Active      *bool   `json:"active"`
}

func (f scheduleFields) to(s *schedule) (wrong map[string][]string) {
	set := func(target *string, value *string) {
		if value != nil {
			*target = *value
		}
	}
	set(&s.Description, f.Description)
	set(&s.Cron, f.Cron)
	set(&s.Timezone, f.Timezone)
	if f.Ref != nil {
		if s.Ref = *f.Ref; !strings.HasPrefix(s.Ref, "refs/") {
			s.Ref = "refs/heads/" + s.Ref
		}
	}
	if f.Active != nil {
		s.Active = *f.Active
	}
	switch {
	case s.Description == "":
		return map[string][]string{"description": {"can't be blank"}}
	case len(strings.Fields(s.Cron)) != 5:
		return map[string][]string{"cron": {"syntax is invalid"}}
	case s.Timezone != "UTC" && !strings.Contains(s.Timezone, "/"):
		return map[string][]string{"cron_timezone": {"syntax is invalid"}}
	}
	return nil
}

func (c *call) createSchedule() {
	var in scheduleFields
	c.decode(&in)
	if in.Description == nil || in.Ref == nil || in.Cron == nil {
		c.refuse(http.StatusBadRequest, "description, ref or cron is missing")
		return
	}
	s := &schedule{Timezone: "UTC", Active: true, Owner: &owner{me, "active"}}
	if wrong := in.to(s); wrong != nil {
		c.refuse(http.StatusBadRequest, wrong)
		return
	}
	s.ID = c.id()
	c.schedules = append(c.schedules, s)
	c.answer(http.StatusCreated, s)
}

// owned finds the schedule and demands that the caller owns it, as GitLab does for everything but reading, owning and removing.
func (c *call) owned() *schedule {
	s := c.schedule()
	if s != nil && (s.Owner == nil || s.Owner.ID != me) {
		c.refuse(http.StatusForbidden, "403 Forbidden")
		return nil
	}
	return s
}

func (c *call) editSchedule() {
	var in scheduleFields
	c.decode(&in)
	s := c.owned()
	if s == nil {
		return
	}
	edited := *s
	if wrong := in.to(&edited); wrong != nil {
		c.refuse(http.StatusBadRequest, wrong)
		return
	}
	*s = edited
	c.answer(http.StatusOK, s)
}

func (c *call) ownSchedule() {
	if s := c.schedule(); s != nil {
		s.Owner = &owner{me, "active"}
		c.answer(http.StatusCreated, s)
	}
}

func (c *call) deleteSchedule() {
	if s := c.schedule(); s != nil {
		c.schedules = slices.DeleteFunc(c.schedules, func(x *schedule) bool { return x == s })
		c.w.WriteHeader(http.StatusNoContent)
	}
}

func (c *call) createVariable() {
	var in scheduleVariable
	c.decode(&in)
	s := c.owned()
	switch {
	case s == nil:
	case !regexp.MustCompile(`^\w{1,255}$`).MatchString(in.Key):
		c.refuse(http.StatusBadRequest, map[string][]string{"key": {"can contain only letters, digits and '_'."}})
	case slices.ContainsFunc(s.Variables, func(v *scheduleVariable) bool { return v.Key == in.Key }):
		c.refuse(http.StatusBadRequest, map[string][]string{"key": {"has already been taken"}})
	default:
		s.Variables = append(s.Variables, &in)
		c.answer(http.StatusCreated, in)
	}
}

func (c *call) variable(s *schedule) int {
	i := slices.IndexFunc(s.Variables, func(v *scheduleVariable) bool { return v.Key == c.match[2] })
	if i < 0 {
		c.refuse(http.StatusNotFound, "404 Pipeline Schedule Variable Not Found")
	}
	return i
}

func (c *call) editVariable() {
	var in struct {
		Value string `json:"value"`
		Type  string `json:"variable_type"`
	}
	c.decode(&in)
	if s := c.owned(); s != nil {
		if i := c.variable(s); i >= 0 {
			s.Variables[i].Value, s.Variables[i].Type = in.Value, in.Type
			c.answer(http.StatusOK, s.Variables[i])
		}
	}
}

func (c *call) deleteVariable() {
	if s := c.owned(); s != nil {
		if i := c.variable(s); i >= 0 {
			gone := s.Variables[i]
			s.Variables = slices.Delete(s.Variables, i, i+1)
			c.answer(http.StatusAccepted, gone)
		}
	}
}

func (c *call) listNotes() {
	q := c.r.URL.Query()
	if q.Get("sort") != "asc" || q.Get("order_by") != "created_at" {
		c.t.Errorf("notes are listed in the order %s", c.r.URL.RawQuery)
	}
	all := []*note{}
	for _, n := range c.notes {
		if n.mr == c.match[1] {
			all = append(all, n)
		}
	}
	list(c, all)
}

type noteFields struct {
	Body string `json:"body"`
}

func (c *call) noteBody() (string, bool) {
	var in noteFields
	c.decode(&in)
	if in.Body == "" || len([]rune(in.Body)) > 1_000_000 {
		c.refuse(http.StatusBadRequest, "Note {:note=>[\"can't be blank or too long\"]}")
		return "", false
	}
	if regexp.MustCompile(`(?m)^/\w+`).MatchString(in.Body) {
		c.t.Errorf("the note holds a quick action:\n%s", in.Body)
	}
	return strings.TrimRight(in.Body, " \n"), true
}

func (c *call) createNote() {
	if body, ok := c.noteBody(); ok {
		n := &note{ID: c.id(), Body: body, Author: owner{me, "active"}, mr: c.match[1]}
		c.notes = append(c.notes, n)
		c.answer(http.StatusCreated, n)
	}
}

func (c *call) note() *note {
	for _, n := range c.notes {
		if n.ID == c.number(2) && n.mr == c.match[1] {
			if n.Author.ID != me {
				c.t.Errorf("%s on someone else's note", c.r.Method)
			}
			return n
		}
	}
	c.refuse(http.StatusNotFound, "404 Not Found")
	return nil
}

func (c *call) editNote() {
	body, ok := c.noteBody()
	if !ok {
		return
	}
	if n := c.note(); n != nil {
		n.Body = body
		c.answer(http.StatusOK, n)
	}
}

func (c *call) deleteNote() {
	if n := c.note(); n != nil {
		c.notes = slices.DeleteFunc(c.notes, func(x *note) bool { return x == n })
		c.w.WriteHeader(http.StatusNoContent)
	}
}

func (c *call) listStatuses() {
	pipeline, _ := strconv.ParseInt(c.r.URL.Query().Get("pipeline_id"), 10, 64)
	last := map[string]*status{}
	all := []*status{}
	for _, s := range c.statuses {
		if s.SHA == c.match[1] && (pipeline == 0 || s.PipelineID == pipeline) {
			last[s.Name] = s
		}
	}
	for _, s := range c.statuses {
		if last[s.Name] == s {
			all = append(all, s)
		}
	}
	list(c, all)
}

func (c *call) setStatus() {
	var in struct {
		State       string  `json:"state"`
		Name        string  `json:"name"`
		Description *string `json:"description"`
		TargetURL   *string `json:"target_url"`
		PipelineID  *int64  `json:"pipeline_id"`
	}
	c.decode(&in)
	s := &status{ID: c.id(), SHA: c.match[1], Name: in.Name, Status: in.State, PipelineID: c.pipelines[len(c.pipelines)-1]}
	if in.Description != nil {
		s.Description = *in.Description
	}
	if in.TargetURL != nil {
		s.TargetURL = *in.TargetURL
	}
	if in.PipelineID != nil {
		s.PipelineID = *in.PipelineID
	}
	switch {
	case !slices.Contains([]string{"pending", "running", "success", "failed", "canceled", "skipped"}, in.State):
		c.refuse(http.StatusBadRequest, "invalid state")
	case len(s.TargetURL) > 255 || len([]rune(s.Description)) > 255 || len(s.Name) > 255:
		c.refuse(http.StatusBadRequest, map[string][]string{"target_url": {"is too long (maximum is 255 characters)"}})
	case !slices.Contains(c.pipelines, s.PipelineID):
		c.refuse(http.StatusNotFound, "404 Pipeline for pipeline_id, sha and ref Not Found")
	default:
		c.statuses = append(c.statuses, s)
		c.answer(http.StatusCreated, s)
	}
}

func (c *call) listPipelines() {
	q := c.r.URL.Query()
	if q.Get("order_by") != "id" || q.Get("sort") != "desc" || q.Get("sha") == "" {
		c.t.Errorf("pipelines are listed by %s", c.r.URL.RawQuery)
	}
	all := []map[string]int64{}
	for _, p := range slices.Backward(c.pipelines) {
		all = append(all, map[string]int64{"id": p})
	}
	list(c, all)
}

func (c *call) ended(of func(*job) bool) []*job {
	scope := c.r.URL.Query()["scope[]"]
	if other := func(s string) bool { return s != "success" && s != "failed" }; len(scope) == 0 || slices.ContainsFunc(scope, other) {
		c.t.Errorf("jobs are listed by %s", c.r.URL.RawQuery)
	}
	all := []*job{}
	for _, j := range c.jobs {
		if slices.Contains(scope, j.Status) && of(j) {
			all = append(all, j)
		}
	}
	slices.SortFunc(all, func(a, b *job) int { return int(b.ID - a.ID) })
	return all
}

func (c *call) listJobs() {
	q := c.r.URL.Query()
	if q.Get("pagination") != "keyset" || q.Get("order_by") != "id" || q.Get("sort") != "desc" {
		c.t.Errorf("jobs are listed by %s", c.r.URL.RawQuery)
	}
	list(c, c.ended(func(*job) bool { return true }))
}

func (c *call) listPipelineJobs() {
	list(c, c.ended(func(j *job) bool { return j.Pipeline.ID == c.number(1) }))
}

func (c *call) listBridges() {
	all := []*bridge{}
	for _, b := range slices.Backward(c.bridges) {
		if b.Pipeline.ID == c.number(1) {
			all = append(all, b)
		}
	}
	list(c, all)
}

func (c *call) artifacts() {
	for _, j := range c.jobs {
		if j.ID == c.number(1) && j.archive != nil {
			c.w.Header().Set("Content-Type", "application/zip")
			c.w.Header().Set("Content-Length", strconv.Itoa(len(j.archive)))
			c.w.Write(j.archive)
			return
		}
	}
	c.refuse(http.StatusNotFound, "404 Not Found")
}

// count tells how often a request came, by method and a part of the path.
func (d *double) count(request string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, r := range d.requests {
		if regexp.MustCompile(request).MatchString(r) {
			n++
		}
	}
	return n
}

// changed lists the requests since the last call that are no GET.
func (d *double) changed() (changes []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.requests {
		if !strings.HasPrefix(r, "GET ") {
			changes = append(changes, strings.Replace(r, "/api/v4/projects/cloud-team%2Fdebcloud", "", 1))
		}
	}
	d.requests = nil
	return changes
}

// captureLog sends the log, from debug on, into a buffer until the test ends.
func captureLog(t *testing.T) *syncBuffer {
	b := new(syncBuffer)
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() { slog.SetDefault(old) })
	return b
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func cancelCause(t *testing.T) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, cancel
}
