// Package google publishes images to Compute Engine: a tar.gz with disk.raw is made on the fly and uploaded to a bucket, an image
// is made of it, and the object goes again.
//
// It speaks the JSON APIs itself. Google's Go SDKs for Compute Engine have ten thousand types, which every start of the one program
// that debcloud is would pay for; of them publishing needs ten calls. The login is Google's own library.
package google

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

const provider = "google"

// Publisher publishes to one project. It implements publish.Publisher, publish.Identifier and prune.Holder.
type Publisher struct {
	target      target.Target
	project     string
	bucket      string
	licenses    []string
	journal     *journal.Journal
	credentials *credentials
	endpoint    endpoint
	patience    patience
	chunk       int // bytes of one request of an upload, a multiple of 256 KiB
}

// patience says how long Google may take.
type patience struct {
	regions.Patience
	visible   time.Duration // until it shows what was changed
	image     time.Duration // until an image is ready
	operation time.Duration // until any other change has ended
}

// patient is beyond what is known of images of some GiB: they take minutes.
var patient = patience{Patience: regions.Patience{Poll: 500 * time.Millisecond, PollMost: 15 * time.Second}, visible: 5 * time.Minute, image: 2 * time.Hour, operation: 2 * time.Hour}

// endpoint holds the URLs of the services.
type endpoint struct{ compute, storage, upload, resources string }

// New returns the Publisher of a target; transport is http.DefaultTransport where it is nil. Nothing is asked before it is used.
// Settings: bucket, where objects lie for a while; identityProvider and serviceAccount, for workload identity federation; licenses,
// URLs with commas between; endpoint, in the place of Google's hosts.
func New(t target.Target, j *journal.Journal, transport http.RoundTripper) (*Publisher, error) {
	settings, err := t.Demand([]string{"bucket"}, "identityProvider", "serviceAccount", "licenses", "endpoint")
	if err != nil {
		return nil, err
	}
	if t.Account == "" {
		return nil, fault.Inputf("target %q lacks the account: Google's is the project", t.Name)
	}
	if transport == nil {
		transport = http.DefaultTransport
	}
	host := func(name string) string {
		if fake := t.Settings["endpoint"]; fake != "" {
			return strings.TrimSuffix(fake, "/")
		}
		return "https://" + name + ".googleapis.com"
	}
	p := &Publisher{
		target: t, project: t.Account, bucket: settings[0], journal: j, patience: patient, chunk: 16 << 20,
		licenses: strings.FieldsFunc(t.Settings["licenses"], func(r rune) bool { return r == ',' || r == ' ' }),
		credentials: &credentials{
			audience: t.Settings["identityProvider"], account: t.Settings["serviceAccount"], base: transport,
			tokenURL: host("sts") + "/v1/token", iamURL: host("iamcredentials") + "/v1",
		},
	}
	p.endpoint = endpoint{
		compute:   host("compute") + "/compute/v1/projects/" + url.PathEscape(p.project) + "/global",
		storage:   host("storage") + "/storage/v1/b/" + url.PathEscape(p.bucket) + "/o",
		upload:    host("storage") + "/upload/storage/v1/b/" + url.PathEscape(p.bucket) + "/o",
		resources: host("cloudresourcemanager") + "/v3/projects/" + url.PathEscape(p.project),
	}
	return p, nil
}

// Provider returns "google".
func (p *Publisher) Provider() string { return provider }

// Publish implements publish.Publisher.
func (p *Publisher) Publish(ctx context.Context, img *publish.Image, stage publish.Stage) (*publish.Publication, error) {
	w := &work{Publisher: p, img: img, name: img.Name()}
	if err := w.demandNames(); err != nil {
		return nil, err
	}
	e, err := p.journal.Lock(ctx, journal.Key{Target: p.target.Name, Digest: img.Digest.String(), Image: w.name})
	if err != nil {
		return nil, err
	}
	defer e.Unlock()
	w.entry = e
	if err := w.bring(ctx); err != nil {
		return nil, err
	}
	if stage == publish.Public {
		if err := w.makePublic(ctx); err != nil {
			return nil, err
		}
	}
	ref := "projects/" + p.project + "/global/images/" + w.name
	return &publish.Publication{
		Uploads: []manifest.Upload{img.CloudUpload(provider, "", ref, "projects/"+p.project+"/global/images/family/"+w.family())},
		Changed: w.changed, Place: ref,
	}, nil
}

// work is one image on its way.
type work struct {
	*Publisher
	img     *publish.Image
	name    string
	entry   *journal.Entry
	changed bool
}

// maxName is Google's limit of a name, in bytes (RFC 1035).
const maxName = 63

func (w *work) demandNames() error {
	if len(w.name) > maxName {
		return fault.Inputf("the name %q has %d bytes, and Google's limit is %d", w.name, len(w.name), maxName)
	}
	_, err := traitsOf(w.img.Build.Data.Info.Arch)
	return err
}

// family is the image's name without its version, as users name the newest image.
func (w *work) family() string { return strings.TrimSuffix(w.name, "-"+w.img.Version.String()) }

// object is the name of the object that the image is made of. It has part of the digest, so that what an unfinished publication of
// another image left is never taken for this one's.
func (w *work) object() string { return w.name + "-" + w.img.Digest.Hex()[:16] + ".tar.gz" }

// traits are what Google calls an architecture and what its images can do.
type traits struct {
	arch     string
	features []string
}

func traitsOf(arch string) (traits, error) {
	switch arch {
	case "amd64":
		return traits{"X86_64", []string{"GVNIC", "IDPF", "SEV_CAPABLE", "SEV_LIVE_MIGRATABLE_V2", "SEV_SNP_CAPABLE", "UEFI_COMPATIBLE", "VIRTIO_SCSI_MULTIQUEUE"}}, nil
	case "arm64":
		return traits{"ARM64", []string{"GVNIC", "IDPF", "UEFI_COMPATIBLE"}}, nil
	}
	return traits{}, fault.Inputf("Google has no machines of architecture %q", arch)
}

// bring makes the image unless it is there. The journal names the steps; what is done is asked of Google alone.
func (w *work) bring(ctx context.Context) error {
	there, err := w.find(ctx)
	if err != nil {
		return err
	}
	want, err := w.wanted()
	if err != nil {
		return err
	}
	if there == nil {
		if err := w.upload(ctx); err != nil {
			return err
		}
	}
	if _, err := journal.StandingStep(ctx, w.entry, "image", func(context.Context, string) (bool, error) {
		if there == nil || there.Status != "READY" {
			return false, nil
		}
		return true, want.demand(there) // someone may have changed it since
	}, func(ctx context.Context) (string, error) { return w.name, w.insert(ctx, there, want) }); err != nil {
		return err
	}
	return w.deleteObject(ctx, w.object())
}

// find returns the image of this name; nil where there is none. One that is not ours, or another, is refused.
func (w *work) find(ctx context.Context) (*computeImage, error) {
	there, err := w.get(ctx, w.name)
	if err != nil || there == nil {
		return nil, err
	}
	if !there.ours() || !strings.Contains(there.Description, w.img.Digest.Hex()) {
		return nil, fault.WithHint(fault.Inputf("image %s in project %s is another one: %q, and this image has digest sha512:%s", w.name, w.project, there.Description, w.img.Digest.Hex()),
			"give this image another version")
	}
	if there.Status == "FAILED" {
		return nil, w.do(ctx, "delete the failed image "+w.name, http.MethodDelete, w.endpoint.compute+"/images/"+w.name, nil, nil)
	}
	return there, nil
}

// get returns an image, nil where there is none.
func (p *Publisher) get(ctx context.Context, name string) (*computeImage, error) {
	var there computeImage
	err := p.call(ctx, http.MethodGet, p.endpoint.compute+"/images/"+name, nil, nil, &there)
	if isStatus(err, http.StatusNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, p.explain("look for image "+name, err)
	}
	return &there, nil
}

// upload makes sure that the object is there.
func (w *work) upload(ctx context.Context) error {
	there, err := w.findObject(ctx, w.object())
	if err != nil {
		return err
	}
	if there == nil {
		if err := w.entry.Forget(ctx, "object"); err != nil {
			return err
		}
	}
	_, err = journal.Step(ctx, w.entry, "object", func(ctx context.Context, _ bool) (string, error) {
		if there != nil {
			return w.object(), nil // an object appears when it is complete
		}
		w.changed = true
		return w.object(), w.sendObject(ctx)
	})
	return err
}

// insert makes the image of the object, waits until it is ready, and compares what Google says of it with what was asked for.
func (w *work) insert(ctx context.Context, there, want *computeImage) error {
	if there == nil {
		w.changed = true
		err := w.do(ctx, "make image "+w.name, http.MethodPost, w.endpoint.compute+"/images", nil, want)
		if err != nil && !isStatus(err, http.StatusConflict) {
			if err = w.refused(ctx, err); err != nil {
				return err
			}
		}
	}
	return w.ready(ctx, want)
}

// ready waits until the image is ready.
func (w *work) ready(ctx context.Context, want *computeImage) error {
	var there *computeImage
	done, err := w.patience.Until(ctx, w.patience.image, func() (_ bool, err error) {
		if there, err = w.find(ctx); err == nil && there == nil {
			err = fault.Outsidef("image %s is not there after it was made", w.name)
		}
		return err == nil && there.Status == "READY", err
	})
	if err == nil && !done {
		err = fault.WithHint(fault.Outsidef("image %s is still %s after %s", w.name, there.Status, w.patience.image),
			"run the same command again, which waits on; where the image never becomes ready, delete it first: gcloud compute images delete %s --project %s", w.name, w.project)
	}
	if err != nil {
		return err
	}
	return want.demand(there)
}

// refused judges why no image could be made. Another publisher, of another journal, may have made it of the object that both share, and have taken the object
// away. nil says that the image is there.
func (w *work) refused(ctx context.Context, why error) error {
	if fault.KindOf(why) != fault.Input {
		return why
	}
	if there, err := w.find(ctx); err != nil || there != nil {
		return err
	}
	if object, err := w.findObject(ctx, w.object()); err != nil || object != nil {
		return cmp.Or(err, why)
	}
	return fault.WithHint(fault.Outsidef("another publisher is at work on %s, or someone deletes what lies in bucket %s: object %s is gone: %w", w.name, w.bucket, w.object(), why),
		"run the same command again")
}

// wanted is the image as it is asked for. It has no family: a family leads to its newest image, even where nobody may see that.
func (w *work) wanted() (*computeImage, error) {
	info := w.img.Build.Data.Info
	t, err := traitsOf(info.Arch)
	if err != nil {
		return nil, err
	}
	i := &computeImage{
		Name:         w.name,
		Description:  fmt.Sprintf("Debian %s, %s, %s %s, raw image sha512:%s", info.ReleaseID, info.Release, w.img.Type, info.Version, w.img.Digest.Hex()),
		Architecture: t.arch,
		DiskSizeGb:   number(gigabytes(w.img.Size()) >> 30),
		Licenses:     w.licenses,
		Labels: map[string]string{
			markLabel: "yes", "debcloud-family": strings.ReplaceAll(w.img.Family(), " ", "_"), "debcloud-type": string(w.img.Type),
			"debcloud-version": w.img.Version.String(), "debcloud-release": info.Release, "debcloud-vendor": info.Vendor, "debcloud-arch": info.Arch,
		},
		RawDisk: &rawDisk{ContainerType: "TAR", Source: "https://storage.googleapis.com/" + w.bucket + "/" + w.object()},
	}
	if len(w.target.Regions) > 0 && w.target.Regions[0] != "*" {
		i.StorageLocations = w.target.Regions
	}
	for _, f := range t.features {
		i.GuestOsFeatures = append(i.GuestOsFeatures, feature{f})
	}
	return i, nil
}

// demand compares what Google has with what was asked for.
func (i *computeImage) demand(there *computeImage) error {
	var differ []string
	note := func(what string, same bool) {
		if !same {
			differ = append(differ, what)
		}
	}
	types := func(i *computeImage) (all []string) {
		for _, f := range i.GuestOsFeatures {
			all = append(all, f.Type)
		}
		slices.Sort(all)
		return all
	}
	note("its architecture", there.Architecture == i.Architecture)
	note("the size of its disk", there.DiskSizeGb == i.DiskSizeGb)
	note("its guest OS features", slices.Equal(slices.DeleteFunc(types(there), func(f string) bool { return !slices.Contains(types(i), f) }), types(i)))
	for key, value := range i.Labels {
		note("its label "+key, there.Labels[key] == value)
	}
	if len(differ) > 0 {
		return fault.WithHint(fault.Inputf("image %s is not as it was asked for: %s differ", i.Name, strings.Join(differ, ", ")), "delete it and publish again")
	}
	return nil
}

func compareVersions(a, b string) int {
	x, _ := image.ParseVersion(a) // zero for what is none: older than any
	y, _ := image.ParseVersion(b)
	return cmp.Or(cmp.Compare(x.Date, y.Date), cmp.Compare(x.Number, y.Number))
}
