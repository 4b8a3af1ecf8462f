package generator

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Limits of GitLab beside those that pipelines are generated within (docs.gitlab.com, "Application limits").
const (
	maxYAMLSize    = 2 << 20 // bytes (max_yaml_size_bytes)
	maxIncludes    = 150     // ci_max_includes
	maxChildFiles  = 3       // trigger:include
	maxParallel    = 200     // parallel
	maxExtendsDeep = 11      // levels of extends
	maxNameSize    = 255     // bytes of a job's name
)

// Limits of the linter's own, so that no file keeps it busy for long.
const (
	maxSteps    = 2_000_000 // looks at a job, a need or a dependency
	maxNear     = 50_000    // names that misspelt ones are compared with
	maxProblems = 10_000    // that are reported
	maxShown    = 20        // names in one message
)

// LintOptions are what a file is checked against beside GitLab's limits.
type LintOptions struct {
	Schema  string     // file with GitLab's JSON schema, or "" for none
	Root    string     // folder that "include: local" starts from; "" is the folder of the file
	Runners [][]string // tags of each runner; none means that tags are not checked
}

// Problem is something in a pipeline that GitLab would refuse or never run.
type Problem struct {
	File string
	Line int    // 0 where it is about the whole file
	Job  string // "" where it is about no job
	Text string
}

func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += ":" + strconv.Itoa(p.Line)
	}
	if p.Job != "" {
		s += fmt.Sprintf(": job %q", p.Job)
	}
	return s + ": " + p.Text
}

// Lint checks a parent or child pipeline without asking GitLab. A file that cannot be read is an input error; what is wrong in
// it are problems, in the order of the lines.
func Lint(ctx context.Context, path string, o LintOptions) ([]Problem, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	source, err := readPipeline(path)
	if err != nil {
		return nil, err
	}
	l := linter{file: path, root: cmp.Or(o.Root, projectRoot(path)), cancelled: ctx.Err, jobs: map[string]*node{}, resolved: map[string]*resolvedJob{},
		lists: map[*node][]need{}, takes: map[*node]bool{}}
	if err := cmp.Or(l.lint(source, o), ctx.Err()); err != nil {
		return nil, err
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		if a.File != b.File && (a.File == path || b.File == path) {
			return map[bool]int{true: -1, false: 1}[a.File == path]
		}
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return l.problems, nil
}

// projectRoot is where "include: local" starts from: the repository that the file lies in, else its folder.
func projectRoot(path string) string {
	folder := filepath.Dir(path)
	absolute, err := filepath.Abs(folder)
	for err == nil {
		if _, err := os.Stat(filepath.Join(absolute, ".git")); err == nil {
			return absolute
		}
		up := filepath.Dir(absolute)
		if up == absolute {
			break
		}
		absolute = up
	}
	return folder
}

func readPipeline(path string) ([]byte, error) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fault.Inputf("pipeline %s: %w", path, bare(err))
	}
	defer root.Close()
	source, err := readBounded(root.FS(), filepath.Base(path))
	if err != nil {
		return nil, fault.Inputf("pipeline %s: %w", path, err)
	}
	return source, nil
}

// linter holds one file and, where they can be read, the local files that it includes.
type linter struct {
	file      string
	root      string
	cancelled func() error
	steps     int
	err       error // why the checks end early
	document  *node
	defaults  *node
	jobs      map[string]*node // hidden ones too, of included files too
	order     []string         // their names
	sorted    []string         // their names again
	compared  int              // names that misspelt ones were compared with
	resolved  map[string]*resolvedJob
	stages    map[string]int // the index of each
	allStages []string
	lists     map[*node][]need // what each list of needs holds
	takes     map[*node]bool   // whether a runner has all tags of each list
	partial   bool             // an include could not be read, so jobs may exist that are not known
	includes  int
	problems  []Problem
}

// resolvedJob is what a job and all that it extends say.
type resolvedJob struct {
	values map[string]*node // of the keys in inheritedKeys
	levels int              // of extends above it
	whole  bool             // whether all that it extends is known
}

// inheritedKeys are those that the checks look at.
var inheritedKeys = []string{"script", "run", "trigger", "stage", "needs", "dependencies", "tags", "rules", "environment", "parallel"}

func (l *linter) add(n *node, job, format string, args ...any) {
	if len(l.problems) >= maxProblems {
		if len(l.problems) == maxProblems {
			l.problems = append(l.problems, Problem{File: l.file, Text: fmt.Sprintf("there are more than %d problems: the others are not listed", maxProblems)})
		}
		return
	}
	p := Problem{File: l.file, Job: job, Text: fmt.Sprintf(format, args...)}
	if n != nil {
		p.File, p.Line = cmp.Or(n.file, l.file), n.line
	}
	l.problems = append(l.problems, p)
}

// stop counts a step and tells whether it is one too many, because the context has ended or the pipeline is too large.
func (l *linter) stop() bool {
	if l.steps++; l.steps%1000 == 0 {
		l.err = cmp.Or(l.err, l.cancelled())
	}
	if l.steps == maxSteps {
		l.add(nil, "", "its jobs name each other more than %d times: the rest is not checked", maxSteps)
	}
	return l.err != nil || l.steps >= maxSteps
}

// shown joins names, but not more than a message can hold.
func shown(names []string, separator string) string {
	if len(names) <= maxShown {
		return strings.Join(names, separator)
	}
	return fmt.Sprintf("%s%s… (%d in all)", strings.Join(names[:maxShown], separator), separator, len(names))
}

func (l *linter) lint(source []byte, o LintOptions) error {
	if len(source) > maxYAMLSize {
		l.add(nil, "", "the file has %d bytes, GitLab's limit is %d", len(source), maxYAMLSize)
	}
	n, err := parsePipeline(source)
	if err != nil {
		return pipelineError(l.file, err)
	}
	if n.kind != object {
		return position{l.file, n.line, ""}.errorf("it is %s where an object is needed", n.kind)
	}
	l.document = n
	if err := cmp.Or(l.cancelled(), l.schema(o.Schema)); err != nil {
		return err
	}
	l.collect(n)
	l.checkInclude(n.get("include"))
	if err := l.cancelled(); err != nil {
		return err
	}
	l.resolveReferences()
	l.defaults = l.document.get("default")
	l.index()
	visible := 0
	for _, name := range l.order {
		if !strings.HasPrefix(name, ".") {
			visible++
		}
		if l.stop() {
			return l.err
		}
		l.checkJob(name, o.Runners)
	}
	if visible == 0 && !l.partial {
		l.add(nil, "", "there is no job: GitLab refuses an empty pipeline")
	}
	l.checkCycles()
	return l.err
}

// index notes the order of the stages and sorts the names of the jobs.
func (l *linter) index() {
	l.sorted = slices.Sorted(slices.Values(l.order))
	l.allStages = []string{".pre"}
	if n := l.document.get("stages"); n != nil {
		for _, s := range words(n) {
			l.allStages = append(l.allStages, s.text)
		}
	} else {
		l.allStages = append(l.allStages, "build", "test", "deploy")
	}
	l.allStages = append(l.allStages, ".post")
	l.stages = map[string]int{}
	for i, s := range l.allStages {
		if _, twice := l.stages[s]; !twice {
			l.stages[s] = i
		}
	}
}

func pipelineError(file string, err error) error {
	if rest, ok := strings.CutPrefix(err.Error(), "line "); ok {
		return fault.Inputf("%s:%s", file, rest)
	}
	return fault.Inputf("%s: %w", file, err)
}

// globals are the keys of a file that are no jobs.
var globals = []string{"$schema", "spec", "image", "services", "before_script", "after_script", "variables", "cache", "default", "stages", "include", "workflow"}

// collect notes the jobs of a file. The file that was named comes first: GitLab merges into its jobs and globals what files that
// it includes have more.
func (l *linter) collect(document *node) {
	here := map[string]bool{}
	own := &node{}
	for i, k := range document.keys {
		v := document.values[i]
		if slices.Contains(globals, k.text) {
			own.keys, own.values = append(own.keys, k), append(own.values, v)
			continue
		}
		if v.kind != object {
			if !strings.HasPrefix(k.text, ".") && v.tag == "" {
				l.add(k, k.text, "it is %s where an object is needed", v.kind)
			}
			continue
		}
		if here[k.text] {
			l.add(k, k.text, "it is defined twice in this file: GitLab takes the last")
			continue
		}
		here[k.text] = true
		job, known := l.jobs[k.text]
		if !known {
			l.order = append(l.order, k.text)
			l.jobs[k.text] = v
			continue
		}
		job.merge([]*node{v})
	}
	if document != l.document {
		l.document.merge([]*node{own})
	}
}

// checkInclude reads local includes, so that their jobs are known.
func (l *linter) checkInclude(n *node) {
	if n == nil {
		return
	}
	items := []*node{n}
	if n.kind == list {
		items = n.values
	}
	for _, item := range items {
		if l.includes++; l.includes == maxIncludes+1 {
			l.add(item, "", "more than %d includes, GitLab's limit", maxIncludes)
		}
		if l.includes > maxIncludes || l.cancelled() != nil {
			return
		}
		local := item
		if item.kind == object {
			local = item.get("local")
		}
		// Patterns and variables name files that are not known here.
		if local == nil || local.kind != text || strings.ContainsAny(local.text, "*$") || strings.Contains(local.text, "://") {
			l.partial = true
			continue
		}
		if err := l.includeLocal(local.text); err != nil {
			l.partial = true
			if item.get("rules") == nil {
				l.add(local, "", "include %q: %v", local.text, err)
			}
		}
	}
}

// includeLocal reads a file below the root and collects what it has.
func (l *linter) includeLocal(name string) error {
	root, err := os.OpenRoot(l.root)
	if err != nil {
		return bare(err)
	}
	defer root.Close()
	inside := strings.TrimPrefix(filepath.ToSlash(filepath.Clean("/"+name)), "/")
	source, err := readBounded(root.FS(), inside)
	if err != nil {
		return err
	}
	n, err := parsePipeline(source)
	if err != nil {
		return err
	}
	if n.kind != object {
		return fmt.Errorf("it is %s where an object is needed", n.kind)
	}
	n.stamp(filepath.Join(l.root, inside))
	l.collect(n)
	l.checkInclude(n.get("include"))
	return nil
}

// stamp notes on a document's values which file they stand in.
func (n *node) stamp(file string) {
	n.file = file
	for _, k := range n.keys {
		k.stamp(file)
	}
	for _, v := range n.values {
		v.stamp(file)
	}
}

// value looks a key of a job up, one of inheritedKeys: in itself, in what it extends, the last named first, then in the defaults.
func (l *linter) value(name, key string) *node {
	if v := l.resolve(name).values[key]; v != nil {
		return v
	}
	return l.defaults.get(key)
}

// resolve follows the extends of each job once. What goes in a circle is another check's.
func (l *linter) resolve(name string) *resolvedJob {
	if r, known := l.resolved[name]; known {
		return r
	}
	r := &resolvedJob{values: map[string]*node{}}
	l.resolved[name] = r // in a circle it is met again while it is not whole
	whole := true
	job := l.jobs[name]
	if job == nil {
		return r
	}
	for i, k := range job.keys {
		if slices.Contains(inheritedKeys, k.text) {
			r.values[k.text] = job.values[i]
		}
	}
	for _, parent := range slices.Backward(words(job.get("extends"))) {
		if l.jobs[parent.text] == nil {
			whole = false
			continue
		}
		p := l.resolve(parent.text)
		for key, v := range p.values {
			if r.values[key] == nil {
				r.values[key] = v
			}
		}
		whole = whole && p.whole
		r.levels = max(r.levels, 1+p.levels)
	}
	r.whole = whole
	return r
}

// words returns the strings of a string or a list of strings.
func words(n *node) []*node {
	switch {
	case n == nil || n.tag != "":
		return nil
	case n.kind == text:
		return []*node{n}
	case n.kind == list:
		var out []*node
		for _, v := range n.values {
			if v.kind == text && v.tag == "" {
				out = append(out, v)
			}
		}
		return out
	}
	return nil
}

func (l *linter) checkJob(name string, runners [][]string) {
	job := l.jobs[name]
	for _, parent := range words(job.get("extends")) {
		if _, ok := l.jobs[parent.text]; !ok && !l.partial && !inserted(parent.text) {
			l.add(parent, name, "it extends %q, which does not exist%s", parent.text, l.near(parent.text))
		}
	}
	if len(name) > maxNameSize {
		l.add(job, name, "its name has %d bytes, GitLab's limit is %d", len(name), maxNameSize)
	}
	// The first job beyond the limit tells of all that extend it.
	if n := l.resolve(name).levels; n == maxExtendsDeep+1 {
		l.add(job.get("extends"), name, "it extends over %d levels, GitLab's limit is %d", n, maxExtendsDeep)
	}
	l.checkParallel(name, job.get("parallel"))
	l.checkTrigger(name, job.get("trigger"))
	if strings.HasPrefix(name, ".") {
		return
	}
	if l.resolve(name).whole && !l.partial && l.value(name, "script") == nil && l.value(name, "run") == nil && l.value(name, "trigger") == nil {
		l.add(job, name, "it has neither script, run nor trigger")
	}
	l.checkStage(name)
	l.checkNeeds(name)
	l.checkDependencies(name)
	l.checkOnStop(name)
	if l.value(name, "trigger") == nil {
		l.checkTags(name, runners)
	}
}

// near suggests the name that was meant. A file with very many wrong names gets suggestions for the first of them.
func (l *linter) near(name string) string {
	known := l.sorted[:min(len(l.sorted), maxNear-l.compared)]
	l.compared += len(known)
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ""
}

// inserted tells whether a name has a place that GitLab fills with an input, so that the name is not known here.
func inserted(name string) bool { return strings.Contains(name, "$[[") }

// find returns the job that a need or dependency names: its name as it stands, or that of the job which is run in parallel, of
// which it names one: "a 1/2", "a: [x, y]".
func (l *linter) find(name string) (string, bool) {
	if l.jobs[name] != nil {
		return name, true
	}
	if stem, _, ok := strings.Cut(name, ": ["); ok && strings.HasSuffix(name, "]") && l.jobs[stem] != nil {
		return stem, l.value(stem, "parallel").get("matrix") != nil
	}
	space := strings.LastIndexByte(name, ' ')
	if space < 0 || l.jobs[name[:space]] == nil {
		return name, false
	}
	part, all, _ := strings.Cut(name[space+1:], "/")
	i, err := strconv.Atoi(part)
	parallel := l.value(name[:space], "parallel")
	return name[:space], err == nil && i >= 1 && parallel != nil && parallel.kind == number && parallel.text == all && i <= parallel.count()
}

// count is a whole number, or 0 for what is none.
func (n *node) count() int {
	i, err := strconv.Atoi(n.text)
	if err != nil || n.kind != number {
		return 0
	}
	return i
}

// checkParallel counts a number, or the combinations of each matrix.
func (l *linter) checkParallel(name string, n *node) {
	if n == nil {
		return
	}
	total := n.count()
	if m := n.get("matrix"); m != nil {
		for _, entry := range m.values {
			product := 1
			for _, v := range entry.values {
				if v.kind == list {
					product = min(product*len(v.values), maxNodes)
				}
			}
			total += product
		}
	}
	if total > maxParallel {
		l.add(n, name, "parallel makes %d jobs, GitLab's limit is %d", total, maxParallel)
	}
}

func (l *linter) checkTrigger(name string, n *node) {
	include := n.get("include")
	if include == nil || include.kind != list {
		include = &node{values: []*node{include}}
	}
	if len(include.values) > maxChildFiles {
		l.add(n, name, "trigger:include has %d files, GitLab's limit is %d", len(include.values), maxChildFiles)
	}
	for _, item := range include.values {
		job := item.get("job")
		if job == nil || item.get("artifact") == nil {
			continue
		}
		if _, ok := l.jobs[job.text]; !ok && !l.partial && !inserted(job.text) {
			l.add(job, name, "its child is an artifact of job %q, which does not exist%s", job.text, l.near(job.text))
		}
	}
}

// stage returns the index of a job's stage, and -1 for one that is not declared.
func (l *linter) stage(name string) int {
	stage := "test"
	if n := l.value(name, "stage"); n != nil {
		stage = n.text
	}
	if i, ok := l.stages[stage]; ok {
		return i
	}
	return -1
}

func (l *linter) checkStage(name string) {
	if l.stage(name) >= 0 || l.partial || slices.ContainsFunc(l.allStages[:min(len(l.allStages), maxShown)], inserted) {
		return
	}
	n, stage := l.value(name, "stage"), "test"
	if n != nil {
		stage = n.text
	}
	if !inserted(stage) {
		l.add(cmp.Or(n, l.jobs[name]), name, "its stage %q is none of %s", stage, shown(l.allStages, ", "))
	}
}

// need is one entry of needs that names a job of the same pipeline.
type need struct {
	at       *node
	name     string // as it stands
	job      string // that it is, or is one of
	known    bool   // whether there is such a job
	optional bool
	some     bool // whether it names some of the jobs that run in parallel
}

// needs reads a list of needs, or the only need, once.
func (l *linter) needs(n *node) []need {
	if n == nil || n.tag != "" {
		return nil
	}
	if out, known := l.lists[n]; known {
		return out
	}
	items := n.values
	if n.kind == object {
		items = []*node{n} // GitLab takes the only need for a list of one
	}
	var out []need
	for _, item := range items {
		switch {
		case item.tag != "":
		case item.kind == text:
			out = append(out, need{at: item, name: item.text})
		case item.get("job") != nil && item.get("pipeline") == nil && item.get("project") == nil:
			optional := item.get("optional")
			out = append(out, need{at: item, name: item.get("job").text, optional: optional != nil && optional.any() == true, some: item.get("parallel") != nil})
		}
	}
	for i := range out {
		out[i].job, out[i].known = l.find(out[i].name)
	}
	l.lists[n] = out
	return out
}

func (l *linter) checkNeeds(name string) {
	l.checkNeedList(name, l.value(name, "needs"))
	if rules := l.value(name, "rules"); rules != nil && rules.kind == list {
		for _, rule := range rules.values {
			if l.stop() {
				return
			}
			l.checkNeedList(name, rule.get("needs"))
		}
	}
}

// checkNeedList checks what stands in needs or in rules:needs. Of a list beyond the limit it checks as many as are allowed.
func (l *linter) checkNeedList(name string, n *node) {
	needs := l.needs(n)
	if len(needs) > maxNeeds {
		l.add(needs[0].at, name, "it needs %d jobs, GitLab's limit is %d", len(needs), maxNeeds)
		needs = needs[:maxNeeds]
	}
	seen := map[string]int{}
	for _, n := range needs {
		if l.stop() {
			return
		}
		seen[n.name]++
		switch times := seen[n.name]; {
		case times > 1 && !n.some:
			if times == 2 {
				l.add(n.at, name, "it needs %q twice", n.name)
			}
		case n.job == name:
			l.add(n.at, name, "it needs itself")
		case strings.HasPrefix(n.job, "."):
			l.add(n.at, name, "it needs %q, which is hidden and never runs", n.name)
		case !n.known && !n.optional && !l.partial && !inserted(n.name):
			l.add(n.at, name, "it needs %q, which does not exist%s", n.name, l.near(n.name))
		case n.known && l.stage(n.job) > l.stage(name) && l.stage(name) >= 0:
			l.add(n.at, name, "it needs %q, which is in a later stage", n.name)
		}
	}
}

// checkDependencies: artifacts come from jobs that exist, and from needed ones where the job says what it needs.
func (l *linter) checkDependencies(name string) {
	dependencies := words(l.value(name, "dependencies"))
	if len(dependencies) == 0 {
		return
	}
	needed := map[string]bool{}
	for _, n := range l.needs(l.value(name, "needs")) {
		if l.stop() {
			return
		}
		needed[n.name], needed[n.job] = true, true
	}
	hasNeeds := l.value(name, "needs") != nil
	for _, d := range dependencies {
		if l.stop() {
			return
		}
		job, known := l.find(d.text)
		switch {
		case !known && !l.partial && !inserted(d.text):
			l.add(d, name, "it depends on %q, which does not exist%s", d.text, l.near(d.text))
		case known && hasNeeds && !needed[d.text] && !needed[job]:
			l.add(d, name, "it depends on %q, which is none of its needs", d.text)
		}
	}
}

// checkOnStop: the job that ends an environment exists.
func (l *linter) checkOnStop(name string) {
	stop := l.value(name, "environment").get("on_stop")
	if stop == nil || stop.kind != text || l.partial || inserted(stop.text) {
		return
	}
	if job := l.jobs[stop.text]; job == nil || strings.HasPrefix(stop.text, ".") {
		l.add(stop, name, "its environment is stopped by job %q, which does not exist%s", stop.text, l.near(stop.text))
	}
}

// checkTags looks for a runner that has all tags of the job.
func (l *linter) checkTags(name string, runners [][]string) {
	n := l.value(name, "tags")
	if len(runners) == 0 || len(words(n)) == 0 {
		return
	}
	takes, known := l.takes[n]
	if !known {
		takes = slices.ContainsFunc(runners, func(tags []string) bool { return hasAll(tags, n) })
		l.takes[n] = takes
	}
	if takes {
		return
	}
	var list []string
	for _, tag := range words(n) {
		if l.stop() {
			return
		}
		list = append(list, tag.text)
	}
	l.add(words(n)[0], name, "no runner has all of its tags %s", shown(list, ", "))
}

// hasAll tells whether a runner's tags are all that a job has; what a variable holds is not known here.
func hasAll(runner []string, tags *node) bool {
	for _, tag := range words(tags) {
		if !slices.Contains(runner, tag.text) && !strings.Contains(tag.text, "$") {
			return false
		}
	}
	return true
}

// checkCycles reports each circle of needs and of extends once, at the first of its jobs.
func (l *linter) checkCycles() {
	l.cycles("needs", func(name string) []string {
		var out []string
		needs := l.needs(l.value(name, "needs"))
		for _, n := range needs[:min(len(needs), maxNeeds)] {
			if n.job != name {
				out = append(out, n.job)
			}
		}
		return out
	})
	l.cycles("extends", func(name string) []string {
		var out []string
		for _, n := range words(l.jobs[name].get("extends")) {
			out = append(out, n.text)
		}
		return out
	})
}

// cycles walks the graph depth first with a stack of its own, because a generated graph may be deep.
func (l *linter) cycles(word string, next func(string) []string) {
	const done = -1
	state := map[string]int{} // 0, its place in the stack from 1, or done
	type frame struct {
		name string
		rest []string
	}
	for _, start := range l.order {
		if state[start] != 0 {
			continue
		}
		state[start] = 1
		stack := []frame{{start, next(start)}}
		for len(stack) > 0 {
			if l.stop() {
				return
			}
			top := &stack[len(stack)-1]
			if len(top.rest) == 0 {
				state[top.name] = done
				stack = stack[:len(stack)-1]
				continue
			}
			to := top.rest[0]
			top.rest = top.rest[1:]
			switch {
			case l.jobs[to] == nil || state[to] == done:
			case state[to] > 0:
				var circle []string
				all := stack[state[to]-1:]
				for _, f := range all[:min(len(all), maxShown)] {
					circle = append(circle, strconv.Quote(f.name))
				}
				if len(all) > maxShown {
					circle = append(circle, fmt.Sprintf("… (%d in all)", len(all)))
				}
				l.add(l.jobs[to], to, "%s go in a circle: %s and back", word, strings.Join(circle, " → "))
			default:
				stack = append(stack, frame{to, next(to)})
				state[to] = len(stack)
			}
		}
	}
}
