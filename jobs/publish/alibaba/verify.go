package alibaba

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// mend compares what ECS says that it has with what it was told to make, puts right what can be, and refuses what cannot.
func (p *publication) mend(ctx context.Context, region string, i *ecsImage, name string) error {
	if err := p.mendAttributes(ctx, region, i); err != nil {
		return err
	}
	if missing := lacking(i.Tags.all(), p.tags(name)); len(missing) > 0 {
		if err := p.tag(ctx, region, "image", i.ImageID, missing); err != nil {
			return err
		}
		p.changed.Store(true)
	}
	want := map[string]string{
		"name": name, "architecture": p.kind.arch, "boot mode": p.kind.boot, "NVMe support": "supported", "size": fmt.Sprint(gigabytes(p.img)), "encrypted": "false",
	}
	have := map[string]string{
		"name": i.ImageName, "architecture": i.Architecture, "boot mode": i.BootMode, "NVMe support": i.Features.NvmeSupport, "size": fmt.Sprint(i.Size), "encrypted": fmt.Sprint(i.encrypted()),
	}
	var wrong []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if have[k] != want[k] {
			wrong = append(wrong, fmt.Sprintf("%s %q where %q is needed", k, have[k], want[k]))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fault.WithHint(fault.Inputf("%s in %s is not what was made: %s", i, region, strings.Join(wrong, "; ")), "someone changed it: delete it and run the same command again")
}

// mendAttributes sets what a copy may have lost, and looks again.
func (p *publication) mendAttributes(ctx context.Context, region string, i *ecsImage) error {
	change := params{}
	if i.BootMode != p.kind.boot {
		change["BootMode"] = p.kind.boot
	}
	if i.Features.NvmeSupport != "supported" {
		change["Features.NvmeSupport"] = "supported"
	}
	if len(change) == 0 {
		return nil
	}
	if err := p.modify(ctx, region, i.ImageID, change); err != nil {
		return explain(ctx, region, "ModifyImageAttribute", err)
	}
	p.changed.Store(true)
	again, err := p.look(ctx, region, i.ImageID)
	if again != nil {
		*i = *again
	}
	return err
}

// tagSnapshot gives the image's snapshot the tags, which ECS does not: prune finds snapshots by them.
func (p *publication) tagSnapshot(ctx context.Context, region, id, name string) error {
	if id == "" {
		return fault.Outsidef("ECS does not say which snapshot image %s in %s is of", name, region)
	}
	var found []ecsSnapshot
	shown, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		var err error
		found, err = p.snapshots(ctx, region, nil, id)
		return len(found) > 0, err
	})
	if err == nil && !shown {
		err = fault.Outsidef("ECS does not show snapshot %s in %s, which image %s is of", id, region, name)
	}
	if err != nil {
		return err
	}
	missing := lacking(found[0].Tags.all(), p.tags(name))
	if len(missing) == 0 {
		return nil
	}
	p.changed.Store(true)
	return p.tag(ctx, region, "snapshot", id, missing)
}

// lacking returns those of the wanted tags that are not there.
func lacking(have, want map[string]string) map[string]string {
	missing := map[string]string{}
	for k, v := range want {
		if have[k] != v {
			missing[k] = v
		}
	}
	return missing
}
