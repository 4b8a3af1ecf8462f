package alibaba

import (
	"regexp"
	"slices"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
)

// settings say which account images go to and how. They hold no secret: credentials come from the environment or from files.
type settings struct {
	Partition string   // international or china; "" means international
	Account   string   // of digits; credentials of another account are refused. "" takes any
	Home      string   // region that the image is uploaded to and imported in; "" means the first of Regions
	Regions   []string // all regions to publish in; none means all of the partition that DescribeRegions names
	Bucket    string   // of OSS, in the home region, where the image lies while it is imported
	BootMode  string   // of amd64 images, which know both: BIOS or UEFI; "" means BIOS
	// Role and IdentityProvider are ARNs: of the role that is assumed with an identity token of GitLab, and of the provider in RAM that trusts
	// GitLab. "" means ALIBABA_CLOUD_ROLE_ARN and ALIBABA_CLOUD_OIDC_PROVIDER_ARN.
	Role             string
	IdentityProvider string
	// TokenVariable names the environment variable that holds the identity token, as an id_tokens entry of a GitLab job makes one.
	// "" means ALIBABA_ID_TOKEN; ALIBABA_CLOUD_OIDC_TOKEN_FILE, where set, names a file with the token instead.
	TokenVariable string
	// Profile is the section of the credentials file; "" means ALIBABA_CLOUD_PROFILE, or "default".
	Profile string
}

// settingsOf reads the settings of a target. A target's first region is its home; "*" alone stands for all regions, with the
// setting "home" or the partition's first as the home.
func settingsOf(t target.Target) (settings, error) {
	if t.Provider != provider {
		return settings{}, fault.Inputf("target %q is of provider %q, not alibaba", t.Name, t.Provider)
	}
	required, err := t.Demand([]string{"bucket"}, "home", "bootMode", "role", "identityProvider", "tokenVariable", "profile")
	if err != nil {
		return settings{}, err
	}
	s := settings{
		Partition: t.Partition, Account: t.Account, Home: t.Settings["home"], Regions: t.Regions, Bucket: required[0], BootMode: t.Settings["bootMode"],
		Role: t.Settings["role"], IdentityProvider: t.Settings["identityProvider"], TokenVariable: t.Settings["tokenVariable"], Profile: t.Settings["profile"],
	}
	if slices.Equal(t.Regions, []string{"*"}) {
		s.Regions = nil
	}
	return s, nil
}

// partition is a part of Alibaba Cloud with accounts of its own, between which nothing is copied.
type partition struct {
	home string         // region that always exists
	has  *regexp.Regexp // its regions
	not  *regexp.Regexp // and what of those is not among them
}

// partitions: the site that sold an account decides. Hong Kong is no region of the mainland (Alibaba Cloud, "Regions and zones").
var partitions = map[string]partition{
	"international": {"ap-southeast-1", regexp.MustCompile(`^(ap|cn|eu|me|na|us)-[a-z]+(-\d+)?$`), regexp.MustCompile(`^cn-(?:[^h]|h[^o])`)},
	"china":         {"cn-hangzhou", regexp.MustCompile(`^cn-[a-z]+(-\d+)?$`), regexp.MustCompile(`^cn-hongkong`)},
}

func (p partition) contains(region string) bool {
	return p.has.MatchString(region) && !p.not.MatchString(region)
}

var (
	accountForm  = regexp.MustCompile(`^\d{5,20}$`)
	bucketForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`) // OSS, "Bucket naming conventions"
	roleForm     = regexp.MustCompile(`^acs:ram::\d+:role/[\w.@-]+$`)
	providerForm = regexp.MustCompile(`^acs:ram::\d+:oidc-provider/[\w.@-]+$`)
)

// complete fills in defaults and refuses what cannot be.
func (s settings) complete() (settings, error) {
	if s.Partition == "" {
		s.Partition = "international"
	}
	p, ok := partitions[s.Partition]
	if !ok {
		return s, fault.Inputf("partition %q is neither international nor china", s.Partition)
	}
	if s.Home == "" && len(s.Regions) > 0 {
		s.Home = s.Regions[0]
	}
	if s.Home == "" {
		s.Home = p.home
	}
	if s.TokenVariable == "" {
		s.TokenVariable = "ALIBABA_ID_TOKEN"
	}
	if s.BootMode == "" {
		s.BootMode = "BIOS"
	}
	for _, r := range append([]string{s.Home}, s.Regions...) {
		if !p.contains(r) {
			return s, fault.WithHint(fault.Inputf("region %q is none of partition %s", r, s.Partition), "make a target of its own, with an account and credentials of its own, for mainland China and for the rest of the world")
		}
	}
	if len(s.Regions) > 0 && !slices.Contains(s.Regions, s.Home) {
		s.Regions = append([]string{s.Home}, s.Regions...)
	}
	return s, s.demandForms()
}

func (s settings) demandForms() error {
	for _, f := range []struct {
		what, value, is string
		form            *regexp.Regexp
	}{
		{"account", s.Account, "digits", accountForm},
		{"bucket", s.Bucket, "a name that OSS takes: 3 to 63 small letters, digits and hyphens", bucketForm},
		{"role", s.Role, "the ARN of a role, acs:ram::ACCOUNT:role/NAME", roleForm},
		{"identityProvider", s.IdentityProvider, "the ARN of an OIDC provider, acs:ram::ACCOUNT:oidc-provider/NAME", providerForm},
		{"bootMode", s.BootMode, "BIOS or UEFI", regexp.MustCompile(`^(BIOS|UEFI)$`)},
	} {
		if f.value != "" && !f.form.MatchString(f.value) {
			return fault.Inputf("%s %q is not %s", f.what, f.value, f.is)
		}
	}
	return nil
}
