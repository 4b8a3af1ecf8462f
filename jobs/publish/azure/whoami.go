package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// listRegions is the right to list the subscription's regions, which only a role on the subscription gives; README.md has one.
const listRegions = "Microsoft.Resources/subscriptions/locations/read"

// needed are the rights on the resource group that publishing and pruning take, as role definitions name them; README.md has a role with them.
var needed = []string{
	"Microsoft.Compute/galleries/read",
	"Microsoft.Compute/galleries/images/read", "Microsoft.Compute/galleries/images/write",
	"Microsoft.Compute/galleries/images/versions/read", "Microsoft.Compute/galleries/images/versions/write", "Microsoft.Compute/galleries/images/versions/delete",
	"Microsoft.Compute/disks/read", "Microsoft.Compute/disks/write", "Microsoft.Compute/disks/delete",
	"Microsoft.Compute/disks/beginGetAccess/action", "Microsoft.Compute/disks/endGetAccess/action",
	"Microsoft.Authorization/permissions/read",
}

// Whoami implements publish.Identifier. Until is the end of a CI job's id token; tokens of a secret or a certificate are renewed.
func (p *Publisher) Whoami(ctx context.Context) (publish.Identity, error) {
	s, err := p.connect(ctx)
	if err != nil {
		return publish.Identity{}, err
	}
	token, err := s.login.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{s.login.scope}})
	if err != nil {
		return publish.Identity{}, s.explain(ctx, "log in", err)
	}
	c := claimsOf(token.Token)
	who := publish.Identity{Account: p.target.Account, Principal: fmt.Sprintf("client %s (object %s) of tenant %s", c.AppID, c.OID, c.TID)}
	if s.login.idToken != nil {
		if exp := claimsOf(s.login.idToken()).Exp; exp != 0 {
			who.Until = time.Unix(exp, 0)
		}
	}
	who.Missing, err = s.missing(ctx)
	return who, err
}

// missing tells which of the rights the credentials lack. Those on the resource group Azure lists; listing regions is tried, as a role on
// the group that names it does not give it.
func (s *session) missing(ctx context.Context) ([]string, error) {
	var all []string
	_, err := s.locations(ctx)
	switch {
	case status(err) == http.StatusForbidden:
		all = append(all, listRegions+" on the subscription")
	case err != nil:
		return nil, s.explain(ctx, "list the subscription's regions", err)
	}
	var permissions struct {
		Value []struct{ Actions, NotActions []string }
	}
	err = s.get(ctx, s.scope()+"/providers/Microsoft.Authorization/permissions", "2022-04-01", &permissions)
	if status(err) == http.StatusForbidden {
		return append(all, "Microsoft.Authorization/permissions/read (without it the others cannot be asked)"), nil
	}
	if err != nil {
		return nil, s.explain(ctx, "ask for permissions on resource group "+s.group, err)
	}
	for _, action := range needed {
		allowed := false
		for _, p := range permissions.Value {
			allowed = allowed || matchesAny(p.Actions, action) && !matchesAny(p.NotActions, action)
		}
		if !allowed {
			all = append(all, action)
		}
	}
	return all, nil
}

type claims struct {
	AppID string `json:"appid"`
	OID   string `json:"oid"`
	TID   string `json:"tid"`
	Exp   int64  `json:"exp"`
}

// claimsOf reads a JSON web token without verifying it: what it grants, its service decides.
func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	if len(parts) < 2 {
		return c
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err == nil {
		_ = json.Unmarshal(text, &c) // claims that it lacks are empty
	}
	return c
}

// matchesAny tells whether one of the patterns, in which * stands for any text, matches an action; case does not count.
func matchesAny(patterns []string, action string) bool {
	for _, p := range patterns {
		if matches(strings.ToLower(p), strings.ToLower(action)) {
			return true
		}
	}
	return false
}

func matches(pattern, text string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == text
	}
	if !strings.HasPrefix(text, first) {
		return false
	}
	for at := len(first); at <= len(text); at++ {
		if matches(rest, text[at:]) {
			return true
		}
	}
	return false
}
