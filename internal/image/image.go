// Package image holds the nouns of the product, release, vendor, arch, cell and version, and every rule by which
// something is named after them.
package image

// Release is a Debian release as images are made of it: trixie, or trixie-backports.
type Release struct {
	Name     string // codename, with "-backports" where the kernel comes from there
	Basename string // codename
	ID       string // "13", "13-backports", "sid"
	BaseID   string // "13", "sid"
	Classes  []string
}

// Vendor is the kind of machine that an image is made for.
type Vendor struct {
	Name    string // azure, ec2, gce, generic, genericcloud, nocloud, raspi
	Classes []string
	SizeGB  int // size of the disk in GiB
}

// BuildType says how an image and its version are named.
type BuildType struct {
	Name                                          string // dev, official
	Classes                                       []string
	OutputName, OutputVersion, OutputVersionAzure string // with placeholders in braces
}

// UploadType says for whom an image is published: "dev", "daily" or "release".
type UploadType string

const (
	Dev       UploadType = "dev"
	Daily     UploadType = "daily"
	Published UploadType = "release"
)

// Cell is one release × vendor × arch of the matrix.
type Cell struct {
	Release Release
	Vendor  Vendor
	Arch    Arch
}

// String returns "trixie genericcloud amd64", the words in which commands name a cell.
func (c Cell) String() string { return c.Release.Name + " " + c.Vendor.Name + " " + c.Arch.Name }
