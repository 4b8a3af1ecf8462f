package openstack

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// Whoami implements publish.Identifier. Until is when the application credential expires; a password does not, and its tokens are
// renewed. What Glance's policy allows cannot be asked, so Missing goes by the roles that its default policy names.
func (p *Publisher) Whoami(ctx context.Context) (publish.Identity, error) {
	s, err := p.connect(ctx)
	if err != nil {
		return publish.Identity{}, err
	}
	who := publish.Identity{
		Account:   s.project.ID,
		Principal: fmt.Sprintf("user %s of domain %s in project %s", s.user.Name, s.user.Domain.Name, s.project.Name),
		Missing:   missing(s.roles, p.settings.visibility),
	}
	if s.credential == "" {
		return who, nil
	}
	who.Until, err = s.credentialExpiry(ctx)
	return who, err
}

// credentialExpiry asks Keystone. Where it does not tell, because access rules of the credential do not allow it, the time is zero.
func (s *session) credentialExpiry(ctx context.Context) (time.Time, error) {
	identity, err := openstack.NewIdentityV3(s.client, s.endpoint)
	if err != nil {
		return time.Time{}, nil // the catalog does not tell where Keystone is: then it cannot be asked
	}
	c, err := applicationcredentials.Get(ctx, identity, s.user.ID, s.credential).Extract()
	switch status(err) {
	case 401, 403, 404:
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, s.explain(ctx, "ask for the application credential", err)
	}
	return c.ExpiresAt, nil
}

// missing says which rights the roles do not give, going by Glance's default policy (glance/policies/image.py): any member of a project
// adds, changes and deletes its images; "publicize_image" and nothing else needs more.
func missing(roles []tokens.Role, visibility string) []string {
	has := func(names ...string) bool {
		return slices.ContainsFunc(roles, func(r tokens.Role) bool { return slices.Contains(names, r.Name) })
	}
	var all []string
	if !has("member", "admin", "_member_") {
		all = append(all, "add_image, upload_image, modify_image, delete_image (role member)")
	}
	if visibility == "public" && !has("admin", "image_publisher") {
		all = append(all, "publicize_image (role admin, or a role that the cloud's Glance policy allows it)")
	}
	return all
}
