package generator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// jobGraph is the graph of a pipeline's jobs, folded so that it can be read: one node for all jobs of a kind of one release.
type jobGraph struct {
	nodes map[graphNode]int // number of jobs
	edges map[[2]graphNode]bool
}

// graphNode is a kind of jobs of a release, "" for jobs that are about all.
type graphNode struct{ release, kind string }

func (n graphNode) compare(other graphNode) int {
	return cmp.Or(cmp.Compare(n.release, other.release), cmp.Compare(n.kind, other.kind))
}

// graphJob is what the graph reads of a job.
type graphJob struct {
	Extends   string            `json:"extends"`
	Needs     []json.RawMessage `json:"needs"`
	Variables map[string]string `json:"variables"`
}

// graphOf lays the plan out with the built-in templates and folds its jobs. Gathering jobs and parts, which only GitLab's limits
// ask for, are not seen: each file is one release's or more, and what ends the pipeline is left out of a split one.
func graphOf(ctx context.Context, plan *manifest.Plan) (*jobGraph, error) {
	g := &jobGraph{nodes: map[graphNode]int{}, edges: map[[2]graphNode]bool{}}
	l := Layout{PartName: "part", Version: image.Version{Date: "20000101", Number: 1}}
	err := l.Lay(ctx, plan, func(_ string, text []byte) error { return g.add(text) })
	return g, err
}

func (g *jobGraph) add(text []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	jobs := map[string]graphJob{}
	for name, r := range raw {
		var j graphJob
		if name == "stages" || strings.HasPrefix(name, ".") {
			continue
		}
		if err := json.Unmarshal(r, &j); err != nil {
			return err
		}
		if !strings.HasPrefix(j.Extends, ".unpack") && j.Extends != "" {
			jobs[name] = j
		}
	}
	for name, j := range jobs {
		if j.Extends == ".gather" {
			continue
		}
		g.nodes[nodeOf(j)]++
		for _, need := range needNames(jobs, j) {
			if n, ok := jobs[need]; ok && need != name {
				g.edges[[2]graphNode{nodeOf(n), nodeOf(j)}] = true
			}
		}
	}
	return nil
}

// needNames returns the jobs that a job needs, those behind gathering jobs too.
func needNames(jobs map[string]graphJob, j graphJob) []string {
	var names []string
	for _, raw := range j.Needs {
		var name string
		var need struct{ Job string }
		if json.Unmarshal(raw, &name) != nil && json.Unmarshal(raw, &need) == nil {
			name = need.Job
		}
		if jobs[name].Extends == ".gather" {
			names = append(names, needNames(jobs, jobs[name])...)
			continue
		}
		names = append(names, name)
	}
	return names
}

func nodeOf(j graphJob) graphNode {
	return graphNode{j.Variables["DEBCLOUD_RELEASE"], strings.TrimPrefix(j.Extends, ".")}
}

// WriteDot writes the job graph of a plan for Graphviz.
func WriteDot(ctx context.Context, w io.Writer, plan *manifest.Plan) error {
	g, err := graphOf(ctx, plan)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "// %d images of type %s; dot -Tsvg\ndigraph plan {\n  rankdir=LR\n  node [shape=box, style=rounded, fontname=\"sans-serif\"]\n", len(plan.Data.Cells), plan.Data.Type)
	releases := map[string][]graphNode{}
	for n := range g.nodes {
		releases[n.release] = append(releases[n.release], n)
	}
	for i, release := range slices.Sorted(maps.Keys(releases)) {
		if release != "" {
			fmt.Fprintf(&b, "  subgraph cluster_%d {\n    label=%q\n", i, release)
		}
		slices.SortFunc(releases[release], graphNode.compare)
		for _, n := range releases[release] {
			fmt.Fprintf(&b, "    %q [label=\"%s\\n%d\"]\n", n.release+" "+n.kind, n.kind, g.nodes[n])
		}
		if release != "" {
			b.WriteString("  }\n")
		}
	}
	edges := slices.SortedFunc(maps.Keys(g.edges), func(a, b [2]graphNode) int {
		return cmp.Or(a[0].compare(b[0]), a[1].compare(b[1]))
	})
	for _, e := range edges {
		fmt.Fprintf(&b, "  %q -> %q\n", e[0].release+" "+e[0].kind, e[1].release+" "+e[1].kind)
	}
	b.WriteString("}\n")
	_, err = io.WriteString(w, b.String())
	return err
}
