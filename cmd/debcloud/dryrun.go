package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/boot"
	"salsa.debian.org/cloud-team/debcloud/jobs/build"
	"salsa.debian.org/cloud-team/debcloud/jobs/check"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// dryRunVariable, set to 1, makes every command of a job say what it would do and hand on tiny documents, so that a pipeline
// can be tried from end to end. All of them carry manifest.AnnotationDryRun, and a real run refuses to publish them.
const dryRunVariable = "DEBCLOUD_DRY_RUN"

// dryRuns is what commands do in a dry run, by their path. One that is not here is refused: nobody knows that it is harmless.
var dryRuns = map[string]func(*cobra.Command, []string) error{
	"build":   dryBuild,
	"check":   drySuite(check.SuiteName, "look into the file systems of"),
	"boot":    drySuite(boot.SuiteName, "boot and test"),
	"publish": dryPublish,
	"index":   dryIndex,
	"prune":   dryPrune,
	"notify":  dryNotify,
}

// dryAnyway are the commands that change nothing outside the files they are told to write, and those whose own flag
// --dry-run is set for them.
var dryAnyway = []string{"plan", "pipeline", "lint", "finder serve", "salsa report", "salsa schedules apply", "publish status"}

// setUpDryRun replaces what the commands below c do, where the variable's value asks for it.
func setUpDryRun(c *cobra.Command, value string) error {
	switch value {
	case "", "0":
		return nil
	case "1":
	default:
		return fault.Inputf("%s=%q is neither 1, for a dry run, nor 0", dryRunVariable, value)
	}
	name := strings.TrimPrefix(c.CommandPath(), "debcloud ")
	if instead := dryRuns[name]; instead != nil {
		c.RunE = instead
		return nil
	}
	if !c.HasSubCommands() && !slices.Contains(dryAnyway, name) {
		return fault.Inputf("%s cannot be tried in a dry run: unset %s", c.CommandPath(), dryRunVariable)
	}
	if c.Flags().Lookup("dry-run") == nil {
		return nil
	}
	if c.Flags().Lookup("baseline-ref") != nil {
		_ = c.Flags().Set("baseline-ref", "") // nothing but the pipeline's own documents is downloaded; the flag takes any text
	}
	return c.Flags().Set("dry-run", "true")
}

// would says what a real run did now.
func would(c *cobra.Command, format string, args ...any) {
	fmt.Fprintf(c.ErrOrStderr(), "dry run: would "+format+"\n", args...)
}

// flagText returns the value of a flag that the command has.
func flagText(c *cobra.Command, name string) string { return c.Flag(name).Value.String() }

// dryBuild writes an image of one line and its Build document.
func dryBuild(c *cobra.Command, args []string) error {
	f := buildFlags{
		output: flagText(c, "output"), config: flagText(c, "config"), buildType: flagText(c, "type"),
		version: flagText(c, "version"), buildID: flagText(c, "build-id"),
	}
	o, err := f.options(c.Context(), args)
	if err != nil {
		return err
	}
	name := o.Cell.ArtifactName(o.Type, o.BuildID, o.Version)
	would(c, "let FAI install %s with the classes %s", name, strings.Join(o.Classes, " "))
	if err := os.MkdirAll(o.Output, 0o755); err != nil {
		return err
	}
	base := filepath.Join(o.Output, name)
	text := "This is no image: a dry run wrote it in the place of " + name + ".\n"
	for path, text := range map[string]string{base + ".raw": text, base + ".build.log": "dry run\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := manifest.Write(base+".build.json", dryDocument(o, name, text)); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), base+".build.json")
	return err
}

func dryDocument(o build.Options, name, text string) *manifest.Build {
	version := o.Type.VersionText(o.Version)
	digest, _ := manifest.DigestOf(strings.NewReader(text)) // reading a string does not fail
	size := int64(len(text))
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build", Metadata: manifest.Metadata{
		Annotations: map[string]string{manifest.AnnotationDryRun: "true", manifest.AnnotationSize: fmt.Sprint(size)},
		Labels: map[string]string{
			manifest.LabelVendor: o.Cell.Vendor.Name, manifest.LabelVersion: version, manifest.LabelArch: o.Cell.Arch.Name,
			manifest.LabelDist: "debian", manifest.LabelRelease: o.Cell.Release.Name,
		},
		UID: manifest.NewUID("Build", "dry-run", name),
	}}}
	b.Metadata.SetDigest(digest)
	b.Data = manifest.BuildData{
		Info: manifest.BuildInfo{
			Arch: o.Cell.Arch.Name, BuildID: o.BuildID, Vendor: o.Cell.Vendor.Name, Type: o.Type.Name, Version: version,
			Release: o.Cell.Release.Name, ReleaseBaseID: o.Cell.Release.BaseID, ReleaseID: o.Cell.Release.ID,
		},
		Packages: []manifest.Package{},
		Classes:  o.Classes,
		Image:    &manifest.ImageFile{Name: name + ".raw", Size: size, Allocated: size},
	}
	return b
}

// drySuite records a suite whose only check was skipped. Only a dry run's build gets one.
func drySuite(suite, doing string) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		b, err := manifest.ReadBuild(args[0])
		if err != nil {
			return err
		}
		if !b.Metadata.DryRun() {
			return fault.WithHint(fault.Inputf("%s is of a real build: a dry run says nothing about it", args[0]), "unset %s", dryRunVariable)
		}
		if _, err := b.VerifyImage(c.Context(), args[0]); err != nil {
			return err
		}
		base := manifest.Base(args[0])
		would(c, "%s %s", doing, filepath.Base(base))
		s := manifest.Suite{Name: suite, Started: time.Now().UTC(), Checks: []manifest.Check{{
			ID: "dry-run", Name: "This was a dry run", Result: manifest.Skipped, Evidence: "dry run: nothing was looked at",
		}}}
		if err := manifest.RecordSuite(base+".report.json", b, s); err != nil {
			return err
		}
		return s.WriteJUnit(base+"."+suite+".xml", filepath.Base(base))
	}
}

func dryPublish(c *cobra.Command, args []string) error {
	f := publishFlags{
		targetFlags: targetFlags{to: flagText(c, "to"), config: flagText(c, "config"), lookup: anything},
		uploadType:  flagText(c, "upload-type"), stage: flagText(c, "stage"), plan: flagText(c, "plan"), documents: flagText(c, "documents"),
	}
	if list, ok := c.Flag("cells").Value.(pflag.SliceValue); ok {
		f.cells = list.GetSlice()
	}
	o, err := f.options(c.Context())
	if err != nil {
		return err
	}
	if o.Type == image.Published && len(args) == 1 && strings.Contains(args[0], "*") {
		would(c, "publish %s as a release to %s", args[0], o.Target.Name) // no dry run has put a daily there
		return nil
	}
	o.To, o.DryRun = nowhere{c, o.Target.Provider}, true
	return publishAll(c, args, o)
}

// anything is the value of every variable that a target's declaration names: nobody logs in anywhere.
func anything(string) (string, bool) { return "dry-run", true }

// nowhere publishes nothing. An image goes through the same gates on its way there as to any other place.
type nowhere struct {
	c        *cobra.Command
	provider string // in whose place it stands
}

func (n nowhere) Provider() string { return n.provider }

// Publish implements publish.Publisher.
func (n nowhere) Publish(_ context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	would(n.c, "publish %s to %s, stage %s", img.Name(), flagText(n.c, "to"), stage)
	ref := img.Directory() + "/" + img.Name() + ".raw"
	u := img.Upload("dry-run", ref, "raw", img.Digest, img.Build.Data.Image.Size)
	return &publish.Publication{Uploads: []manifest.Upload{u}, Changed: true, Place: "nowhere: a dry run"}, nil
}

// dryIndex writes an index of nothing where jobs keep their documents, never into the tree.
func dryIndex(c *cobra.Command, args []string) error {
	would(c, "list the images of %s in its index.json", args[0])
	x := manifest.NewIndex([]manifest.IndexImage{})
	x.Metadata.Annotations = map[string]string{manifest.AnnotationDryRun: "true"}
	path := filepath.Join("out", "index.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := manifest.Write(path, x); err != nil {
		return err
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), path)
	return err
}
