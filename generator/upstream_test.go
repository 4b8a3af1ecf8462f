package generator

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
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
	return evaluate(ctx, vmimages.Matrix, "vmimages", "matrix.jsonnet", nil)
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
