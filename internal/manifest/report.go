package manifest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Report holds the result of every check of one image, NAME.report.json. Each step that checks owns one suite in it.
type Report struct {
	Header
	Data ReportData `json:"data"`
}

// ReportData lists suites in the order in which they first ran.
type ReportData struct {
	Suites []Suite `json:"suites"`
}

// Suite is what one step found: "check" for the file system, "boot" for the running image.
type Suite struct {
	Name    string    `json:"name"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Checks  []Check   `json:"checks"`
	Boots   []Boot    `json:"boots,omitempty"` // one per firmware, suite "boot" only
}

// Result is the outcome of a check.
type Result string

const (
	Passed  Result = "passed"
	Failed  Result = "failed"
	Skipped Result = "skipped" // does not apply to this image; the evidence says why
)

// Check is one check's outcome. ID is its number in the catalogue and a few words, "11-packages-installed";
// where a check runs once a firmware, "bios/23-system-running".
type Check struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"` // what must hold, as a sentence
	Result   Result  `json:"result"`
	Seconds  float64 `json:"seconds"`
	Evidence string  `json:"evidence,omitempty"` // what was seen
}

// Boot is one boot of the image.
type Boot struct {
	Firmware    string    `json:"firmware"`    // bios, uefi
	Accelerator string    `json:"accelerator"` // kvm, tcg
	Times       BootTimes `json:"times"`
	Console     string    `json:"console"` // all that the serial console printed
}

// BootTimes are seconds, 0 where the guest did not tell.
type BootTimes struct {
	Firmware  float64 `json:"firmware"`
	Kernel    float64 `json:"kernel"`
	Initrd    float64 `json:"initrd"`
	Userspace float64 `json:"userspace"`
	CloudInit float64 `json:"cloudInit"`
	SSH       float64 `json:"ssh"`   // from power-on to the first SSH command
	Total     float64 `json:"total"` // from power-on to the end of the boot
}

// Passed tells whether the suite has checks and none of them failed.
func (s Suite) Passed() bool { return len(s.Checks) > 0 && len(s.Failures()) == 0 }

// Failures returns the checks that are neither passed nor skipped.
func (s Suite) Failures() []Check {
	var failed []Check
	for _, c := range s.Checks {
		if c.Result != Passed && c.Result != Skipped {
			failed = append(failed, c)
		}
	}
	return failed
}

// ReadReport reads NAME.report.json and checks its schema.
func ReadReport(path string) (*Report, error) {
	r := new(Report)
	if err := read(path, "Report", r, &r.Header); err != nil {
		return nil, err
	}
	if _, err := r.Metadata.Digest(); err != nil {
		return nil, err
	}
	return r, nil
}

// RecordSuite puts s into the report at path, in the place of an earlier suite of its name.
// A report on another image than build's is replaced.
func RecordSuite(path string, build *Build, s Suite) error {
	digest, err := build.Metadata.Digest()
	if err != nil {
		return err
	}
	r, err := ReadReport(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) && fault.KindOf(err) != fault.Input {
		return err
	}
	if err != nil || r.Metadata.Annotations[AnnotationDigest] != digest.String() {
		r = newReport(build, digest)
	}
	i := slices.IndexFunc(r.Data.Suites, func(old Suite) bool { return old.Name == s.Name })
	if i < 0 {
		r.Data.Suites = append(r.Data.Suites, s)
	} else {
		r.Data.Suites[i] = s
	}
	return Write(path, r)
}

func newReport(build *Build, digest Digest) *Report {
	r := &Report{Header: Header{APIVersion: APIVersion, Kind: "Report", Metadata: Metadata{
		Labels: build.Metadata.Labels,
		UID:    NewUID("Report", digest.Hex()),
	}}}
	r.Metadata.SetDigest(digest)
	if build.Metadata.DryRun() {
		r.Metadata.Annotations[AnnotationDryRun] = "true"
	}
	return r
}

// DemandPassed returns an error that says what is missing or failed unless the report is on the image with
// the given digest and each of the named suites is there and passed.
func (r *Report) DemandPassed(digest Digest, suites ...string) error {
	if got := r.Metadata.Annotations[AnnotationDigest]; got != digest.String() {
		return fmt.Errorf("the report is on the image with digest %s, not on %s: check and boot this image", got, digest)
	}
	for _, name := range suites {
		i := slices.IndexFunc(r.Data.Suites, func(s Suite) bool { return s.Name == name })
		if i < 0 {
			return fmt.Errorf("the report has no suite %q: run debcloud %s first", name, name)
		}
		if s := r.Data.Suites[i]; !s.Passed() {
			return fmt.Errorf("suite %q of the report did not pass: %s", name, failureNames(s))
		}
	}
	return nil
}

func failureNames(s Suite) string {
	var ids []string
	for _, c := range s.Failures() {
		ids = append(ids, c.ID)
	}
	if len(ids) == 0 {
		return "it has no checks"
	}
	return strings.Join(ids, ", ")
}
