package salsa

import (
	"context"
	"fmt"
	"os"
	"unicode/utf8"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// maxConfiguration is far over what GitLab parses (2 MB by default) and under what its web server takes.
const maxConfiguration = 16 << 20

// LintOptions say how a configuration is linted.
type LintOptions struct {
	Ref    string // branch or tag in whose place the configuration is tried, "" for the default branch
	DryRun bool   // simulate the creation of a pipeline, rules and needs among it, instead of a static check
}

// LintResult is GitLab's verdict. Errors and warnings are one line each.
type LintResult struct {
	Valid    bool
	Errors   []string
	Warnings []string
}

// ReadConfiguration reads a configuration to lint. Errors are of kind Input.
func ReadConfiguration(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err == nil && info.Size() > maxConfiguration {
		err = fmt.Errorf("%s has %d bytes, more than the %d that any GitLab takes", path, info.Size(), maxConfiguration)
	}
	if err != nil {
		return "", fault.Inputf("the configuration cannot be read: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fault.Inputf("the configuration cannot be read: %w", err)
	}
	if !utf8.Valid(text) {
		return "", fault.Inputf("%s is not UTF-8 text", path)
	}
	return string(text), nil
}

// Lint asks GitLab's CI lint API, in the context of the project, whether it would run configuration.
// A configuration that is not valid is a result, not an error.
func (c *Client) Lint(ctx context.Context, configuration string, o LintOptions) (*LintResult, error) {
	if err := c.demandAccess("the CI lint API"); err != nil {
		return nil, err
	}
	request := &gitlab.ProjectNamespaceLintOptions{Content: &configuration, DryRun: &o.DryRun}
	if o.Ref != "" {
		request.Ref = &o.Ref
	}
	r, _, err := c.api.Validate.ProjectNamespaceLint(c.project, request, gitlab.WithContext(repeatable(ctx)))
	if err != nil {
		return nil, c.explain(ctx, err, "lint the configuration")
	}
	result := &LintResult{Valid: r.Valid}
	for _, e := range r.Errors {
		result.Errors = append(result.Errors, oneLine(e))
	}
	for _, w := range r.Warnings {
		result.Warnings = append(result.Warnings, oneLine(w))
	}
	return result, nil
}
