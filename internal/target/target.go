// Package target holds the noun behind --to: one account at one provider that images are published to and retired from.
package target

import (
	"maps"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Target is one account at one provider, in one partition of it: AWS in China is another Target than AWS. It holds names and
// identifiers, never a secret; credentials come from where Settings says, by the name of a variable or a file.
type Target struct {
	Name     string // as --to and the journal have it, unique
	Provider string // aws, google, azure, openstack, alibaba, directory
	// Account is the account, project or subscription that the credentials must be for; another one is refused. "" takes any.
	Account   string
	Partition string   // of the provider: aws-cn, aws-us-gov, AzureChina; "" is the public one
	Regions   []string // where images go, the first is where they are uploaded to; "*" alone means all that the account has
	Vendors   []string // whose images go there
	CloudTest bool     // an image becomes public only with a passing report from there, Suite
	// Settings are the provider's own: bucket, role, gallery, endpoint. Each provider refuses what it does not know.
	Settings map[string]string
}

// Suite names the suite of a report that tells how an image did on the provider.
func (t Target) Suite() string { return "boot-" + t.Provider }

// Takes tells whether images of a vendor go to the Target. One that names no vendors takes all.
func (t Target) Takes(vendor string) bool {
	return len(t.Vendors) == 0 || slices.Contains(t.Vendors, vendor)
}

// Resolve puts the environment's values in the place of values that are a variable's name, $NAME, as a matrix that is public has
// them. A variable that is not set is an error of kind Input, but where an optional "?" ends its name: $NAME? is then "".
func (t Target) Resolve(lookup func(string) (string, bool)) (Target, error) {
	var missing []string
	resolve := func(text string) string {
		name, is := strings.CutPrefix(text, "$")
		if !is {
			return text
		}
		name, optional := strings.CutSuffix(name, "?")
		value, set := lookup(name)
		if !optional && (!set || value == "") {
			missing = append(missing, name)
		}
		return value
	}
	t.Account, t.Partition = resolve(t.Account), resolve(t.Partition)
	var regions []string
	for _, r := range t.Regions {
		regions = append(regions, strings.FieldsFunc(resolve(r), func(c rune) bool { return c == ' ' || c == ',' })...)
	}
	t.Regions = regions
	settings := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(t.Settings)) {
		if v := resolve(t.Settings[key]); v != "" {
			settings[key] = v
		}
	}
	t.Settings = settings
	if len(missing) > 0 {
		return t, fault.WithHint(fault.Inputf("target %q needs variables that are not set: %s", t.Name, strings.Join(missing, ", ")), "set them, in GitLab as protected variables of the project; none of them is a secret")
	}
	return t, nil
}

// Demand returns the values of the settings keys, in their order, and refuses a Target that lacks one of them or has one that
// is neither among keys nor among optional.
func (t Target) Demand(keys []string, optional ...string) ([]string, error) {
	values := make([]string, len(keys))
	for i, key := range keys {
		if values[i] = t.Settings[key]; values[i] == "" {
			return nil, fault.Inputf("target %q lacks the setting %q, which provider %s needs", t.Name, key, t.Provider)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.Settings)) {
		if !slices.Contains(keys, key) && !slices.Contains(optional, key) {
			return nil, fault.Inputf("target %q has the setting %q, which provider %s does not know: it knows %s", t.Name, key, t.Provider, strings.Join(slices.Concat(keys, optional), ", "))
		}
	}
	return values, nil
}
