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
	source, err := readPipeline(path)
	if err != nil {
		return nil, err
	}
	l := linter{file: path, root: cmp.Or(o.Root, projectRoot(path)), jobs: map[string]*node{}, deep: map[string]int{}}
	if err := l.lint(source, o); err != nil {
		return nil, err
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		if a.File != b.File && (a.File == path || b.File == path) {
			return map[bool]int{true: -1, false: 1}[a.File == path]
		}
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return l.problems, ctx.Err()
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
	file     string
	root     string
	document *node
	jobs     map[string]*node // hidden ones too, of included files too
	order    []string         // their names
	deep     map[string]int   // levels of extends above each
	partial  bool             // an include could not be read, so jobs may exist that are not known
	includes int
	problems []Problem
}

func (l *linter) add(n *node, job, format string, args ...any) {
	p := Problem{File: l.file, Job: job, Text: fmt.Sprintf(format, args...)}
	if n != nil {
		p.File, p.Line = cmp.Or(n.file, l.file), n.line
	}
	l.problems = append(l.problems, p)
}

func (l *linter) lint(source []byte, o LintOptions) error {
	if len(source) > maxYAMLSize {
		l.add(nil, "", "the file has %d bytes, GitLab's limit is %d", len(source), maxYAMLSize)
	}
	n, err := parseYAML(source)
	if err != nil {
		return pipelineError(l.file, err)
	}
	if n.kind != object {
		return position{l.file, n.line, ""}.errorf("it is %s where an object is needed", n.kind)
	}
	l.document = n
	if err := l.schema(o.Schema); err != nil {
		return err
	}
	l.collect(n)
	l.checkInclude(n.get("include"))
	l.resolveReferences()
	visible := 0
	for _, name := range l.order {
		if !strings.HasPrefix(name, ".") {
			visible++
		}
		l.checkJob(name, o.Runners)
	}
	if visible == 0 && !l.partial {
		l.add(nil, "", "there is no job: GitLab refuses an empty pipeline")
	}
	l.checkCycles()
	return nil
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
	for i, k := range document.keys {
		v := document.values[i]
		if slices.Contains(globals, k.text) {
			if document != l.document {
				l.document.merge([]*node{{keys: []*node{k}, values: []*node{v}}})
			}
			continue
		}
		if v.kind != object {
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
		if l.includes > maxIncludes {
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
	n, err := parseYAML(source)
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

// value looks a key of a job up: in itself, in what it extends, the last named first, then in the defaults.
func (l *linter) value(name, key string) *node {
	if v := l.inherited(name, key, map[string]bool{}); v != nil {
		return v
	}
	return l.document.get("default").get(key)
}

// inherited looks at no job twice, because many ways may lead to one.
func (l *linter) inherited(name, key string, seen map[string]bool) *node {
	job, ok := l.jobs[name]
	if !ok || seen[name] {
		return nil
	}
	seen[name] = true
	if v := job.get(key); v != nil {
		return v
	}
	for _, parent := range slices.Backward(words(job.get("extends"))) {
		if v := l.inherited(parent.text, key, seen); v != nil {
			return v
		}
	}
	return nil
}

// levels counts the levels of extends above a job. What goes in a circle is another check's.
func (l *linter) levels(name string) int {
	if n, known := l.deep[name]; known {
		return n
	}
	l.deep[name] = 0
	for _, parent := range words(l.jobs[name].get("extends")) {
		if l.jobs[parent.text] != nil {
			l.deep[name] = max(l.deep[name], 1+l.levels(parent.text))
		}
	}
	return l.deep[name]
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
	whole := !l.partial // whether all that the job extends is known
	for _, parent := range words(job.get("extends")) {
		if _, ok := l.jobs[parent.text]; !ok && !l.partial {
			whole = false
			l.add(parent, name, "it extends %q, which does not exist%s", parent.text, l.near(parent.text))
		}
	}
	if len(name) > maxNameSize {
		l.add(job, name, "its name has %d bytes, GitLab's limit is %d", len(name), maxNameSize)
	}
	if n := l.levels(name); n > maxExtendsDeep {
		l.add(job.get("extends"), name, "it extends over %d levels, GitLab's limit is %d", n, maxExtendsDeep)
	}
	l.checkParallel(name, job.get("parallel"))
	l.checkTrigger(name, job.get("trigger"))
	if strings.HasPrefix(name, ".") {
		return
	}
	if whole && l.value(name, "script") == nil && l.value(name, "run") == nil && l.value(name, "trigger") == nil {
		l.add(job, name, "it has neither script, run nor trigger")
	}
	l.checkStage(name)
	l.checkNeeds(name)
	l.checkDependencies(name)
	if l.value(name, "trigger") == nil {
		l.checkTags(name, runners)
	}
}

func (l *linter) near(name string) string {
	known := make([]string, 0, len(l.jobs))
	for k := range l.jobs {
		known = append(known, k)
	}
	slices.Sort(known)
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ""
}

// checkParallel counts a number, or the combinations of each matrix.
func (l *linter) checkParallel(name string, n *node) {
	if n == nil {
		return
	}
	total := 0
	if n.kind == number {
		total, _ = strconv.Atoi(n.text)
	}
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
		if _, ok := l.jobs[job.text]; !ok && !l.partial {
			l.add(job, name, "its child is an artifact of job %q, which does not exist%s", job.text, l.near(job.text))
		}
	}
}

func (l *linter) stages() []string {
	stages := []string{".pre"}
	if n := l.document.get("stages"); n != nil {
		for _, s := range words(n) {
			stages = append(stages, s.text)
		}
	} else {
		stages = append(stages, "build", "test", "deploy")
	}
	return append(stages, ".post")
}

// stage returns the index of a job's stage, and -1 for one that is not declared.
func (l *linter) stage(name string) int {
	stage := "test"
	if n := l.value(name, "stage"); n != nil {
		stage = n.text
	}
	return slices.Index(l.stages(), stage)
}

func (l *linter) checkStage(name string) {
	if l.stage(name) >= 0 || l.partial {
		return
	}
	n, stage := l.value(name, "stage"), "test"
	if n != nil {
		stage = n.text
	}
	l.add(cmp.Or(n, l.jobs[name]), name, "its stage %q is none of %s", stage, strings.Join(l.stages(), ", "))
}

// need is one entry of needs that names a job of the same pipeline.
type need struct {
	at       *node
	job      string
	optional bool
}

func (l *linter) needs(name string) []need {
	n := l.value(name, "needs")
	if n == nil || n.tag != "" || n.kind != list {
		return nil
	}
	var out []need
	for _, item := range n.values {
		switch {
		case item.tag != "":
		case item.kind == text:
			out = append(out, need{at: item, job: item.text})
		case item.get("job") != nil && item.get("pipeline") == nil && item.get("project") == nil:
			optional := item.get("optional")
			out = append(out, need{item, item.get("job").text, optional != nil && optional.any() == true})
		}
	}
	return out
}

func (l *linter) checkNeeds(name string) {
	needs := l.needs(name)
	if len(needs) > maxNeeds {
		l.add(needs[0].at, name, "it needs %d jobs, GitLab's limit is %d", len(needs), maxNeeds)
	}
	for _, n := range needs {
		_, known := l.jobs[n.job]
		switch {
		case n.job == name:
			l.add(n.at, name, "it needs itself")
		case strings.HasPrefix(n.job, "."):
			l.add(n.at, name, "it needs %q, which is hidden and never runs", n.job)
		case !known && !n.optional && !l.partial:
			l.add(n.at, name, "it needs %q, which does not exist%s", n.job, l.near(n.job))
		case known && l.stage(n.job) > l.stage(name) && l.stage(name) >= 0:
			l.add(n.at, name, "it needs %q, which is in a later stage", n.job)
		}
	}
}

// checkDependencies: artifacts come from jobs that exist, and from needed ones where the job says what it needs.
func (l *linter) checkDependencies(name string) {
	needed := map[string]bool{}
	for _, n := range l.needs(name) {
		needed[n.job] = true
	}
	hasNeeds := l.value(name, "needs") != nil
	for _, d := range words(l.value(name, "dependencies")) {
		_, known := l.jobs[d.text]
		switch {
		case !known && !l.partial:
			l.add(d, name, "it depends on %q, which does not exist%s", d.text, l.near(d.text))
		case known && hasNeeds && !needed[d.text]:
			l.add(d, name, "it depends on %q, which is none of its needs", d.text)
		}
	}
}

// checkTags looks for a runner that has all tags of the job.
func (l *linter) checkTags(name string, runners [][]string) {
	tags := words(l.value(name, "tags"))
	if len(runners) == 0 || len(tags) == 0 {
		return
	}
	for _, runner := range runners {
		takes := true
		for _, tag := range tags {
			takes = takes && (slices.Contains(runner, tag.text) || strings.Contains(tag.text, "$"))
		}
		if takes {
			return
		}
	}
	var list []string
	for _, tag := range tags {
		list = append(list, tag.text)
	}
	l.add(tags[0], name, "no runner has all of its tags %s", strings.Join(list, ", "))
}

// checkCycles reports each circle of needs and of extends once, at the first of its jobs.
func (l *linter) checkCycles() {
	l.cycles("needs", func(name string) []string {
		var out []string
		for _, n := range l.needs(name) {
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
	const open, done = 1, 2
	state := map[string]int{}
	type frame struct {
		name string
		rest []string
	}
	for _, start := range l.order {
		if state[start] != 0 {
			continue
		}
		state[start] = open
		stack := []frame{{start, next(start)}}
		for len(stack) > 0 {
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
			case state[to] == open:
				var circle []string
				for i := slices.IndexFunc(stack, func(f frame) bool { return f.name == to }); i < len(stack); i++ {
					circle = append(circle, strconv.Quote(stack[i].name))
				}
				l.add(l.jobs[to], to, "%s go in a circle: %s and back", word, strings.Join(circle, " → "))
			default:
				state[to] = open
				stack = append(stack, frame{to, next(to)})
			}
		}
	}
}
