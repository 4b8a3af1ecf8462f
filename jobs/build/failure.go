package build

import (
	"fmt"
	"os"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// explain reads FAI's log and says what went wrong, if anything did: FAI's exit status tells that a task failed, but not
// which package or script it was, and apt goes on when an index cannot be fetched.
func (b *build) explain(failed error, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if cause := causeOf(string(text)); cause != nil {
		return fault.WithHint(cause, "%s", joinHints(fault.HintOf(cause), "the whole log is "+path))
	}
	if failed != nil {
		return fault.WithHint(fmt.Errorf("FAI failed (%w): %s", failed, tail(string(text), 3)), "the whole log is %s", path)
	}
	return nil
}

func joinHints(hints ...string) string {
	var all []string
	for _, h := range hints {
		if h != "" {
			all = append(all, h)
		}
	}
	return strings.Join(all, "; ")
}

// causes are in the order of which explains most: a full disk makes scripts fail, an unreachable mirror makes packages be missing.
var causes = []struct {
	pattern *lazyregexp.Regexp
	explain func(log string, match []string) error
}{
	{lazyregexp.New(`(?m)^.*No space left on device.*$`), func(_ string, m []string) error {
		return fault.WithHint(fault.Outsidef("no space is left for the tree: %s", strings.TrimSpace(m[0])), "free memory or disk space")
	}},
	{lazyregexp.New(`(?m)^(?:W|E|Err:.*): (?:Failed to fetch|Cannot initiate the connection to|Could not resolve) (\S+)\s+(.*)$`), func(_ string, m []string) error {
		return unreachable(m[1], m[2])
	}},
	{lazyregexp.New(`(?m)^E: The repository '(\S+) [^']*' (?:does not have a Release file|is not signed|no longer has a Release file)`), func(_ string, m []string) error {
		return unreachable(m[1], "it is no Debian mirror, or lacks the release")
	}},
	{lazyregexp.New(`(?m)^E: (?:Failed getting release file|Invalid Release file, no entry for) (\S+)`), func(_ string, m []string) error {
		return unreachable(m[1], "")
	}},
	{lazyregexp.New(`(?ms)^Calling debootstrap [^\n]* (\S+) *$.*^E: (Error executing gpgv[^\n]*|Invalid Release signature[^\n]*)$`), func(_ string, m []string) error {
		return unreachable(m[1], m[2])
	}},
	{lazyregexp.New(`(?m)^E: (?:Couldn't download packages|Couldn't find these debs): (.*)$`), func(_ string, m []string) error {
		return missingPackage(strings.Fields(m[1])...)
	}},
	{lazyregexp.New(`(?m)^E: Unable to locate package (\S+)$`), func(_ string, m []string) error { return missingPackage(m[1]) }},
	{lazyregexp.New(`(?m)^E: Package '(\S+)' has no installation candidate$`), func(_ string, m []string) error { return missingPackage(m[1]) }},
	{lazyregexp.New(`(?m)^E: Couldn't find any package by (?:glob|regex) '(\S+)'$`), func(_ string, m []string) error { return missingPackage(m[1]) }},
	{lazyregexp.New(`(?m)^dpkg: error processing (?:package|archive) (\S+).*:\n(.*)$`), func(log string, m []string) error {
		return fmt.Errorf("package %q cannot be installed: %s: %s", m[1], strings.TrimSpace(m[2]), before(log, m[0], 3))
	}},
	{lazyregexp.New(`(?m)^(\S+)\s+FAILED with exit code (\d+)\.$`), func(log string, m []string) error {
		return fmt.Errorf("script %q of the config space failed with exit code %s: %s", m[1], m[2], scriptSaid(log, m[1]))
	}},
	{lazyregexp.New(`(?m)^(?:The following packages have unmet dependencies:)\n((?: .*\n)+)`), func(_ string, m []string) error {
		return fmt.Errorf("packages contradict each other: %s", oneLine(m[1]))
	}},
	{lazyregexp.New(`(?m)^E: (.*)$`), func(_ string, m []string) error { return fmt.Errorf("packages cannot be installed: %s", m[1]) }},
	{lazyregexp.New(`(?m)^Exit code task_(\w+): (\d+)$`), func(log string, m []string) error {
		return fmt.Errorf("FAI's task %q failed with code %s: %s", m[1], m[2], before(log, m[0], 3))
	}},
}

// causeOf finds the first cause of failure in FAI's log, or nil.
func causeOf(log string) error {
	for _, c := range causes {
		if m := c.pattern.FindStringSubmatch(log); m != nil {
			return c.explain(log, m)
		}
	}
	return nil
}

func unreachable(url, why string) error {
	err := fault.Outsidef("mirror %s cannot be used: %s", url, oneLine(why))
	if strings.TrimSpace(why) == "" {
		err = fault.Outsidef("mirror %s cannot be reached", url)
	}
	return fault.WithHint(err, "try again later, or give --mirror URL of another mirror")
}

func missingPackage(names ...string) error {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	if len(names) == 1 {
		return fault.Inputf("package %s is not in the archive: correct package_config in the config space", quoted[0])
	}
	return fault.Inputf("packages %s are not in the archive: correct package_config in the config space", strings.Join(quoted, ", "))
}

// scriptSaid returns the last lines of what the script printed, from FAI's scripts.log. Its heading there says "shell:" of a shell
// script, of another what file(1) does.
func scriptSaid(log, script string) string {
	_, after, ok := strings.Cut(log, " "+script+"   =====\n")
	if !ok {
		return "it printed nothing"
	}
	said, _, _ := strings.Cut(after, script+" ")
	if strings.TrimSpace(said) == "" {
		return "it printed nothing"
	}
	return tail(said, 5)
}

// before returns the last n lines that stand before mark.
func before(log, mark string, n int) string {
	text, _, _ := strings.Cut(log, mark)
	return tail(text, n)
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return oneLine(strings.Join(lines[max(0, len(lines)-n):], "\n"))
}

// oneLine joins lines for a message.
func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
