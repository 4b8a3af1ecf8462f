package azure

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// version brings the image to the gallery and to all regions, from wherever it is, and returns what the gallery says of it. Regions that
// failed are told by regionsOf.
func (w *work) version(ctx context.Context) (*armcompute.GalleryImageVersion, error) {
	v, err := w.arrived(ctx)
	if err != nil {
		return nil, err
	}
	if v == nil {
		if v, err = w.create(ctx); err != nil {
			return nil, err
		}
	}
	if missing := w.missing(v); len(missing) > 0 {
		if v, err = w.replicate(ctx, v, missing); err != nil {
			return nil, err
		}
	}
	if there, failed := w.regionsOf(v); len(there) == 0 {
		return nil, w.joinFailures(failed)
	}
	if err := w.verify(v); err != nil {
		return nil, err
	}
	return v, w.tidy(ctx)
}

// look returns the version as the gallery has it, nil where it does not.
func (w *work) look(ctx context.Context) (*armcompute.GalleryImageVersion, error) {
	v, err := w.versions.Get(ctx, w.group, w.gallery, w.definition, w.number, &armcompute.GalleryImageVersionsClientGetOptions{Expand: ref(armcompute.ReplicationStatusTypesReplicationStatus)})
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, w.explain(ctx, w.what("look at"), err)
	}
	return &v.GalleryImageVersion, nil
}

func (w *work) what(doing string) string {
	return fmt.Sprintf("%s version %s of %s", doing, w.number, w.definition)
}

// arrived waits until a version that is on its way, by whomever, is there or failed. It returns nil where there is none.
func (w *work) arrived(ctx context.Context) (*armcompute.GalleryImageVersion, error) {
	deadline := time.Now().Add(w.patience.arrival)
	for {
		v, err := w.look(ctx)
		if v == nil || err != nil {
			return nil, err
		}
		switch digest := deref(v.Tags[tagDigest]); digest {
		case w.img.Digest.String():
		case "":
			return nil, fault.WithHint(fault.Inputf("version %s of %s in gallery %s is not of debcloud", w.number, w.definition, w.gallery), "delete it, or publish to another gallery")
		default:
			return nil, fault.WithHint(fault.Inputf("%s is published already, as version %s of %s with digest %s, and this image has digest %s", w.img.Name(), w.number, w.definition, digest, w.img.Digest),
				"a published version never changes: build this image with another version")
		}
		switch state := stateOf(v); state {
		case armcompute.GalleryProvisioningStateSucceeded, armcompute.GalleryProvisioningStateFailed:
			return v, nil
		case armcompute.GalleryProvisioningStateCreating, armcompute.GalleryProvisioningStateUpdating, armcompute.GalleryProvisioningStateDeleting, armcompute.GalleryProvisioningStateMigrating:
			if time.Now().After(deadline) {
				return nil, fault.Outsidef("version %s of %s has been %s for %s", w.number, w.definition, state, w.patience.arrival)
			}
		default:
			return nil, fault.Inputf("version %s of %s is %q, which is not expected", w.number, w.definition, state)
		}
		if err := pause.For(ctx, w.patience.pause); err != nil {
			return nil, err
		}
	}
}

func stateOf(v *armcompute.GalleryImageVersion) armcompute.GalleryProvisioningState {
	if v.Properties == nil {
		return ""
	}
	return deref(v.Properties.ProvisioningState)
}

// create makes the version of a disk, excluded from "latest".
func (w *work) create(ctx context.Context) (*armcompute.GalleryImageVersion, error) {
	if err := w.demandDefinition(ctx); err != nil {
		return nil, err
	}
	disk, err := w.disk(ctx)
	if err != nil {
		return nil, err
	}
	wanted := armcompute.GalleryImageVersion{
		Location: &w.home, Tags: tags(w.img),
		Properties: &armcompute.GalleryImageVersionProperties{
			StorageProfile: &armcompute.GalleryImageVersionStorageProfile{OSDiskImage: &armcompute.GalleryOSDiskImage{Source: &armcompute.GalleryDiskImageSource{ID: &disk}}},
			PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{
				ExcludeFromLatest: ref(true), TargetRegions: w.targets(nil), StorageAccountType: ref(armcompute.StorageAccountTypeStandardLRS),
			},
			SafetyProfile: &armcompute.GalleryImageVersionSafetyProfile{AllowDeletionOfReplicatedLocations: ref(true)},
		},
	}
	var v *armcompute.GalleryImageVersion
	err = w.once(ctx, "version", func(ctx context.Context) error {
		v, err = w.put(ctx, "make", wanted)
		return err
	})
	return v, err
}

// put writes the version and waits until that is done. A failure in some regions is no error: regionsOf tells.
func (w *work) put(ctx context.Context, doing string, wanted armcompute.GalleryImageVersion) (*armcompute.GalleryImageVersion, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.patience.arrival, fault.Outsidef("version %s of %s is not in all regions after %s", w.number, w.definition, w.patience.arrival))
	defer cancel()
	poller, err := w.versions.BeginCreateOrUpdate(ctx, w.group, w.gallery, w.definition, w.number, wanted, nil)
	if err != nil {
		if status(err) != http.StatusConflict { // someone else is at it: then it is waited for
			return nil, w.explainPut(ctx, w.what(doing), err)
		}
	} else if _, err = wait(ctx, w.session, poller, nil); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	v, lost := w.arrived(ctx)
	if lost != nil {
		return nil, lost
	}
	if v == nil || v.Properties.ReplicationStatus == nil && err != nil {
		if err == nil {
			err = fault.Outsidef("the gallery lost it")
		}
		return nil, w.explain(ctx, w.what(doing), err)
	}
	return v, nil
}

// explainPut is explainWrite, and tells of a region that the subscription may not have: one alone has Azure refuse them all.
func (w *work) explainPut(ctx context.Context, doing string, err error) error {
	explained := w.explainWrite(ctx, doing, err)
	if w.unlisted && status(err) == http.StatusBadRequest && ctx.Err() == nil {
		return fault.WithHint(explained, "if the target names a region that the subscription does not have, take it out; it would have been found and left out if the credentials had %s on the subscription", listRegions)
	}
	return explained
}

// targets are the regions that the version should be in: those that it is in, and those of the target.
func (w *work) targets(have []*armcompute.TargetRegion) []*armcompute.TargetRegion {
	all := slices.Clone(have)
	for _, region := range w.wanted {
		if !slices.ContainsFunc(all, func(t *armcompute.TargetRegion) bool { return normal(deref(t.Name)) == region }) {
			all = append(all, &armcompute.TargetRegion{Name: &region, RegionalReplicaCount: ref[int32](1)})
		}
	}
	return all
}

// regionsOf tells in which of the wanted regions the version is, and why it is not in the others.
func (w *work) regionsOf(v *armcompute.GalleryImageVersion) (there []string, failed map[string]string) {
	failed = map[string]string{}
	for _, region := range w.wanted {
		failed[region] = "the version is not there"
	}
	if v.Properties.ReplicationStatus == nil {
		return nil, failed
	}
	for _, r := range v.Properties.ReplicationStatus.Summary {
		region := normal(deref(r.Region))
		if deref(r.State) == armcompute.ReplicationStateCompleted {
			delete(failed, region)
			continue
		}
		if _, wanted := failed[region]; wanted {
			failed[region] = fmt.Sprintf("replication is %s: %s", deref(r.State), deref(r.Details))
		}
	}
	for _, region := range w.wanted {
		if failed[region] == "" {
			there = append(there, region)
		}
	}
	return there, failed
}

func (w *work) missing(v *armcompute.GalleryImageVersion) []string {
	_, failed := w.regionsOf(v)
	return slices.Sorted(maps.Keys(failed))
}

// replicate has the gallery copy the version to regions that lack it.
func (w *work) replicate(ctx context.Context, v *armcompute.GalleryImageVersion, missing []string) (*armcompute.GalleryImageVersion, error) {
	wanted := writable(v)
	wanted.Properties.PublishingProfile.TargetRegions = w.targets(wanted.Properties.PublishingProfile.TargetRegions)
	err := w.once(ctx, fmt.Sprintf("replicate to %v", missing), func(ctx context.Context) (err error) {
		v, err = w.put(ctx, "replicate", wanted)
		return err
	})
	return v, err
}

// writable is a version as it is written: without what only the gallery says.
func writable(v *armcompute.GalleryImageVersion) armcompute.GalleryImageVersion {
	profile := *v.Properties.PublishingProfile
	profile.PublishedDate = nil
	return armcompute.GalleryImageVersion{
		Location: v.Location, Tags: maps.Clone(v.Tags),
		Properties: &armcompute.GalleryImageVersionProperties{
			StorageProfile: v.Properties.StorageProfile, PublishingProfile: &profile, SafetyProfile: v.Properties.SafetyProfile, SecurityProfile: v.Properties.SecurityProfile,
		},
	}
}

// demandDefinition makes the family's image definition, where it is missing.
func (w *work) demandDefinition(ctx context.Context) error {
	wanted, err := wantedDefinition(w.img, w.home)
	if err != nil {
		return err
	}
	have, err := w.definitions.Get(ctx, w.group, w.gallery, w.definition, nil)
	if err == nil {
		return demandDefinition(w.definition, have.Properties, wanted.Properties)
	}
	if !notFound(err) {
		return w.explain(ctx, "look at image definition "+w.definition, err)
	}
	return w.once(ctx, "definition", func(ctx context.Context) error {
		poller, err := w.definitions.BeginCreateOrUpdate(ctx, w.group, w.gallery, w.definition, wanted, nil)
		_, err = wait(ctx, w.session, poller, err)
		return w.explain(ctx, "make image definition "+w.definition, err)
	})
}

// verify compares what the gallery says of the version with what was sent. It has no digest of it: each page was checked by its own
// when it was sent.
func (w *work) verify(v *armcompute.GalleryImageVersion) error {
	wanted := tags(w.img)
	for _, tag := range []string{tagName, tagFamily, tagType, tagVersion} { // which prune and people go by
		if have := deref(v.Tags[tag]); have != *wanted[tag] {
			return fault.WithHint(fault.Inputf("version %s of %s has the tag %s %q, where it was made with %q", w.number, w.definition, tag, have, *wanted[tag]), "someone changed it: set it back")
		}
	}
	profile := v.Properties.StorageProfile
	if profile == nil || profile.OSDiskImage == nil || profile.OSDiskImage.SizeInGB == nil {
		return nil
	}
	if want := int32((vhdSize(w.img.Size()) + 1<<30 - 1) >> 30); *profile.OSDiskImage.SizeInGB != want {
		return fault.Inputf("version %s of %s has a disk of %d GiB, where the image has %d", w.number, w.definition, *profile.OSDiskImage.SizeInGB, want)
	}
	return nil
}

// tidy deletes the disk through which the image came.
func (w *work) tidy(ctx context.Context) error {
	name := diskName(w.img)
	have, err := w.disks.Get(ctx, w.group, name, nil)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return w.explain(ctx, "look at disk "+name, err)
	}
	if deref(have.Tags[tagDigest]) != w.img.Digest.String() {
		return nil
	}
	return w.once(ctx, "delete disk", func(ctx context.Context) error { return w.dropDisk(ctx, name) })
}
