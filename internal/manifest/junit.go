package manifest

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
)

// GitLab reads classname, name, time, failure and skipped of a test case and system-out
// (docs.gitlab.com, "Unit test reports").
type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Cases     []junitCase `xml:"testcase"`
	SystemOut string      `xml:"system-out,omitempty"`
}

type junitCase struct {
	Class     string        `xml:"classname,attr"`
	Name      string        `xml:"name,attr"`
	Time      string        `xml:"time,attr"`
	Failure   *junitMessage `xml:"failure"`
	Skipped   *junitMessage `xml:"skipped"`
	SystemOut string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes s to path as JUnit XML that GitLab reads. subject names the image and becomes the class name.
func (s Suite) WriteJUnit(path, subject string) error {
	suite := junitSuite{
		Name: subject + " " + s.Name, Tests: len(s.Checks), Failures: len(s.Failures()),
		Time: seconds(s.Seconds), Timestamp: s.Started.UTC().Format("2006-01-02T15:04:05"),
	}
	for _, c := range s.Checks {
		j := junitCase{Class: subject + "." + s.Name, Name: c.ID + ": " + c.Name, Time: seconds(c.Seconds)}
		switch c.Result {
		case Passed:
			j.SystemOut = printable(c.Evidence)
		case Skipped:
			suite.Skipped++
			j.Skipped = &junitMessage{Message: printable(c.Evidence)}
		default:
			first, _, _ := strings.Cut(c.Evidence, "\n")
			j.Failure = &junitMessage{Message: printable(first), Text: printable(c.Evidence)}
		}
		suite.Cases = append(suite.Cases, j)
	}
	var consoles strings.Builder
	for _, b := range s.Boots {
		fmt.Fprintf(&consoles, "=== console, %s, %s ===\n%s\n", b.Firmware, b.Accelerator, b.Console)
	}
	suite.SystemOut = printable(consoles.String())
	text, err := xml.MarshalIndent(junitSuites{Suites: []junitSuite{suite}}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append([]byte(xml.Header), append(text, '\n')...), 0o644)
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }

// printable replaces what XML 1.0 cannot hold, escape sequences of a console among it.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < 0x20 && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}
