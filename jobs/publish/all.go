package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// All publishes several images at one place. At stage Public it is all or none: every image passes the gates and is at the
// place, privately, before the first one becomes public, and where o.Plan is set, none does so unless every cell that the
// plan has for its release is among them, in the same version. What is missing is listed in an error of kind fault.Input. An
// image that is not in every region is there all the same: it becomes public where it is.
//
// Images that the place does not take, and those that are not in the plan, are passed over with a message. The images
// that can be published are, whatever happens to others at the same stage; the error tells of all, and is of kind fault.Outside where
// a retry may help each of them.
func All(ctx context.Context, paths []string, o Options) ([]*Result, error) {
	stage, err := parseStage(o.Stage)
	if err != nil {
		return nil, err
	}
	o.Stage = stage
	set, err := openSet(ctx, paths, o)
	if err != nil {
		return nil, err
	}
	if stage == Public && o.Plan != nil {
		if err := set.demandComplete(o); err != nil {
			return nil, err
		}
	}
	if stage == Public && (o.Plan != nil || len(set) > 1) {
		if err := set.bring(ctx, o); err != nil {
			return nil, err
		}
	}
	return set.publish(ctx, o)
}

// member is an image of a set.
type member struct {
	path string
	cell manifest.PlanCell // the three names, and Suites where a plan has them
	info manifest.BuildInfo
}

type set []member

// openSet passes all images through the gates.
func openSet(ctx context.Context, paths []string, o Options) (set, error) {
	var all set
	for _, path := range paths {
		o.BuildPath = path
		m, err := openMember(o)
		if err != nil {
			return nil, err
		}
		if m == nil {
			slog.InfoContext(ctx, "passed over: not one of the images that are published there", "document", path, "target", o.Target.Name)
			continue
		}
		all = append(all, *m)
	}
	if len(all) == 0 {
		return nil, fault.Inputf("none of the %d images is one that %s takes", len(paths), o.Target.Name)
	}
	return all, nil
}

// openMember returns nil for an image that is not published there.
func openMember(o Options) (*member, error) {
	img, err := read(o.BuildPath)
	if err != nil {
		return nil, err
	}
	info := img.Build.Data.Info
	m := &member{path: o.BuildPath, info: info, cell: manifest.PlanCell{Release: info.Release, Vendor: info.Vendor, Arch: info.Arch}}
	if !o.Target.Takes(info.Vendor) {
		return nil, nil
	}
	if o.Plan != nil {
		i := slices.IndexFunc(o.expected(), m.is)
		if i < 0 {
			return nil, nil
		}
		m.cell = o.expected()[i]
	}
	o.Suites = m.suites(o)
	if img, err = Open(o); err != nil {
		return nil, err
	}
	return m, img.Close()
}

func (m member) is(c manifest.PlanCell) bool {
	return c.Release == m.cell.Release && c.Vendor == m.cell.Vendor && c.Arch == m.cell.Arch
}

// suites are those that the plan and the target ask for beyond check and boot.
func (m member) suites(o Options) []string {
	demanded := slices.Concat(o.Suites, m.cell.Suites)
	if o.Target.CloudTest && !slices.Contains(demanded, o.Target.Suite()) {
		demanded = append(demanded, o.Target.Suite())
	}
	return demanded
}

// expected are the plan's cells that are published at the target: all of them where it takes all vendors, as the public tree,
// else those that are uploaded.
func (o Options) expected() []manifest.PlanCell {
	return slices.DeleteFunc(slices.Clone(o.Plan.Data.Cells), func(c manifest.PlanCell) bool {
		return !o.Target.Takes(c.Vendor) || len(o.Target.Vendors) > 0 && !c.Upload
	})
}

// demandComplete refuses a release × version of which a cell is missing.
func (s set) demandComplete(o Options) error {
	type half struct{ release, version string }
	var seen []half
	for _, m := range s {
		h := half{m.info.Release, m.info.Version}
		if slices.Contains(seen, h) {
			continue
		}
		seen = append(seen, h)
		var missing []string
		wanted := 0
		for _, c := range o.expected() {
			if c.Release != h.release {
				continue
			}
			wanted++
			if !slices.ContainsFunc(s, func(m member) bool { return m.is(c) && m.info.Version == h.version }) {
				missing = append(missing, c.Name())
			}
		}
		if len(missing) > 0 {
			return fault.WithHint(fault.Inputf("%s %s is not complete, so nothing of it becomes public: %d of %d images are missing: %s", h.release, h.version, len(missing), wanted, strings.Join(missing, ", ")),
				"build, test and publish what is missing first, or give a plan without it")
		}
	}
	return nil
}

// bring has every image at the place, privately. A region that lacks one is no reason to stop: stage Public tries it again and
// tells of it.
func (s set) bring(ctx context.Context, o Options) error {
	o.Stage = Private
	results, err := s.publish(ctx, o)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return err
	case len(results) < len(s):
		return fmt.Errorf("nothing becomes public, as only %d of %d images are there: %w", len(results), len(s), err)
	}
	slog.WarnContext(ctx, "not in every region yet; these are tried again, and the others become public", "target", o.Target.Name, "error", err)
	return nil
}

// publish publishes each image at o.Stage and joins what failed. There is a result of each image that is there, were it in one
// region only.
func (s set) publish(ctx context.Context, o Options) ([]*Result, error) {
	var results []*Result
	var failed []error
	for _, m := range s {
		one := o
		one.BuildPath, one.Suites = m.path, m.suites(o)
		r, err := Publish(ctx, one)
		if r != nil {
			results = append(results, r)
		}
		if ctx.Err() != nil {
			return results, context.Cause(ctx)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == 1 {
		return results, failed[0]
	}
	if len(failed) > 1 {
		return results, joined(failed, len(s))
	}
	return results, nil
}

// joined is one error of several images. It is of kind fault.Outside where each is; what someone has to look at comes before that.
func joined(failed []error, of int) error {
	kind := fault.Outside
	for _, err := range failed {
		kind = min(kind, fault.KindOf(err))
	}
	return &fault.Error{Kind: kind, Err: fmt.Errorf("%d of %d images were not published, or not in every region: %w", len(failed), of, errors.Join(failed...))}
}
