package check

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// pkg is a paragraph of /var/lib/dpkg/status.
type pkg struct {
	name, version, arch, status string
	multiArch                   string
	conffiles                   []string // without the leading slash
}

// qualified is the name as dpkg prints it and names its files: with the architecture where several can be installed.
func (p pkg) qualified() string {
	if p.multiArch == "same" {
		return p.name + ":" + p.arch
	}
	return p.name
}

// packages is what dpkg knows.
type packages struct {
	all    []pkg
	byName map[string]pkg
}

func (p *packages) installed(name string) bool {
	return strings.HasSuffix(p.byName[name].status, " installed")
}

func readPackages(root fs.FS) (*packages, error) {
	text, err := fs.ReadFile(root, "var/lib/dpkg/status")
	if err != nil {
		return nil, err
	}
	p := &packages{byName: map[string]pkg{}}
	for paragraph := range bytes.SplitSeq(text, []byte("\n\n")) {
		one, err := parsePackage(paragraph)
		if err != nil {
			return nil, fmt.Errorf("/var/lib/dpkg/status: %w", err)
		}
		if one.name != "" {
			p.all = append(p.all, one)
			p.byName[one.name] = one
		}
	}
	if len(p.all) == 0 {
		return nil, fmt.Errorf("/var/lib/dpkg/status names no package")
	}
	return p, nil
}

func parsePackage(paragraph []byte) (pkg, error) {
	var p pkg
	var field string
	lines := bufio.NewScanner(bytes.NewReader(paragraph))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, " ") {
			if words := strings.Fields(line); field == "Conffiles" && len(words) > 1 {
				p.conffiles = append(p.conffiles, strings.TrimPrefix(words[0], "/"))
			}
			continue
		}
		var value string
		field, value, _ = strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch field {
		case "Package":
			p.name = value
		case "Version":
			p.version = value
		case "Architecture":
			p.arch = value
		case "Status":
			p.status = value
		case "Multi-Arch":
			p.multiArch = value
		}
	}
	return p, lines.Err()
}

func packagesInstalled(ctx context.Context, s *subject, f *findings) error {
	packages, err := s.packages()
	if err != nil {
		return err
	}
	for _, p := range packages.all {
		if p.status != "install ok installed" {
			f.wrongf("package %s is %q", p.name, p.status)
		}
	}
	f.sawf("%d packages", len(packages.all))
	s.comparePackages(packages, f)
	return nil
}

// comparePackages holds the build document to the image: it is what is published about it.
func (s *subject) comparePackages(packages *packages, f *findings) {
	if len(s.build.Data.Packages) == 0 {
		return
	}
	listed := map[manifest.Package]bool{}
	for _, p := range s.build.Data.Packages {
		listed[p] = true
	}
	for _, p := range packages.all {
		here := manifest.Package{Name: p.qualified(), Version: p.version}
		if !listed[here] {
			f.wrongf("package %s %s is in the image and not in the build document", here.Name, here.Version)
		}
		delete(listed, here)
	}
	var missing []string
	for p := range listed {
		missing = append(missing, p.Name+" "+p.Version)
	}
	slices.Sort(missing)
	for _, name := range missing {
		f.wrongf("package %s is in the build document and not in the image", name)
	}
}

// kernelVariant: the class LINUX_VARIANT_CLOUD asks for the kernel without drivers for real hardware. Where a build
// document names no classes, the vendor decides.
func kernelVariant(ctx context.Context, s *subject, f *findings) error {
	cloud := s.has("LINUX_VARIANT_CLOUD")
	if len(s.build.Data.Classes) == 0 {
		cloud = slices.Contains([]string{"azure", "ec2", "gce", "genericcloud"}, s.build.Data.Info.Vendor)
	}
	packages, err := s.packages()
	if err != nil {
		return err
	}
	if want := kernelPackage(s.arch().Debian, cloud); !packages.installed(want) {
		f.wrongf("package %s is not installed", want)
	}
	releases, err := s.kernels()
	if err != nil {
		return err
	}
	for _, release := range releases {
		if strings.Contains(release, "-cloud-") != cloud {
			f.wrongf("kernel %s is of the other variant", release)
		}
		p := packages.byName["linux-image-"+release]
		backport := strings.Contains(p.version, "~bpo")
		switch wanted := s.has("LINUX_VERSION_BACKPORTS"); {
		case p.name == "":
			f.wrongf("kernel %s belongs to no package", release)
		case backport && !wanted:
			f.wrongf("kernel %s, version %s, is from backports", release, p.version)
		case wanted && !backport:
			f.wrongf("kernel %s, version %s, is not from backports", release, p.version)
		}
		f.sawf("kernel %s, version %s", release, p.version)
	}
	return nil
}

// kernelPackage names the package that pulls in the kernel of an architecture.
func kernelPackage(arch string, cloud bool) string {
	if arch == "ppc64el" {
		arch = "powerpc64le"
	}
	if cloud {
		return "linux-image-cloud-" + arch
	}
	return "linux-image-" + arch
}

func vendorPackages(ctx context.Context, s *subject, f *findings) error {
	packages, err := s.packages()
	if err != nil {
		return err
	}
	rules := 0
	for _, rule := range vendorRules {
		if !rule.matches(s) {
			continue
		}
		rules++
		for _, name := range rule.need {
			if !packages.installed(name) {
				f.wrongf("package %s is not installed: %s", name, rule.why)
			} else {
				f.sawf("%s %s", name, packages.byName[name].version)
			}
		}
		for _, name := range rule.forbid {
			if packages.installed(name) {
				f.wrongf("package %s is installed: %s", name, rule.why)
			}
		}
	}
	if rules == 0 {
		f.wrongf("no rule is known for vendor %q", s.build.Data.Info.Vendor)
	}
	return nil
}
