package build

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/build/disk"
)

// annotationInputs holds the SHA-256 of everything that decides what is in an image but the state of the archive.
const annotationInputs = "cloud.debian.org/build-inputs"

// digestInputs covers the options and the config space, not the program: another commit is another input.
func (b *build) digestInputs() (string, error) {
	space, err := fingerprint(b.space)
	if err != nil {
		return "", fmt.Errorf("config space: %w", err)
	}
	text, err := json.Marshal([]any{
		b.Name(), b.Cell, b.Type, b.BuildID, b.Version, b.Classes, b.Mirror, b.ImageMirror, b.Time.Unix(), b.Commit, space,
	})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), err
}

// version is the image's version as its type writes it.
func (b *build) version() string {
	return strings.NewReplacer("{date}", b.Version.Date, "{version}", strconv.Itoa(b.Version.Number)).Replace(b.Type.OutputVersion)
}

// content is what is in a tree.
type content struct {
	packages  []manifest.Package
	kernel    string // release of the kernel, as uname -r prints it
	cloudInit string // version of the package, "" without it
}

func readContent(tree string) (*content, error) {
	status, err := os.ReadFile(filepath.Join(tree, "var/lib/dpkg/status"))
	if err != nil {
		return nil, fmt.Errorf("the tree has no package database: %w", err)
	}
	c := new(content)
	if c.packages, err = parseStatus(string(status)); err != nil {
		return nil, err
	}
	for _, p := range c.packages {
		if p.Name == "cloud-init" {
			c.cloudInit = p.Version
		}
	}
	kernels, _ := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*")) // the pattern is well-formed
	if len(kernels) > 0 {
		c.kernel = strings.TrimPrefix(filepath.Base(slices.MaxFunc(kernels, compareNatural)), "vmlinuz-")
	}
	return c, nil
}

var digits = lazyregexp.New(`[0-9]+|[^0-9]+`)

// compareNatural orders file names with numbers in them by these numbers, as GRUB does when it chooses the kernel.
func compareNatural(a, b string) int {
	return slices.CompareFunc(digits.FindAllString(a, -1), digits.FindAllString(b, -1), func(a, b string) int {
		m, err1 := strconv.ParseUint(a, 10, 64)
		n, err2 := strconv.ParseUint(b, 10, 64)
		if err1 != nil || err2 != nil {
			return strings.Compare(a, b)
		}
		return cmp.Compare(m, n)
	})
}

// parseStatus reads dpkg's status file and returns the packages as dpkg-query names them, sorted: those that can be
// installed for several architectures with theirs. A package that is not properly installed is an error.
func parseStatus(text string) ([]manifest.Package, error) {
	var all []manifest.Package
	for stanza := range strings.SplitSeq(text, "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(stanza) {
			if key, value, ok := strings.Cut(line, ": "); ok && line[0] != ' ' {
				fields[key] = strings.TrimSpace(value)
			}
		}
		name := fields["Package"]
		if name == "" || strings.HasSuffix(fields["Status"], " not-installed") || strings.HasSuffix(fields["Status"], " config-files") {
			continue
		}
		if fields["Status"] != "install ok installed" && fields["Status"] != "hold ok installed" {
			return nil, fmt.Errorf("package %q is in state %q, not installed properly", name, fields["Status"])
		}
		if fields["Multi-Arch"] == "same" {
			name += ":" + fields["Architecture"]
		}
		all = append(all, manifest.Package{Name: name, Version: fields["Version"]})
	}
	slices.SortFunc(all, func(a, b manifest.Package) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// describeImage says how large the image is, as name.
func describeImage(path, name string) (*manifest.ImageFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	file := &manifest.ImageFile{Name: name, Size: info.Size(), Allocated: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file.Allocated = st.Blocks * 512
	}
	return file, nil
}

func (b *build) describe(digest manifest.Digest, file *manifest.ImageFile, c *content, l *disk.Layout) *manifest.Build {
	d := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build", Metadata: manifest.Metadata{
		Annotations: b.annotations(file),
		Labels: map[string]string{
			manifest.LabelVendor: b.Cell.Vendor.Name, manifest.LabelVersion: b.version(),
			manifest.LabelArch: b.Cell.Arch.Name, manifest.LabelDist: "debian", manifest.LabelRelease: b.Cell.Release.Name,
		},
		UID: manifest.NewUID("Build", b.Name()),
	}}}
	d.Metadata.SetDigest(digest)
	d.Data = manifest.BuildData{
		Info:      b.info(b.Cell.Release),
		Packages:  c.packages,
		Classes:   b.Classes,
		Image:     file,
		Versions:  map[string]string{"kernel": c.kernel},
		Partition: map[string]string{},
	}
	if c.cloudInit != "" {
		d.Data.Versions["cloud-init"] = c.cloudInit
	}
	for _, p := range l.Partitions {
		d.Data.Partition[p.Label] = p.GUID
	}
	return d
}

func (b *build) annotations(file *manifest.ImageFile) map[string]string {
	all := map[string]string{
		annotationInputs:          b.inputs,
		manifest.AnnotationSize:   strconv.FormatInt(file.Size, 10),
		manifest.AnnotationCommit: b.Commit,
		manifest.AnnotationJob:    b.JobURL,
	}
	for key, value := range all {
		if value == "" {
			delete(all, key)
		}
	}
	return all
}

func (b *build) info(r image.Release) manifest.BuildInfo {
	return manifest.BuildInfo{
		Arch: b.Cell.Arch.Name, BuildID: b.BuildID, Vendor: b.Cell.Vendor.Name, Type: b.Type.Name, Version: b.version(),
		Release: r.Name, ReleaseBaseID: r.BaseID, ReleaseID: r.ID,
	}
}
