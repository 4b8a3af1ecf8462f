package generator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/vmimages"
)

// upstream returns the path of a file of the team's present configuration, which lies beside the repository.
func upstream(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	path := filepath.Join(filepath.Dir(dir), "shared", "data", "upstream", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no upstream data: %v", err)
	}
	return path
}

func load(t testing.TB, path string) *Config {
	t.Helper()
	c, err := Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// job is what the tests read of a job of a pipeline.
type job struct {
	Variables map[string]string `json:"variables"`
}

func pipeline(t testing.TB, name string) map[string]job {
	t.Helper()
	source, err := os.ReadFile(upstream(t, name))
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "\n")
	jobs := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(body), &jobs); err != nil {
		t.Fatal(err)
	}
	out := map[string]job{}
	for name, raw := range jobs {
		var j job
		if name != "variables" && json.Unmarshal(raw, &j) == nil {
			out[name] = j
		}
	}
	return out
}

// TestBuildCells compares the cells that are built with those of the pipelines that the team's present generator makes.
func TestBuildCells(t *testing.T) {
	for _, row := range []struct {
		uploadType image.UploadType
		pipeline   string
		builds     int
	}{
		{image.Dev, "generated.yml", 112},
		{image.Daily, "generated-daily.yml", 105},
		{image.Published, "generated-release.yml", 0},
	} {
		want := map[string]bool{}
		for name, j := range pipeline(t, row.pipeline) {
			if strings.HasSuffix(name, " build") {
				v := j.Variables
				want[v["CLOUD_RELEASE"]+" "+v["CLOUD_VENDOR"]+" "+v["CLOUD_ARCH"]+" "+v["CLOUD_UPLOAD_GROUP"]] = true
			}
		}
		if len(want) != row.builds {
			t.Fatalf("%s has %d builds, not %d", row.pipeline, len(want), row.builds)
		}
		for _, config := range []string{"", upstream(t, "image.yaml")} {
			plan, err := load(t, config).Plan(row.uploadType, Selection{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{}
			for _, c := range plan.Data.Cells {
				if c.Build {
					got[c.Release+" "+c.Vendor+" "+c.Arch+" "+c.UploadGroup] = true
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("config %q, type %s: %d builds, want %d\nextra: %v\nmissing: %v", config, row.uploadType, len(got), len(want), without(got, want), without(want, got))
			}
		}
	}
}

func without(a, b map[string]bool) []string {
	var out []string
	for k := range a {
		if !b[k] {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// TestMatrixIsUpstreams compares the whole built-in document with the team's file. Additions of ours would be allowed.
func TestMatrixIsUpstreams(t *testing.T) {
	source, err := os.ReadFile(upstream(t, "image.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := yaml.Unmarshal(source, &want); err != nil {
		t.Fatal(err)
	}
	text, err := evaluateMatrix(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	for key := range want {
		a, b := compact(t, got[key]), compact(t, want[key])
		if a != b {
			t.Errorf("%s differs\ngot  %s\nwant %s", key, a, b)
		}
	}
}

func evaluateMatrix(ctx context.Context) (string, error) {
	return evaluate(ctx, vmimages.Matrix, "vmimages", "matrix.jsonnet")
}

func compact(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestClasses(t *testing.T) {
	c := load(t, "")
	dev, _ := c.BuildType("dev")
	official, _ := c.BuildType("official")
	for cell := range c.cells() {
		for _, b := range []image.BuildType{dev, official} {
			classes := c.Classes(cell, b)
			// An official nocloud image has the fewest classes, a dev image of Azure or EC2 the most.
			if n := len(classes); n < 192 || n > 512 {
				t.Errorf("%s %s has %d classes", cell, b.Name, n)
			}
			if unique := slices.Compact(slices.Sorted(slices.Values(classes))); len(unique) != len(classes) {
				t.Errorf("%s %s has a class twice", cell, b.Name)
			}
		}
	}
	cell, err := c.Cell("bookworm", "azure", "amd64")
	if err != nil {
		t.Fatal(err)
	}
	classes := c.Classes(cell, official)
	if got := strings.Join(classes[:7], " "); got != "BUILD_IMAGE BASE DEBIAN BUILD_IMAGE+BOOKWORM BASE+BOOKWORM DEBIAN+BOOKWORM BOOKWORM" {
		t.Errorf("the first classes are %s", got)
	}
	if classes[len(classes)-1] != "LAST" || classes[len(classes)-2] != "AMD64" {
		t.Errorf("the last classes are %v", classes[len(classes)-2:])
	}
	for _, want := range []string{"BOOKWORM+AZURE", "AZURE+AMD64", "BOOKWORM+AZURE+AMD64", "DEBIAN+BOOKWORM+AZURE+AMD64"} {
		if !slices.Contains(classes, want) {
			t.Errorf("class %s is missing", want)
		}
	}
	if slices.Contains(classes, "CLOUD+AZURE") {
		t.Error("two classes of one group are combined")
	}
	if got, want := len(c.Classes(cell, dev)), 512; got != want {
		t.Errorf("%d classes of type dev, want %d", got, want)
	}
}

// TestUpstreamLayout compares whole pipelines, as parsed JSON.
func TestUpstreamLayout(t *testing.T) {
	for uploadType, name := range map[image.UploadType]string{image.Dev: "generated.yml", image.Daily: "generated-daily.yml", image.Published: "generated-release.yml"} {
		source, err := os.ReadFile(upstream(t, name))
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := yaml.Unmarshal(source, &want); err != nil {
			t.Fatal(err)
		}
		for _, config := range []string{"", upstream(t, "image.yaml")} {
			plan, err := load(t, config).Plan(uploadType, Selection{})
			if err != nil {
				t.Fatal(err)
			}
			text, err := Upstream(plan)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			for key := range maps.Keys(want) {
				if a, b := compact(t, got[key]), compact(t, want[key]); a != b {
					t.Errorf("config %q, %s: job %q\ngot  %s\nwant %s", config, name, key, a, b)
				}
			}
			if len(got) != len(want) {
				t.Errorf("config %q, %s: %d keys, want %d", config, name, len(got), len(want))
			}
		}
	}
}

// TestUpstreamLayoutFollowsConfig changes the configuration and looks at what upstream's rules make of it.
func TestUpstreamLayoutFollowsConfig(t *testing.T) {
	for _, row := range []struct{ summary, types, uploadType, job, want string }{
		{"a group serialises any vendor's uploads", "{matchVendors: [ec2], op: EnableUpload, uploadGroup: g}", "daily", "ec2 trixie amd64 upload",
			`{"extends":".ec2 upload","needs":[{"job":"ec2 trixie amd64 build","optional":false}],"resource_group":"ec2 group-g upload","rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_ARCH":"amd64","CLOUD_RELEASE":"trixie","CLOUD_UPLOAD_GROUP":"g","CLOUD_VENDOR":"ec2"}}`},
		{"its post-upload is the group's", "{matchVendors: [ec2], op: EnableUpload, uploadGroup: g}", "daily", "ec2 group-g postupload",
			`{"extends":".ec2 postupload","needs":[{"job":"ec2 trixie amd64 build","optional":false},{"job":"ec2 trixie amd64 upload","optional":true},{"job":"ec2 trixie arm64 build","optional":false},{"job":"ec2 trixie arm64 upload","optional":true}],"rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_UPLOAD_GROUP":"g"}}`},
		{"without a group there is no queue", "{matchVendors: [azure], op: EnableUpload}", "release", "azure trixie arm64 upload",
			`{"extends":".azure upload","needs":[],"rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_ARCH":"arm64","CLOUD_RELEASE":"trixie","CLOUD_VENDOR":"azure"}}`},
		{"a group on images that are not uploaded is still told to the build", "{matchVendors: [ec2], uploadGroup: g}", "daily", "ec2 trixie amd64 build",
			`{"extends":".build","rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_ARCH":"amd64","CLOUD_RELEASE":"trixie","CLOUD_UPLOAD_GROUP":"g","CLOUD_VENDOR":"ec2"}}`},
		{"a release of which nothing is uploaded to a cloud is published all the same", "{matchVendors: [ec2]}", "release", "trixie upload",
			`{"extends":".upload","needs":[],"rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_RELEASE":"trixie"}}`},
		{"a later rule can settle the upload of an image that an earlier one lets pass", "{matchArches: [arm64]}\n  - {matchVendors: [ec2], op: EnableUpload}", "release", "ec2 trixie arm64 upload",
			`{"extends":".ec2 upload","needs":[],"rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_ARCH":"arm64","CLOUD_RELEASE":"trixie","CLOUD_VENDOR":"ec2"}}`},
		{"an upload that is disabled after it was enabled stays", "{matchVendors: [ec2], op: EnableUpload}\n  - {op: DisableUpload}", "release", "ec2 trixie arm64 upload",
			`{"extends":".ec2 upload","needs":[],"rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{"CLOUD_ARCH":"arm64","CLOUD_RELEASE":"trixie","CLOUD_VENDOR":"ec2"}}`},
		{"an image whose upload is disabled is not made", "{matchVendors: [ec2], op: DisableUpload}\n  - {op: EnableUpload}", "daily", "ec2 trixie arm64 build", "null"},
		{"an empty group is none, and no later rule names one", "{matchVendors: [ec2], uploadGroup: ''}\n  - {op: EnableUpload, uploadGroup: g}", "daily", "ec2 postupload",
			`{"extends":".ec2 postupload","needs":[{"job":"ec2 trixie amd64 build","optional":false},{"job":"ec2 trixie amd64 upload","optional":true},{"job":"ec2 trixie arm64 build","optional":false},{"job":"ec2 trixie arm64 upload","optional":true}],"rules":[{"if":"$PIPELINE_RELEASE_TRIXIE"}],"variables":{}}`},
		{"any other type is built by hand", "{matchVendors: [ec2], uploadGroup: g}", "weekly", "ec2 trixie amd64 build",
			`{"extends":".build","rules":[{"when":"manual"}],"variables":{"CLOUD_ARCH":"amd64","CLOUD_RELEASE":"trixie","CLOUD_VENDOR":"ec2"}}`},
		{"the pipeline's variables are of the releases that are there", "{matchVendors: [ec2]}", "daily", "variables", `{"PIPELINE_RELEASE_TRIXIE":"1"}`},
	} {
		c, err := parse("c.yaml", []byte(small+"- name: "+row.uploadType+"\n  matches:\n  - "+row.types+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		plan, err := c.Plan(image.UploadType(row.uploadType), Selection{})
		if err != nil {
			t.Fatal(err)
		}
		text, err := Upstream(plan)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		if a := compact(t, got[row.job]); a != row.want {
			t.Errorf("%s: job %q\ngot  %s\nwant %s", row.summary, row.job, a, row.want)
		}
	}
}

func TestUpstreamLayoutRefuses(t *testing.T) {
	big, err := parse("big.yaml", []byte(synthetic(2000)))
	if err != nil {
		t.Fatal(err)
	}
	daily, err := big.Plan(image.Daily, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Upstream(daily)
	wantInput(t, "too many needs", err, `job "vendor0 postupload" needs 1000 jobs, but upstream's layout allows fewer than 50`)
	c, err := parse("c.yaml", []byte(strings.Replace(small, "- name: dev\n", "- name: dev\n  matches: [{op: EnableUpload}]\n", 1)))
	if err != nil && strings.Contains(err.Error(), "missing") {
		t.Fatal(err)
	}
	dev, err := c.Plan(image.Dev, Selection{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Upstream(dev)
	wantInput(t, "dev uploads", err, `trixie azure amd64 is uploaded by type "dev"`)
}

// TestUpstreamLayoutLimit: upstream's generator writes 49 needs of a job and no more.
func TestUpstreamLayoutLimit(t *testing.T) {
	for needs, want := range map[int]string{49: "", 50: `job "r upload" needs 50 jobs, but upstream's layout allows fewer than 50`} {
		plan := &manifest.Plan{}
		plan.Data.Type = image.Daily
		for i := range needs {
			plan.Data.Cells = append(plan.Data.Cells, manifest.PlanCell{Release: "r", Vendor: fmt.Sprintf("v%d", i), Arch: "amd64", Build: true})
		}
		text, err := Upstream(plan)
		if want != "" {
			wantInput(t, "a need too many", err, want)
		} else if err != nil || strings.Count(string(text), `"job": `) != needs {
			t.Errorf("%d needs: %v\n%s", needs, err, text)
		}
	}
}

// TestUpstreamLayoutNothing: the pipeline of an empty plan is valid inside the team's own file, which declares its stages.
func TestUpstreamLayoutNothing(t *testing.T) {
	parent, err := os.ReadFile(upstream(t, "gitlab-ci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	plan := &manifest.Plan{}
	plan.Data.Type, plan.Data.Why = image.Dev, "no image matches"
	text, err := Upstream(plan)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, source := range map[string][]byte{".git/HEAD": nil, ".gitlab-ci.yml": parent, ".gitlab/ci/generated.yml": text} {
		path := filepath.Join(dir, name)
		if err := cmp.Or(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, source, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := Lint(t.Context(), filepath.Join(dir, ".gitlab-ci.yml"), LintOptions{})
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
