package manifest

import (
	"cmp"
	"encoding/json"
	"os"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Upload says where a cloud image was published.
type Upload struct {
	Header
	Data UploadData `json:"data"`
}

// UploadData names the place. Provider and Ref together are unique.
type UploadData struct {
	FamilyRef *string `json:"familyRef"`
	Provider  string  `json:"provider"` // cloud.debian.org for the public tree
	Ref       string  `json:"ref"`      // path in the public tree, or the cloud's own identifier
}

// domains are what Upload documents call the providers.
var domains = map[string]string{
	"directory": "cloud.debian.org",
	"aws":       "aws.amazon.com",
	"azure":     "azure.microsoft.com",
	"google":    "cloud.google.com",
	"alibaba":   "alibabacloud.com",
	"openstack": "openstack.org",
}

// ProviderDomain returns what Upload documents call a provider, its domain; a provider without one keeps its name.
func ProviderDomain(provider string) string { return cmp.Or(domains[provider], provider) }

// Domain returns the domain of the upload's provider. For AWS upstream's own field has the name of the region's endpoint,
// and a label the domain.
func (u Upload) Domain() string { return cmp.Or(u.Metadata.Labels[LabelProvider], u.Data.Provider) }

// List is upstream's public manifest: one Build and the Uploads made of it.
type List struct {
	APIVersion string            `json:"apiVersion"` // "v1"
	Items      []json.RawMessage `json:"items"`
	Kind       string            `json:"kind"` // "List"
}

// NewList wraps build and uploads.
func NewList(build *Build, uploads []Upload) (*List, error) {
	l := &List{APIVersion: "v1", Kind: "List"}
	for _, item := range append([]any{build}, anys(uploads)...) {
		raw, err := json.Marshal(item)
		if err != nil {
			return nil, err
		}
		l.Items = append(l.Items, raw)
	}
	return l, nil
}

func anys(uploads []Upload) []any {
	out := make([]any, len(uploads))
	for i := range uploads {
		out[i] = &uploads[i]
	}
	return out
}

// ReadList reads a public manifest: the Build documents and Upload documents in it. Items of other kinds are passed over.
func ReadList(path string) ([]Build, []Upload, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var l List
	if err := json.Unmarshal(text, &l); err != nil {
		return nil, nil, fault.Inputf("%s is not a List document: %w", path, err)
	}
	if l.Kind != "List" || l.APIVersion != "v1" {
		return nil, nil, fault.Inputf("%s is of kind %q, schema %q, where List of \"v1\" is needed", path, l.Kind, l.APIVersion)
	}
	var builds []Build
	var uploads []Upload
	for _, raw := range l.Items {
		var h Header
		if err := json.Unmarshal(raw, &h); err != nil {
			return nil, nil, fault.Inputf("%s: %w", path, err)
		}
		if h.APIVersion != APIVersion {
			return nil, nil, fault.Inputf("%s holds a %s of schema %q, where %q is needed", path, h.Kind, h.APIVersion, APIVersion)
		}
		switch h.Kind {
		case "Build":
			builds, err = appendItem(builds, raw)
		case "Upload":
			uploads, err = appendItem(uploads, raw)
		}
		if err != nil {
			return nil, nil, fault.Inputf("%s: %w", path, err)
		}
	}
	return builds, uploads, nil
}

func appendItem[T any](items []T, raw json.RawMessage) ([]T, error) {
	var item T
	err := json.Unmarshal(raw, &item)
	return append(items, item), err
}
