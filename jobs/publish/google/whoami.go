package google

import (
	"context"
	"net/http"
	"slices"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// rights are what publishing and pruning need in the project. README.md gives them to a role.
var rights = []string{
	"compute.globalOperations.get", "compute.images.create", "compute.images.delete", "compute.images.deprecate", "compute.images.get", "compute.images.getIamPolicy",
	"compute.images.list", "compute.images.setIamPolicy", "compute.images.setLabels", "compute.images.update",
	"storage.objects.create", "storage.objects.delete", "storage.objects.get", "storage.objects.list",
}

// Whoami implements publish.Identifier. Rights that were given on the bucket alone are told as missing: Google is asked about the
// project.
func (p *Publisher) Whoami(ctx context.Context) (publish.Identity, error) {
	id := publish.Identity{Account: p.project, Principal: p.credentials.principal()}
	var granted struct{ Permissions []string }
	if err := p.call(ctx, http.MethodPost, p.endpoint.resources+":testIamPermissions", nil, map[string]any{"permissions": rights}, &granted); err != nil {
		return id, p.explain("ask what is allowed in project "+p.project, err)
	}
	for _, r := range rights {
		if !slices.Contains(granted.Permissions, r) {
			id.Missing = append(id.Missing, r)
		}
	}
	if token, err := p.credentials.source.Token(); err == nil {
		id.Until = token.Expiry
	}
	return id, nil
}
