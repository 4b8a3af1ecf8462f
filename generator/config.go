// Package generator turns the matrix of images into plans and pipelines: it reads an ImageConfig document
// (cloud.debian.org/v1alpha1), decides which cells exist and why the others do not, and lays the jobs of a plan out for GitLab.
package generator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/vmimages"
)

// Config is a checked ImageConfig document: every name in it is unique, every name that a rule uses is declared.
type Config struct {
	source      string // file, or the built-in matrix
	archs       []image.Arch
	releases    []release
	vendors     []vendor
	buildTypes  []image.BuildType
	publicTypes []publicType
	schedules   []Schedule
	targets     []target.Target
	retention   holding.Policy
}

type release struct {
	image.Release
	rules []rule
}

type vendor struct {
	image.Vendor
	rules []rule
}

// publicType is upstream's name for what a kind of pipeline builds and uploads.
type publicType struct {
	name  image.UploadType
	rules []rule
}

// builtIn names the embedded matrix in messages.
const builtIn = "vmimages/matrix.jsonnet"

// Load reads the configuration from path, a .jsonnet, .json, .yaml or .yml file, or the built-in matrix if path is "".
// Errors are of kind Input and name the file, the line where the format can tell it, and the value.
func Load(ctx context.Context, path string) (*Config, error) {
	if path == "" {
		return loadJsonnet(ctx, vmimages.Matrix, "vmimages", "matrix.jsonnet")
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fault.Inputf("configuration %s: %w", path, bare(err))
	}
	defer root.Close()
	if filepath.Ext(path) == ".jsonnet" {
		return loadJsonnet(ctx, root.FS(), filepath.ToSlash(filepath.Dir(path)), filepath.Base(path))
	}
	source, err := readBounded(root.FS(), filepath.Base(path))
	if err != nil {
		return nil, fault.Inputf("configuration %s: %w", path, err)
	}
	return parse(path, source)
}

func loadJsonnet(ctx context.Context, fsys fs.FS, label, name string) (*Config, error) {
	text, err := evaluate(ctx, fsys, label, name)
	if err != nil {
		return nil, err
	}
	n, err := parseJSON([]byte(text), false)
	return decodeConfig(label+"/"+name, n, err)
}

// parse reads a document whose format the extension of path tells.
func parse(path string, source []byte) (*Config, error) {
	var n *node
	var err error
	switch ext := filepath.Ext(path); ext {
	case ".json":
		n, err = parseJSON(source, true)
	case ".yaml", ".yml":
		n, err = parseYAML(source)
	default:
		return nil, fault.Inputf("configuration %s: its extension %q is none of .jsonnet, .json, .yaml, .yml", path, ext)
	}
	return decodeConfig(path, n, err)
}

func decodeConfig(path string, n *node, err error) (*Config, error) {
	if err != nil {
		if rest, ok := strings.CutPrefix(err.Error(), "line "); ok {
			return nil, fault.Inputf("%s:%s", path, rest)
		}
		return nil, fault.Inputf("%s: %w", path, err)
	}
	c := &Config{source: path}
	d := decoder{file: path}
	if err := d.config(n, c); err != nil {
		return nil, err
	}
	return c, c.check(&d)
}

// bare strips the operation and path that package os puts before the cause.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Source is the file that the configuration was read from.
func (c *Config) Source() string { return c.source }

// BuildType finds a build type by name.
func (c *Config) BuildType(name string) (image.BuildType, error) {
	return find("build type", name, c.buildTypes, func(t image.BuildType) string { return t.Name })
}

// Cell finds the cell that three names stand for, to build it. The error is of kind Input: it says which name is unknown, which
// rule of the matrix excludes the cell, or that the size of its disk is missing.
func (c *Config) Cell(releaseName, vendorName, archName string) (image.Cell, error) {
	cell, err := c.cell(releaseName, vendorName, archName)
	if err == nil && cell.Vendor.SizeGB == 0 {
		err = fault.Inputf("%s: vendor %q has no size: say how many GiB its disks have", c.source, vendorName)
	}
	return cell, err
}

func (c *Config) cell(releaseName, vendorName, archName string) (image.Cell, error) {
	r, err := find("release", releaseName, c.releases, func(r release) string { return r.Name })
	if err != nil {
		return image.Cell{}, err
	}
	v, err := find("vendor", vendorName, c.vendors, func(v vendor) string { return v.Name })
	if err != nil {
		return image.Cell{}, err
	}
	a, err := find("architecture", archName, c.archs, func(a image.Arch) string { return a.Name })
	if err != nil {
		return image.Cell{}, err
	}
	cell := image.Cell{Release: r.Release, Vendor: v.Vendor, Arch: a}
	if why := excluded(r, v, cell); why != "" {
		return cell, fault.WithHint(fault.Inputf("there is no image %s: %s", cell, why), "debcloud plan lists the images that exist")
	}
	return cell, nil
}

// excluded says which rule of the release or the vendor excludes a cell, or "" if none does.
func excluded(r release, v vendor, cell image.Cell) string {
	if verdict := judge(r.rules, cell); !verdict.passes {
		return verdict.why(fmt.Sprintf("release %q", r.Name), fmt.Sprintf("%s for %s", cell.Arch.Name, cell.Vendor.Name), r.rules)
	}
	if verdict := judge(v.rules, cell); !verdict.passes {
		return verdict.why(fmt.Sprintf("vendor %q", v.Name), fmt.Sprintf("%s on %s", cell.Arch.Name, cell.Release.Name), v.rules)
	}
	return ""
}
