package manifest

import "salsa.debian.org/cloud-team/debcloud/internal/image"

// Index lists every published image of a tree, index.json at its root. All paths in it are relative to it, with slashes.
type Index struct {
	Header
	Data IndexData `json:"data"`
}

// IndexData lists images: releases before dailies, the newest release first and sid last, the newest version first, then by vendor
// and arch.
type IndexData struct {
	Images []IndexImage `json:"images"`
}

// IndexImage is one published image. Name is unique in a tree.
type IndexImage struct {
	Name       string            `json:"name"` // public name, without extension
	Release    string            `json:"release"`
	ReleaseID  string            `json:"releaseId"`
	Vendor     string            `json:"vendor"`
	Arch       string            `json:"arch"`
	UploadType image.UploadType  `json:"uploadType"`
	Version    string            `json:"version"`
	Date       string            `json:"date"`   // YYYY-MM-DD, of the version; "" where the version has none
	Latest     bool              `json:"latest"` // the newest of its release, vendor, arch and upload type
	Digest     string            `json:"digest"` // of the Build, as in its manifest
	Manifest   string            `json:"manifest"`
	Files      []IndexFile       `json:"files"`
	Versions   map[string]string `json:"versions"`      // "kernel": release; "cloud-init": package version
	Packages   int               `json:"packages"`      // how many are installed
	Job        string            `json:"job,omitempty"` // URL of the CI job that made it
	Commit     string            `json:"commit,omitempty"`
	Report     *IndexReport      `json:"report,omitempty"`
	Uploads    []IndexUpload     `json:"uploads,omitempty"` // what other providers have of the image
}

// IndexFile is one form of an image in the tree.
type IndexFile struct {
	Format  string `json:"format"` // internal (the tar.xz), raw, qcow2
	Path    string `json:"path"`
	Size    int64  `json:"size"`   // bytes
	SHA512  string `json:"sha512"` // as sha512sum prints it
	Missing bool   `json:"missing,omitempty"`
}

// IndexUpload is an image at a provider other than the tree, in one region.
type IndexUpload struct {
	Provider string            `json:"provider"`         // domain: aws.amazon.com
	Region   string            `json:"region,omitempty"` // "" where the provider has the image everywhere
	Ref      string            `json:"ref"`              // the provider's own identifier
	Family   string            `json:"family,omitempty"` // what leads to the newest image there
	Launch   string            `json:"launch,omitempty"` // URL of the provider's page that starts a VM of the image
	CLI      string            `json:"cli,omitempty"`    // line for the provider's command
	HCL      string            `json:"hcl,omitempty"`    // line for Terraform and OpenTofu
	Labels   map[string]string `json:"labels"`
}

// IndexReport sums up an image's Report.
type IndexReport struct {
	Path    string      `json:"path"`
	Passed  int         `json:"passed"`
	Failed  int         `json:"failed"`
	Skipped int         `json:"skipped"`
	Boots   []IndexBoot `json:"boots"`
	Logs    []string    `json:"logs"` // paths of what else tells about the image: JUnit files, the build's log, consoles
}

// IndexBoot is one boot of the image in its tests. Seconds are from power-on.
type IndexBoot struct {
	Firmware    string  `json:"firmware"`
	Accelerator string  `json:"accelerator"`
	SSH         float64 `json:"ssh"`   // to the first SSH command, 0 where unknown
	Total       float64 `json:"total"` // to the end of the boot
}

// NewIndex wraps images.
func NewIndex(images []IndexImage) *Index {
	return &Index{Header: Header{APIVersion: APIVersion, Kind: "Index"}, Data: IndexData{Images: images}}
}

// ReadIndex reads index.json and checks its schema.
func ReadIndex(path string) (*Index, error) {
	i := new(Index)
	return i, read(path, "Index", i, &i.Header)
}
