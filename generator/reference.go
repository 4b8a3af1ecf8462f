package generator

import (
	"slices"
	"strings"
)

// GitLab's own tag !reference [job, key, …] stands for a value of another place in the pipeline, and is followed before "extends"
// is (docs.gitlab.com, "YAML optimization"). In a list, a list that it stands for is spliced in.

// maxReferences is how many references GitLab follows behind one another.
const maxReferences = 10

// referenceResolver replaces references in the jobs and globals of a linter.
type referenceResolver struct {
	l      *linter
	top    map[string]*node // what stands at the top of the document
	job    string
	budget int
}

// resolveReferences replaces all references. What points nowhere becomes a problem, and stays as it is.
func (l *linter) resolveReferences() {
	r := referenceResolver{l: l, top: map[string]*node{}, budget: 2 * maxNodes}
	for i, k := range l.document.keys {
		r.top[k.text] = l.document.values[i]
	}
	jobs := map[string]*node{}
	for _, r.job = range l.order {
		jobs[r.job] = r.resolve(l.jobs[r.job], 0)
	}
	r.job = ""
	document := *l.document
	document.values = slices.Clone(document.values)
	for i, k := range document.keys {
		if slices.Contains(globals, k.text) {
			document.values[i] = r.resolve(document.values[i], 0)
		}
	}
	l.jobs, l.document = jobs, &document
	if r.budget < 0 {
		l.add(nil, "", "the pipeline has more than %d values once its references are followed", maxNodes)
	}
}

// resolve returns n with its references followed; n itself where there are none.
func (r *referenceResolver) resolve(n *node, depth int) *node {
	if r.budget--; r.budget < 0 {
		return n
	}
	if n.isReference() {
		return r.follow(n, depth)
	}
	values := make([]*node, 0, len(n.values))
	changed := false
	for _, v := range n.values {
		found := r.resolve(v, depth)
		if n.kind == list && v.isReference() && found != v && found.kind == list {
			r.budget -= len(found.values)
			values = append(values, found.values...)
		} else {
			values = append(values, found)
		}
		changed = changed || found != v
	}
	if !changed {
		return n
	}
	out := *n
	out.values = values
	return &out
}

func (n *node) isReference() bool { return n.tag == "!reference" && n.kind == list }

func (r *referenceResolver) follow(n *node, depth int) *node {
	var steps []string
	for _, step := range n.values {
		steps = append(steps, step.text)
	}
	shown := "!reference [" + strings.Join(steps, ", ") + "]"
	if depth == maxReferences {
		r.l.add(n, r.job, "%s: GitLab follows at most %d references behind one another", shown, maxReferences)
		return n
	}
	target := r.target(steps)
	if target == nil {
		if !r.l.partial {
			r.l.add(n, r.job, "%s stands for nothing that exists", shown)
		}
		return n
	}
	return r.resolve(target, depth+1)
}

// target finds what a path leads to, through jobs and globals, as they are written; nil where it leads nowhere.
func (r *referenceResolver) target(steps []string) *node {
	if len(steps) == 0 {
		return nil
	}
	target := r.l.jobs[steps[0]]
	if target == nil {
		target = r.top[steps[0]]
	}
	for _, step := range steps[1:] {
		target = target.get(step)
	}
	return target
}
