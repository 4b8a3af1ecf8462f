package generator

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// CellsOf returns the names of the images, "trixie ec2 amd64", that the jobs of one of Lay's files are for, sorted. A file that cannot
// be read or is none of those is an input error; one that only starts others has no images.
func CellsOf(path string) ([]string, error) {
	source, err := readPipeline(path)
	if err != nil {
		return nil, err
	}
	var jobs map[string]json.RawMessage
	if err := json.Unmarshal(source, &jobs); err != nil {
		return nil, fault.Inputf("pipeline %s is no file of debcloud pipeline: %w", path, err)
	}
	names := map[string]bool{}
	for _, raw := range jobs {
		var job struct {
			Variables map[string]any `json:"variables"` // a template's may be numbers
		}
		if json.Unmarshal(raw, &job) != nil {
			continue // no job: the stages
		}
		var words []string
		for _, key := range []string{"DEBCLOUD_RELEASE", "DEBCLOUD_VENDOR", "DEBCLOUD_ARCH"} {
			if word, ok := job.Variables[key].(string); ok {
				words = append(words, word)
			}
		}
		if len(words) == 3 {
			names[strings.Join(words, " ")] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}
