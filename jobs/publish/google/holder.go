package google

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// List implements prune.Holder: the images of ours, and objects that unfinished publications left.
func (p *Publisher) List(ctx context.Context) ([]holding.Item, error) {
	images, err := p.images(ctx, "labels."+markLabel+"=yes")
	if err != nil {
		return nil, err
	}
	objects, err := p.objects(ctx)
	if err != nil {
		return nil, err
	}
	var items []holding.Item
	for i := range images {
		if images[i].ours() {
			items = append(items, p.imageItem(&images[i]))
		}
	}
	for _, o := range objects {
		created := parseTime(o.TimeCreated)
		items = append(items, holding.Item{
			ID: "gs://" + p.bucket + "/" + o.Name, Name: o.Name, Kind: holding.Object, Provider: provider,
			Created: created, State: holding.Current, Since: created, Ours: true,
		})
	}
	return items, nil
}

func (p *Publisher) imageItem(i *computeImage) holding.Item {
	it := holding.Item{
		ID: p.imageID(i.Name), Name: i.Name, Kind: holding.Image, Provider: provider,
		Family: strings.ReplaceAll(i.Labels["debcloud-family"], "_", " "), UploadType: image.UploadType(i.Labels["debcloud-type"]), Version: i.Labels["debcloud-version"],
		Created: parseTime(i.CreationTimestamp), State: holding.Current, Ours: true, Public: i.Family != "",
	}
	it.Since = it.Created
	switch i.state() {
	case "DEPRECATED":
		it.State, it.Since = holding.Deprecated, parseTime(i.Deprecated.Deprecated)
	case "OBSOLETE", "DELETED":
		it.State, it.Since, it.Public = holding.Hidden, parseTime(i.Deprecated.Obsolete), false
	}
	if it.State != holding.Current && i.Deprecated.Replacement != "" {
		it.ReplacedBy = p.imageID(i.Deprecated.Replacement[strings.LastIndex(i.Deprecated.Replacement, "/")+1:])
	}
	return it
}

// imageID is how users name an image.
func (p *Publisher) imageID(name string) string {
	return "projects/" + p.project + "/global/images/" + name
}

// Deprecate implements prune.Holder.
func (p *Publisher) Deprecate(ctx context.Context, it holding.Item) error {
	there, err := p.retired(ctx, it, holding.Deprecated)
	if err != nil || there == nil {
		return err
	}
	return p.deprecate(ctx, there.Name, deprecation{State: "DEPRECATED", Replacement: p.link(it.ReplacedBy), Deprecated: now()})
}

// Hide implements prune.Holder: nobody can start an obsolete image, and the public loses the right to see it.
func (p *Publisher) Hide(ctx context.Context, it holding.Item) error {
	there, err := p.retired(ctx, it, holding.Hidden)
	if err != nil || there == nil {
		return err
	}
	d := deprecation{State: "OBSOLETE", Replacement: p.link(it.ReplacedBy), Obsolete: now()}
	if there.Deprecated != nil {
		d.Deprecated = there.Deprecated.Deprecated
		if d.Replacement == "" {
			d.Replacement = there.Deprecated.Replacement
		}
	}
	if _, err := p.setPublic(ctx, there.Name, false); err != nil {
		return err
	}
	return p.deprecate(ctx, there.Name, d)
}

// Delete implements prune.Holder.
func (p *Publisher) Delete(ctx context.Context, it holding.Item) error {
	if it.Kind == holding.Object {
		return p.deleteOurs(ctx, it)
	}
	there, err := p.retired(ctx, it, "")
	if err != nil || there == nil {
		return err
	}
	err = p.do(ctx, "delete image "+there.Name, http.MethodDelete, p.endpoint.compute+"/images/"+there.Name, nil, nil)
	if isStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}

func (p *Publisher) deleteOurs(ctx context.Context, it holding.Item) error {
	there, err := p.findObject(ctx, it.Name)
	if err != nil || there == nil {
		return err
	}
	err = p.call(ctx, http.MethodDelete, p.endpoint.storage+"/"+url.PathEscape(it.Name), nil, nil, nil)
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return p.explain("delete object "+it.Name, err)
	}
	return nil
}

// retired looks an Item up before it is changed. It returns nil where there is nothing left to do: the image is gone, or in the
// wanted state.
func (p *Publisher) retired(ctx context.Context, it holding.Item, wanted holding.State) (*computeImage, error) {
	there, err := p.get(ctx, it.Name)
	if err != nil || there == nil {
		return nil, err
	}
	now := p.imageItem(there)
	switch {
	case !there.ours():
		return nil, fault.Inputf("image %s is not ours", it.Name)
	case wanted != "" && now.State == wanted:
		return nil, nil
	case now.State != it.State:
		return nil, fault.Inputf("image %s is %s by now, and was %s when it was listed", it.Name, now.State, it.State)
	}
	return there, nil
}

// link makes an image's URL of its ID; "" stays "".
func (p *Publisher) link(id string) string {
	if id == "" {
		return ""
	}
	return "https://www.googleapis.com/compute/v1/" + id
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }
