package notify

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// eventType is the CloudEvents type of all events here.
const eventType = "org.debian.cloud.image.published.v1"

// contentType is that of CloudEvents in structured mode (CloudEvents HTTP protocol binding 1.0, 3.2).
const contentType = "application/cloudevents+json; charset=utf-8"

// event is a CloudEvents 1.0 event in its JSON format.
type event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            eventData `json:"data"`
}

// eventData is the image as index.json has it. Its paths are relative to the tree.
type eventData struct {
	Tree  string              `json:"tree,omitempty"` // URL of the tree
	Image manifest.IndexImage `json:"image"`
}

// newEvent returns the event and its id.
func newEvent(i manifest.IndexImage, url string, seen time.Time) (id, text string, err error) {
	source := url
	if source == "" {
		source = "urn:uuid:" + manifest.NewUID("Index")
	}
	id = manifest.NewUID("published", i.Name, i.Digest, strings.Join(providers(i), ","))
	i.Latest = false // of the tree's state, not of the image
	body, err := json.Marshal(event{
		SpecVersion: "1.0", ID: id, Source: source, Type: eventType, Subject: i.Name, Time: seen.UTC().Truncate(time.Second),
		DataContentType: "application/json", Data: eventData{Tree: url, Image: i},
	})
	return id, string(body), err
}

// key tells images apart, wherever they are: an image that was built again under its name is another one.
func key(i manifest.IndexImage) string { return manifest.NewUID("image", i.Name, i.Digest) }

// providers are the domains of where an image is, sorted; the tree's own is that of provider directory.
func providers(i manifest.IndexImage) []string {
	var all []string
	if len(i.Files) > 0 {
		all = append(all, manifest.ProviderDomain("directory"))
	}
	for _, u := range i.Uploads {
		all = append(all, u.Provider)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
