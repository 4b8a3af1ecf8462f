// Package build makes a cloud image of a cell: FAI installs a system into a directory, package disk assembles that into a raw
// image, and a Build document says what came of it.
//
// FAI runs in namespaces of its own (stage.sh), so that builds do not see each other and nothing outlives them. A config
// space learns what to build from the environment:
//
//	DEBCLOUD_CODENAME               trixie
//	DEBCLOUD_ARCH                   amd64
//	DEBCLOUD_VENDOR                 genericcloud
//	DEBCLOUD_TYPE                   official, the build type
//	DEBCLOUD_VERSION                20250814-2204
//	DEBCLOUD_MIRROR                 URL to install from
//	DEBCLOUD_SECURITY_MIRROR        the same for security updates
//	DEBCLOUD_IMAGE_MIRROR           URL for the image's own sources
//	DEBCLOUD_IMAGE_SECURITY_MIRROR  the same for security updates
//	SOURCE_DATE_EPOCH               seconds since 1970
package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/build/disk"
)

// Options say what to build.
type Options struct {
	Cell    image.Cell
	Type    image.BuildType
	BuildID string // of the pipeline; part of a dev image's name
	Version image.Version
	Classes []string // FAI classes, in order

	ConfigSpace string  // directory; "" is the built-in one
	Overlay     fs.FS   // a config space whose files come on top; nil is none
	Mirror      Mirrors // to install from; what is "" is the build machine's own
	ImageMirror Mirrors // for the image's own sources; what is "" is the build machine's own
	Output      string  // directory, made if it is missing

	Time   time.Time // the latest time of a file in the image; zero is the start of the version's day
	Plain  bool      // let FAI go its own way, in twice the time, to the same image
	Commit string    // of this project, for the Build document
	JobURL string    // of the CI job, for the Build document
}

// Name is the name of everything that the build writes, without extension.
func (o Options) Name() string { return o.Cell.ArtifactName(o.Type, o.BuildID, o.Version) }

// Run builds an image and returns the path of its Build document, NAME.build.json, which appears last. Beside it lie
// NAME.raw and NAME.build.log; the log also of a build that failed. Where the document of the same inputs stands already, with
// its image, nothing is done. It needs root.
//
// Errors of kind Input mean that the options or the machine must change, those of kind Outside that a mirror or the disk
// let the build down; others name the script or the package that failed.
func Run(ctx context.Context, o Options) (string, error) {
	b, err := prepare(o)
	if err != nil {
		return "", err
	}
	unlock, err := lock(ctx, b.work)
	if err != nil {
		return "", err
	}
	defer unlock()
	if b.isDone(ctx) {
		slog.InfoContext(ctx, "built already", "document", b.document())
		return b.document(), nil
	}
	if b.place, err = choosePlace(b.Output); err != nil {
		return "", err
	}
	if err := b.make(ctx); err != nil {
		return "", err
	}
	return b.document(), nil
}

// build is a build under way.
type build struct {
	Options
	space  fs.FS
	inputs string // tells builds apart that write the same names
	base   string // path of everything that the build writes, without extension
	work   string // directory of this build alone, gone at its end
	place  place
}

func (b *build) document() string { return b.base + ".build.json" }

// prepare completes the options and refuses what cannot work before anything is written but the output directory.
func prepare(o Options) (*build, error) {
	if os.Geteuid() != 0 {
		return nil, fault.WithHint(fault.Inputf("a build needs root: FAI installs packages"), "run the same command with sudo")
	}
	space, err := openSpace(o.ConfigSpace)
	if err != nil {
		return nil, err
	}
	if o.Overlay != nil {
		space = overlaid{o.Overlay, space}
	}
	if err := demandTools("fai", "debootstrap", "mmdebstrap", "mkfs.ext4", "mkfs.fat", "mcopy", "file"); err != nil {
		return nil, err
	}
	if err := o.findMirrors(); err != nil {
		return nil, err
	}
	if o.Time.IsZero() {
		o.Time = o.Version.Time()
	}
	if err := os.MkdirAll(o.Output, 0o755); err != nil {
		return nil, fault.Inputf("the output directory cannot be made: %w", err)
	}
	if o.Output, err = filepath.Abs(o.Output); err != nil {
		return nil, err
	}
	b := &build{Options: o, space: space, base: filepath.Join(o.Output, o.Name())}
	b.work = filepath.Join(o.Output, "."+o.Name()+".work")
	b.inputs, err = b.digestInputs()
	return b, err
}

// findMirrors asks the machine's apt sources only for what the options leave open.
func (o *Options) findMirrors() error {
	if o.Mirror.Debian != "" && o.ImageMirror.Debian != "" && o.Mirror.Security != "" && o.ImageMirror.Security != "" {
		return nil
	}
	machine, err := MachineMirrors("/etc/apt")
	if err != nil && (o.Mirror.Debian == "" || o.ImageMirror.Debian == "") {
		return err
	}
	o.Mirror = o.Mirror.or(machine).besideDebian()
	o.ImageMirror = o.ImageMirror.or(machine).besideDebian()
	if o.Mirror.Security == "" || o.ImageMirror.Security == "" {
		return fault.WithHint(fault.Inputf("no mirror of Debian's security updates: the apt sources in /etc/apt name none"),
			"give --security-mirror URL or set DEBCLOUD_SECURITY_MIRROR")
	}
	return nil
}

// isDone tells whether the document of the same inputs stands, with the image that it describes.
func (b *build) isDone(ctx context.Context) bool {
	d, err := manifest.ReadBuild(b.document())
	if err != nil || d.Metadata.Annotations[annotationInputs] != b.inputs {
		return false
	}
	_, err = d.VerifyImage(ctx, b.document())
	return err == nil
}

// make builds anew. The old document goes first, so that none ever stands beside another image.
func (b *build) make(ctx context.Context) error {
	if err := os.Remove(b.document()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var layout *disk.Layout
	var content *content
	raw := filepath.Join(b.work, "image.raw")
	err := inNamespace(func() (err error) {
		if err := b.install(ctx); err != nil {
			return err
		}
		if content, err = readContent(b.tree()); err != nil {
			return err
		}
		layout, err = disk.Write(ctx, disk.Spec{
			Tree: b.tree(), Size: int64(b.Cell.Vendor.SizeGB) << 30, Arch: b.Cell.Arch.Name,
			Seed: b.seed(), Time: b.Time,
		}, raw)
		return err
	})
	if err != nil {
		return err
	}
	return b.publish(ctx, raw, content, layout)
}

func (b *build) tree() string { return filepath.Join(b.work, "tree") }

// seed is what random identifiers derive from: two versions of a cell are two systems.
func (b *build) seed() string { return b.Cell.String() + " " + b.Name() }

// publish puts the image and then its document in their places.
func (b *build) publish(ctx context.Context, raw string, c *content, l *disk.Layout) error {
	digest, fingerprint, err := manifest.SumsOfFile(ctx, raw)
	if err != nil {
		return err
	}
	file, err := describeImage(raw, filepath.Base(b.base)+".raw")
	if err != nil {
		return err
	}
	if err := os.Rename(raw, b.base+".raw"); err != nil {
		return fmt.Errorf("the image cannot be put in place: %w", err)
	}
	d := b.describe(digest, file, c, l)
	d.Metadata.Annotations[manifest.AnnotationFingerprint] = fingerprint
	return manifest.Write(b.document(), d)
}

func demandTools(names ...string) error {
	packages := map[string]string{
		"fai": "fai-server", "mkfs.ext4": "e2fsprogs", "mkfs.fat": "dosfstools", "mcopy": "mtools",
	}
	var missing []string
	for _, name := range names {
		if _, err := lookPath(name); err != nil {
			if p, ok := packages[name]; ok {
				name = p
			}
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	return fault.WithHint(fault.Inputf("a build needs Debian packages that are not installed: %s", list), "apt-get install %s", list)
}
