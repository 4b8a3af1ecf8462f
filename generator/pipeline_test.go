package generator

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

var aDaily = image.Version{Date: "20260814", Number: 2204}

// file is what Lay emits.
type file struct {
	Name string
	JSON []byte
}

func lay(t testing.TB, c *Config, uploadType image.UploadType, l Layout, s Selection) []file {
	t.Helper()
	plan, err := c.Plan(uploadType, s)
	if err != nil {
		t.Fatal(err)
	}
	l.Version, l.PartName = aDaily, "child"
	files, err := emitted(t, l, plan)
	if err != nil {
		t.Fatal(err)
	}
	if files[len(files)-1].Name != "" {
		t.Errorf("the last file is %q", files[len(files)-1].Name)
	}
	return files
}

func emitted(t testing.TB, l Layout, plan *manifest.Plan) ([]file, error) {
	t.Helper()
	var files []file
	err := l.Lay(t.Context(), plan, func(name string, json []byte) error {
		files = append(files, file{name, json})
		return nil
	})
	return files, err
}

// resolved returns the visible jobs of a file with what they extend.
func resolved(t testing.TB, text []byte) map[string]map[string]any {
	t.Helper()
	var document map[string]json.RawMessage
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	jobs := map[string]map[string]any{}
	for name, raw := range document {
		var own, job map[string]any
		if name == "stages" || name == "workflow" || strings.HasPrefix(name, ".") {
			continue
		}
		if err := json.Unmarshal(raw, &own); err != nil {
			t.Fatal(err)
		}
		if parent, ok := own["extends"].(string); ok {
			if err := json.Unmarshal(document[parent], &job); err != nil {
				t.Fatalf("%s extends %q: %v", name, parent, err)
			}
		} else {
			job = map[string]any{}
		}
		for k, v := range own {
			if inherited, ok := job[k].(map[string]any); ok {
				for k, v := range v.(map[string]any) {
					inherited[k] = v
				}
				continue
			}
			job[k] = v
		}
		jobs[name] = job
	}
	return jobs
}

// everything returns a folder of templates in which all kinds of jobs are turned on.
func everything(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	text := "(import 'debcloud/settings.libsonnet') + { steps: { clouds: true, cloudTest: true, notify: true, prune: true } }"
	if err := os.WriteFile(filepath.Join(dir, "settings.libsonnet"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLay checks every job of every type against what a good job has, and each file with lint.
func TestLay(t *testing.T) {
	c := load(t, "")
	for uploadType, want := range map[image.UploadType]map[string]int{
		image.Dev:       {"build": 112, "check": 112, "boot": 112, "report": 1, "gather": 5},
		image.Daily:     {"build": 105, "check": 105, "boot": 105, "publish": 136, "cloud": 31, "promote": 24, "index": 1, "notify": 1, "prune": 4},
		image.Published: {"promote": 21, "index": 1, "notify": 1},
	} {
		p := lay(t, c, uploadType, Layout{Templates: everything(t)}, Selection{})
		got := map[string]int{}
		for name, job := range resolved(t, p[0].JSON) {
			kind, _, _ := strings.Cut(name, " ")
			got[kind]++
			goodJob(t, name, job)
			goodValues(t, uploadType, name, job)
		}
		needsExist(t, string(uploadType), resolved(t, p[0].JSON))
		if lasting := strings.Contains(compact(t, json.RawMessage(p[0].JSON)), `"workflow":{"auto_cancel":{"on_new_commit":"none"}}`); lasting != (uploadType != image.Dev) {
			t.Errorf("%s: no newer commit ends it: %v", uploadType, lasting)
		}
		if compact(t, got) != compact(t, want) {
			t.Errorf("%s has %v jobs, want %v", uploadType, got, want)
		}
		lintPipeline(t, string(uploadType), p)
	}
}

// theProgram is a need of the parent's job that builds debcloud.
const theProgram = `{"job":"program","pipeline":"$PARENT_PIPELINE_ID"}`

func goodJob(t *testing.T, name string, job map[string]any) {
	t.Helper()
	for _, key := range []string{"stage", "image", "tags", "timeout", "retry", "interruptible", "rules", "needs", "script", "variables"} {
		if job[key] == nil {
			t.Errorf("job %q has no %s", name, key)
		}
	}
	limit, _ := strconv.Atoi(strings.TrimSuffix(job["timeout"].(string), " minutes"))
	script, _ := strconv.Atoi(strings.TrimSuffix(job["variables"].(map[string]any)["RUNNER_SCRIPT_TIMEOUT"].(string), "m"))
	if script <= 0 || script >= limit {
		t.Errorf("job %q: its script may take %d of %d minutes", name, script, limit)
	}
	if got := compact(t, job["retry"]); got != `{"max":2,"when":["runner_system_failure"]}` {
		t.Errorf("job %q: retry %s", name, got)
	}
	if runs, has := strings.Contains(compact(t, job["script"]), "./debcloud"), strings.Contains(compact(t, job["needs"]), theProgram); runs != has {
		t.Errorf("job %q: runs ./debcloud: %v, needs it: %v", name, runs, has)
	}
	if job["id_tokens"] != nil && compact(t, job["rules"]) != `[{"if":"$CI_COMMIT_REF_PROTECTED == \"true\"","when":"on_success"}]` {
		t.Errorf("job %q has credentials, and rules %s", name, compact(t, job["rules"]))
	}
}

// Rules of jobs, as JSON.
const (
	whenPublished = `[{"if":"$CI_COMMIT_REF_PROTECTED == \"true\"","when":"on_success"}]`
	whenTelling   = `[{"if":"$CI_MERGE_REQUEST_IID","when":"always"}]`
	whenOthersDid = `[{"when":"on_success"}]`
)

// goodValues holds what the jobs of each kind must say beside what all of them have.
func goodValues(t *testing.T, uploadType image.UploadType, name string, job map[string]any) {
	t.Helper()
	kind, _, _ := strings.Cut(name, " ")
	variables, _ := job["variables"].(map[string]any)
	provider, _ := variables["DEBCLOUD_PROVIDER"].(string)
	at := func(path ...string) string {
		var v any = job
		for _, key := range path {
			fields, _ := v.(map[string]any)
			v = fields[key]
		}
		return compact(t, v)
	}
	hold := func(what, got string, good bool) {
		if !good {
			t.Errorf("job %q of type %s: %s is %s", name, uploadType, what, got)
		}
	}
	expect := func(want string, path ...string) {
		hold(strings.Join(path, ":"), at(path...), at(path...) == want)
	}
	present := func(path ...string) { hold(strings.Join(path, ":"), at(path...), at(path...) != "null") }

	expect(fmt.Sprint(uploadType == image.Dev), "interruptible")
	switch {
	case kind == "build" || kind == "check" || kind == "boot":
		expect(whenOthersDid, "rules")
	case uploadType == image.Dev:
		expect(whenTelling, "rules")
	default:
		expect(whenPublished, "rules")
	}
	switch kind {
	case "notify", "prune":
	default:
		expect(`"always"`, "artifacts", "when")
		present("artifacts", "paths")
	}
	if job["artifacts"] != nil {
		present("artifacts", "expire_in")
	}
	switch kind {
	case "check", "boot":
		expect(`"out/*.`+kind+`.xml"`, "artifacts", "reports", "junit")
	case "cloud":
		expect(`"out/*.boot.xml"`, "artifacts", "reports", "junit")
	case "publish":
		if provider == "azure" {
			present("resource_group")
		}
	case "promote":
		expect(`"promote `+provider+`"`, "resource_group")
		present("environment", "name")
		present("environment", "url")
	case "prune":
		expect(`"promote `+provider+`"`, "resource_group")
	case "index", "notify":
		expect(`"`+kind+`"`, "resource_group")
	}
	if split := strings.Contains(at("script"), "--downstream"); kind == "promote" || kind == "report" && !split {
		hold("script", at("script"), strings.Contains(at("script"), `--cells \"$DEBCLOUD_CELLS\"`))
		cells, _ := variables["DEBCLOUD_CELLS"].(string)
		hold("variables:DEBCLOUD_CELLS", cells, cells != "")
	}
	if kind == "promote" {
		hold("script", at("script"), strings.Contains(at("script"), "--plan matrix"))
	}
	if provider != "" && provider != "directory" {
		present("id_tokens")
	}
}

// needsExist finds no job whose rules let it be where those of a job that it needs do not: GitLab refuses such a pipeline.
func needsExist(t *testing.T, summary string, jobs map[string]map[string]any) {
	t.Helper()
	for name, job := range jobs {
		needs, _ := job["needs"].([]any)
		for _, need := range needs {
			needed, ok := need.(string)
			if fields, is := need.(map[string]any); is && fields["pipeline"] == nil {
				needed, ok = fields["job"].(string)
			}
			if !ok || jobs[needed]["rules"] == nil {
				continue // of the parent, or a trigger, which is always there
			}
			if theirs := compact(t, jobs[needed]["rules"]); theirs != whenOthersDid && theirs != compact(t, job["rules"]) {
				t.Errorf("%s: %q with rules %s needs %q with rules %s", summary, name, compact(t, job["rules"]), needed, theirs)
			}
		}
	}
}

// lintPipeline finds no problem in any file of a pipeline.
func lintPipeline(t *testing.T, summary string, p []file) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range p {
		path := filepath.Join(dir, "p.yml"+f.Name)
		if err := os.WriteFile(path, f.JSON, 0o600); err != nil {
			t.Fatal(err)
		}
		problems, err := Lint(t.Context(), path, LintOptions{Schema: upstream(t, "../gitlab-ci-schema.json"), Runners: [][]string{{"debcloud"}}})
		if err != nil || len(problems) > 0 {
			t.Errorf("%s %s: %d problems, first %v; %v", summary, f.Name, len(problems), problems, err)
		}
		if len(f.JSON) > maxPipelineSize {
			t.Errorf("%s %s has %d bytes", summary, f.Name, len(f.JSON))
		}
	}
}

// TestPromoteNeedsAll: a release becomes public only when each of its images was published, tested on its cloud, or both.
func TestPromoteNeedsAll(t *testing.T) {
	jobs := resolved(t, lay(t, load(t, ""), image.Daily, Layout{Templates: everything(t)}, Selection{Releases: []string{"trixie"}})[0].JSON)
	var want int
	for name := range jobs {
		if strings.HasPrefix(name, "publish ") || strings.HasPrefix(name, "cloud test ") {
			want++
		}
	}
	for _, provider := range []string{"directory", "aws", "azure"} {
		needs, _ := jobs["promote trixie "+provider]["needs"].([]any)
		needs = slices.DeleteFunc(needs, func(n any) bool { return compact(t, n) == theProgram })
		taken := 0
		for _, n := range needs {
			if job, ok := n.(string); ok { // a name alone takes the artifacts, too
				taken++
				if !strings.HasSuffix(job, " "+provider) {
					t.Errorf("promotion to %s takes the documents of %s", provider, job)
				}
			}
		}
		if len(needs) != want || taken == 0 {
			t.Errorf("promotion to %s needs %d jobs and takes %d, want %d", provider, len(needs), taken, want)
		}
	}
}

// TestSomeRegionsWarn: what a publication ends with becomes a job's failure, or its warning where the image is in some regions.
func TestSomeRegionsWarn(t *testing.T) {
	jobs := resolved(t, lay(t, load(t, ""), image.Daily, Layout{Templates: everything(t)}, Selection{Releases: []string{"trixie"}})[0].JSON)
	for _, row := range []struct {
		job      string
		code     int    // of debcloud publish
		document string // that it left
		want     int
		warns    bool
	}{
		{"publish trixie ec2 amd64 aws", 0, "x.upload-aws.json", 0, false},
		{"publish trixie ec2 amd64 aws", 3, "x.upload-aws.json", 4, true},
		{"publish trixie ec2 amd64 aws", 3, "x.build.json", 3, false},
		{"publish trixie ec2 amd64 aws", 2, "x.upload-aws.json", 2, false},
		{"publish trixie ec2 amd64 directory", 1, "x.build.json", 1, false},
		{"promote trixie aws", 3, "x.upload-aws.json", 3, true},
		{"promote trixie aws", 2, "x.upload-aws.json", 2, false},
	} {
		dir := t.TempDir()
		program := fmt.Sprintf("#!/bin/sh\nmkdir out\ntouch out/%s\nexit %d\n", row.document, row.code)
		if err := os.WriteFile(filepath.Join(dir, "debcloud"), []byte(program), 0o700); err != nil {
			t.Fatal(err)
		}
		job := jobs[row.job]
		var script []string
		for _, line := range job["script"].([]any) {
			script = append(script, line.(string))
		}
		shell := exec.Command("bash", "-euc", strings.Join(script, "\n"))
		shell.Dir, shell.Env = dir, append(os.Environ(), "DEBCLOUD_CELLS=x")
		out, _ := shell.CombinedOutput() // the exit code is looked at
		code := shell.ProcessState.ExitCode()
		if warns := strings.Contains(compact(t, job["allow_failure"]), fmt.Sprint("[", code, "]")); code != row.want || warns != row.warns {
			t.Errorf("%s, after exit code %d with %s: %d, a warning %v: %s", row.job, row.code, row.document, code, warns, out)
		}
	}
}

// TestLaySplits: pipelines of any size stay inside the limits, with each job in exactly one file.
func TestLaySplits(t *testing.T) {
	for _, row := range []struct {
		summary string
		cells   int
		archs   int // more of them make a single release large
		size    int // of a file
		files   int
	}{
		{"a release beyond 50 needs", 20, 10, 0, 1},
		{"a release beyond a file", 20, 15, 80_000, 4},
		{"many releases", 400, 0, 0, 4},
	} {
		source := synthetic(row.cells)
		for i := range row.archs {
			source = strings.Replace(source, "archs:\n", fmt.Sprintf("archs:\n- {name: more%d}\n", i), 1)
		}
		c, err := parse("c.yaml", []byte(source))
		if err != nil {
			t.Fatal(err)
		}
		p := lay(t, c, image.Daily, Layout{Templates: everything(t), fileSize: row.size}, Selection{})
		if len(p) != row.files {
			t.Errorf("%s: %d files, want %d", row.summary, len(p), row.files)
		}
		builds := map[string]bool{}
		for _, f := range p {
			jobs := resolved(t, f.JSON)
			needsExist(t, row.summary, jobs)
			for name, job := range jobs {
				if trigger, is := job["trigger"].(map[string]any); is && trigger["strategy"] != "depend" {
					t.Errorf("%s: %s does not wait for its child: %v", row.summary, name, trigger)
				} else if artifacts, has := job["artifacts"].(map[string]any); has && artifacts["expire_in"] == nil {
					t.Errorf("%s: %s keeps its artifacts for ever", row.summary, name)
				}
				if strings.HasPrefix(name, "gather ") {
					goodValues(t, image.Daily, name, job)
				}
				if strings.HasPrefix(name, "build ") {
					if builds[name] {
						t.Errorf("%s: %s stands in two files", row.summary, name)
					}
					builds[name] = true
				}
			}
		}
		plan, _ := c.Plan(image.Daily, Selection{})
		if len(builds) != len(plan.Data.Cells) {
			t.Errorf("%s: %d builds for %d cells", row.summary, len(builds), len(plan.Data.Cells))
		}
		lintPipeline(t, row.summary, p)
	}
}

// TestLayTenThousand: GitLab's limits hold at that size too, of all that the generating job hands on.
func TestLayTenThousand(t *testing.T) {
	c, err := parse("c.yaml", []byte(synthetic(10000)))
	if err != nil {
		t.Fatal(err)
	}
	p := lay(t, c, image.Daily, Layout{}, Selection{})
	lintPipeline(t, "first and last", []file{p[0], p[len(p)-1]})
	boots, started := 0, 0
	for _, f := range p {
		boots += strings.Count(string(f.JSON), `"boot release`) / 2 // the job, and publish's need of it
		n := strings.Count(string(f.JSON), `"trigger": {`)
		if started += n; n > 0 && f.Name != "" {
			t.Fatalf("%s starts a third level of children", f.Name)
		}
	}
	if boots != 10000 || started != len(p)-1 {
		t.Errorf("%d boots; %d of %d files are started", boots, started, len(p)-1)
	}
	plan, err := c.Plan(image.Daily, Selection{Releases: []string{"release0", "release1", "release2", "release3", "release4", "release5", "release6", "release7", "release8"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = emitted(t, Layout{PartName: "child", artifactSize: 1000}, plan)
	wantInput(t, "an artifact beyond the limit", err, "GitLab's limit of the artifact that carries them is 1000: select fewer images")
}

func TestLayNothing(t *testing.T) {
	p := lay(t, load(t, ""), image.Daily, Layout{}, Selection{Vendors: []string{"gce"}})
	jobs := resolved(t, p[0].JSON)
	if v, _ := jobs["nothing to do"]["variables"].(map[string]any); len(jobs) != 1 || v["DEBCLOUD_WHY"] != "no image of type daily matches --vendor gce" {
		t.Errorf("jobs %v", jobs)
	}
	lintPipeline(t, "nothing", p)
}

func TestLayRefuses(t *testing.T) {
	c := load(t, "")
	plan, _ := c.Plan(image.Published, Selection{})
	_, err := emitted(t, Layout{}, plan)
	wantInput(t, "a release of nothing", err, "a release promotes a daily version, and none is named")
	if hint := fault.HintOf(err); !strings.Contains(hint, "--version") {
		t.Errorf("hint %q", hint)
	}
}

// TestLayConfig: every job that reads the matrix reads the one that its pipeline was made of.
func TestLayConfig(t *testing.T) {
	c := load(t, "")
	for config, want := range map[string]string{"": "", "ci/it's $mine.yaml": ` --config 'ci/it'"'"'s $mine.yaml'`} {
		seen := map[string]bool{}
		for _, uploadType := range []image.UploadType{image.Dev, image.Daily, image.Published} {
			p := lay(t, c, uploadType, Layout{Templates: everything(t), Config: config}, Selection{Releases: []string{"trixie"}})
			for name, job := range resolved(t, p[0].JSON) {
				kind, _, _ := strings.Cut(name, " ")
				seen[kind] = true
				reads := want != "" && slices.Contains([]string{"build", "publish", "promote", "prune"}, kind)
				script, _ := job["script"].([]any)
				last, _ := script[len(script)-1].(string)
				if strings.Contains(last, " --config ") != reads || reads && !strings.Contains(last+" ", want+" ") {
					t.Errorf("%q of type %s does %s", name, uploadType, last)
				}
			}
		}
		if !seen["build"] || !seen["publish"] || !seen["promote"] || !seen["prune"] {
			t.Errorf("only %v", seen)
		}
	}
}

// TestLayOtherType: the templates would publish nothing of a type that they do not know, and promote it.
func TestLayOtherType(t *testing.T) {
	_, err := emitted(t, Layout{}, manifest.NewPlan("weekly"))
	wantInput(t, "a type that the matrix declares beside ours", err, `layout debcloud has no jobs for type "weekly"`)
}

// TestTemplates: a team's folder goes before the built-in templates and can build on them.
func TestTemplates(t *testing.T) {
	c := load(t, "")
	one := Selection{[]string{"trixie"}, []string{"ec2"}, []string{"amd64"}}
	for _, row := range []struct{ summary, file, text, want, err string }{
		{"settings of its own", "settings.libsonnet", "(import 'debcloud/settings.libsonnet') + { tags+: { vm: ['mine'] } }", `"tags": [ "mine" ]`, ""},
		{"a kind on top of the built-in one", "build.libsonnet", "function(lib) (import 'debcloud/build.libsonnet')(lib) + { base+: { before_script: ['date'] } }", `"before_script": [ "date" ]`, ""},
		{"syntax error: file and line", "build.libsonnet", "function(lib) {\n  base: \n}", "", "build.libsonnet:3:"},
		{"a field that does not exist: file and line", "build.libsonnet", "function(lib) {\n  base: lib.jobb('build'),\n  of(cell): {},\n}", "", "build.libsonnet:2:9-17"},
		{"a list", "pipeline.jsonnet", "function(context) [1, 2]", "", `yields "[ 1, 2 ]", which is no object`},
		{"a text", "pipeline.jsonnet", "function(context) 'job: {}'", "", "which is no object"},
		{"an import outside the folder", "build.libsonnet", "import '../../secret'", "", `import "../../secret" leaves the folder`},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, row.file), []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		plan, err := c.Plan(image.Dev, one)
		if err != nil {
			t.Fatal(err)
		}
		p, err := emitted(t, Layout{Templates: dir}, plan)
		if row.err != "" {
			wantInput(t, row.summary, err, row.err)
		} else if err != nil || !strings.Contains(strings.Join(strings.Fields(string(p[0].JSON)), " "), row.want) {
			t.Errorf("%s: no %s in the pipeline, %v", row.summary, row.want, err)
		}
	}
	_, err := emitted(t, Layout{Templates: "nowhere"}, manifest.NewPlan(image.Dev))
	wantInput(t, "no folder", err, "--templates nowhere: no such file or directory")
}

func BenchmarkLay(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		c, err := parse("synthetic.yaml", []byte(synthetic(n)))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				size := 0
				p := lay(b, c, image.Daily, Layout{}, Selection{})
				for _, f := range p {
					size += len(f.JSON)
				}
				b.ReportMetric(float64(size)/float64(n), "bytes/cell")
				b.ReportMetric(float64(len(p)), "files")
			}
		})
	}
}

// TestPrepare: templates that were parsed ahead make the same pipeline, as often as one is laid out.
func TestPrepare(t *testing.T) {
	c := load(t, "")
	want := lay(t, c, image.Daily, Layout{}, Selection{Releases: []string{"trixie"}})
	var l Layout
	l.Prepare()
	for range 2 {
		if got := lay(t, c, image.Daily, l, Selection{Releases: []string{"trixie"}}); compact(t, got) != compact(t, want) {
			t.Error("it differs")
		}
	}
}

// TestReportOfParts: a dev plan of any size has one report, which comes after all parts, whatever became of them, and is told of each image.
func TestReportOfParts(t *testing.T) {
	for _, row := range []struct {
		summary  string
		cells    int
		size     int // of a file
		parts    int
		gathered int // needs that gather others
	}{
		{"parts", 400, 0, 3, 0},
		{"more parts than a job may need", 1800, 60_000, 52, 2},
	} {
		c, err := parse("c.yaml", []byte(synthetic(row.cells)))
		if err != nil {
			t.Fatal(err)
		}
		p := lay(t, c, image.Dev, Layout{fileSize: row.size}, Selection{})
		lintPipeline(t, row.summary, p)
		last := p[len(p)-1]
		jobs := resolved(t, last.JSON)
		needsExist(t, row.summary, jobs)
		needed, gathered := map[string]bool{}, 0
		var need func(name string)
		need = func(name string) {
			goodJob(t, name, jobs[name])
			goodValues(t, image.Dev, name, jobs[name])
			for _, n := range jobs[name]["needs"].([]any) {
				if fields, is := n.(map[string]any); is && fields["artifacts"] == false {
					needed[fields["job"].(string)] = true
				} else if n, is := n.(string); is {
					gathered++
					need(n)
				}
			}
		}
		need("report")
		script := compact(t, jobs["report"]["script"])
		for _, f := range p[:len(p)-1] {
			part := "images " + strings.Split(f.Name, ".")[1]
			if !needed[part] || jobs[part]["trigger"] == nil || strings.Count(script, "--cells-of '"+f.Name+"'") != 1 {
				t.Errorf("%s: the report does not wait for %q or is not told of its images: %s", row.summary, part, script)
			}
			if strings.Contains(string(f.JSON), `"report"`) {
				t.Errorf("%s: %s has a report, too", row.summary, f.Name)
			}
		}
		if needs := compact(t, jobs["report"]["needs"]); !strings.Contains(needs, theFiles) {
			t.Errorf("%s: the report does not have the files that it reads: %s", row.summary, needs)
		}
		if len(needed) != len(p)-1 || len(p)-1 != row.parts || gathered != row.gathered {
			t.Errorf("%s: it waits for %d of %d parts, by %d jobs", row.summary, len(needed), len(p)-1, gathered)
		}
	}
}

// theFiles is a need of the parent's job that generated the pipeline.
const theFiles = `{"job":"generate","pipeline":"$PARENT_PIPELINE_ID"}`

// TestReportOfPartsRuns: without a token the job says that there can be no note, and passes.
func TestReportOfPartsRuns(t *testing.T) {
	c, err := parse("c.yaml", []byte(synthetic(400)))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := c.Plan(image.Dev, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := emitted(t, Layout{PartName: "it's $mine"}, plan)
	if err != nil {
		t.Fatal(err)
	}
	var script []string
	for _, line := range resolved(t, p[len(p)-1].JSON)["report"]["script"].([]any) {
		script = append(script, line.(string))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "debcloud"), []byte("#!/bin/sh\necho \"$@\"\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		token string
		code  int
		out   string
	}{
		{"", 0, "There is no note: "},
		{"glpat-x", 3, "salsa report --downstream --cells-of it's $mine.1.yml --cells-of it's $mine.2.yml --cells-of it's $mine.3.yml --baseline-ref main\n"},
	} {
		shell := exec.Command("sh", "-euc", strings.Join(script, "\n"))
		shell.Dir, shell.Env = dir, []string{"DEBCLOUD_SALSA_TOKEN=" + row.token, "CI_MERGE_REQUEST_TARGET_BRANCH_NAME=main"}
		out, _ := shell.CombinedOutput() // the exit code is looked at
		if code := shell.ProcessState.ExitCode(); code != row.code || !strings.HasPrefix(string(out), row.out) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("with token %q: exit code %d, %s", row.token, code, out)
		}
	}
}

// TestCellsOf: the files of a split pipeline name all images of the plan, each once.
func TestCellsOf(t *testing.T) {
	c, err := parse("c.yaml", []byte(synthetic(400)))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := c.Plan(image.Dev, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, cell := range plan.Data.Cells {
		want = append(want, cellKey(cell))
	}
	dir := t.TempDir()
	for _, f := range lay(t, c, image.Dev, Layout{}, Selection{}) {
		path := filepath.Join(dir, "p"+f.Name)
		if err := os.WriteFile(path, f.JSON, 0o600); err != nil {
			t.Fatal(err)
		}
		of, err := CellsOf(path)
		if err != nil || len(of) == 0 && f.Name != "" {
			t.Errorf("%s has %d images, %v", f.Name, len(of), err)
		}
		got = append(got, of...)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d images, want %d: %.3q, %.3q", len(got), len(want), got, want)
	}
	mixed := filepath.Join(dir, "mixed.yml")
	text := `{"a": {"variables": {"DEBCLOUD_RELEASE": "sid", "DEBCLOUD_VENDOR": "ec2", "DEBCLOUD_ARCH": "arm64", "MORE": 3}},
"b": {"variables": {"DEBCLOUD_RELEASE": "sid"}}, "c": {"variables": {"DEBCLOUD_RELEASE": "sid", "DEBCLOUD_VENDOR": 1, "DEBCLOUD_ARCH": "arm64"}}, "stages": ["x"]}`
	if err := os.WriteFile(mixed, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if of, err := CellsOf(mixed); err != nil || !slices.Equal(of, []string{"sid ec2 arm64"}) {
		t.Errorf("%q, %v", of, err)
	}
	for name, text := range map[string]string{"none.yml": "", "list.yml": "[]", "by-hand.yml": "build: {script: [make]}"} {
		path := filepath.Join(dir, name)
		if name != "none.yml" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := CellsOf(path)
		wantInput(t, name, err, name)
	}
}
