package image

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// Version is the version of an official image, YYYYMMDD-N.
type Version struct {
	Date   string // YYYYMMDD, UTC
	Number int    // the pipeline's number; tells apart the versions of one day
}

var versionForm = lazyregexp.New(`^([0-9]{8})-(0|[1-9][0-9]{0,8})$`)

// ParseVersion reads YYYYMMDD-N and refuses days that do not exist.
func ParseVersion(text string) (Version, error) {
	m := versionForm.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fault.Inputf("version %q is not of the form YYYYMMDD-N", text)
	}
	if _, err := time.Parse("20060102", m[1]); err != nil {
		return Version{}, fault.Inputf("version %q names a day that does not exist", text)
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return Version{}, fault.Inputf("version %q: %w", text, err)
	}
	return Version{m[1], n}, nil
}

func (v Version) String() string { return fmt.Sprintf("%s-%d", v.Date, v.Number) }

// Time returns the start of the version's day, the default of every time stamp inside the image.
func (v Version) Time() time.Time {
	t, _ := time.Parse("20060102", v.Date) // a Version with another Date is not made by ParseVersion
	return t
}

var buildIDForm = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9.+-]*$`)

// DemandBuildID refuses a build ID that cannot be part of a file's name. CI makes it of a branch's name, which anyone chooses.
func DemandBuildID(text string) error {
	if len(text) > 100 || !buildIDForm.MatchString(text) {
		return fault.WithHint(fault.Inputf("build ID %q cannot be part of a file's name", text), "use up to 100 letters, digits, dots, plus and minus signs, as in CI_COMMIT_REF_SLUG")
	}
	return nil
}

// VersionText is the version as builds of the type carry it: 20250814-2204, or dev's bare number.
func (t BuildType) VersionText(v Version) string {
	return strings.NewReplacer("{date}", v.Date, "{version}", strconv.Itoa(v.Number)).Replace(t.OutputVersion)
}

// ArtifactName names what a build writes, without extension: debian-trixie-genericcloud-amd64-official-20250814-2204.
// The build type's outputName decides; dev's has {build_id} and its {version} is the bare number.
func (c Cell) ArtifactName(t BuildType, buildID string, v Version) string {
	version := t.VersionText(v)
	return strings.NewReplacer(
		"{release}", c.Release.Name, "{vendor}", c.Vendor.Name, "{arch}", c.Arch.Name,
		"{build_type}", t.Name, "{build_id}", buildID, "{version}", version,
	).Replace(t.OutputName)
}

// PublicName names a published image, without extension: debian-13-genericcloud-amd64-20250814-2204, with
// "-daily" or "-dev" after the architecture for what is no release. An empty version gives the name under latest/.
func PublicName(releaseID, vendor, arch string, t UploadType, version string) string {
	name := strings.Join([]string{"debian", releaseID, vendor, arch}, "-")
	if t != Published {
		name += "-" + string(t)
	}
	if version != "" {
		name += "-" + version
	}
	return name
}

// PublicDirectory is the directory of a version in the public tree: trixie/20250814-2204, or, for what is no release,
// trixie/daily/20250814-2204.
func PublicDirectory(release string, t UploadType, version string) string {
	if t != Published {
		return release + "/" + string(t) + "/" + version
	}
	return release + "/" + version
}
