package aws

import (
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
)

// settings say which account images go to and how. They hold no secret: credentials come from the environment or from files.
type settings struct {
	Partition string   // aws, aws-cn, aws-us-gov; "" means aws
	Account   string   // 12 digits; credentials of another account are refused. "" takes any
	Home      string   // region that the snapshot is uploaded to; "" means the partition's first
	Regions   []string // all regions to publish in; none means all that are enabled for the account
	// ParameterPrefix begins the names of SSM parameters, "/debian" say; "" means that none are set.
	ParameterPrefix string
	// Role is the ARN of the role that is assumed with an identity token of GitLab; "" means the environment's AWS_ROLE_ARN, and
	// without that the credentials that the SDK finds.
	Role string
	// TokenVariable names the environment variable that holds the identity token, as an id_tokens entry of a GitLab job makes one.
	// "" means AWS_ID_TOKEN; AWS_WEB_IDENTITY_TOKEN_FILE, where set, names a file with the token instead.
	TokenVariable string
	// TPM gives instances a virtual TPM 2.0. AWS allows it only for images that boot by UEFI alone.
	TPM bool
	// Endpoint is the URL of a double that stands for all services and regions; "" means AWS.
	Endpoint string
}

// settingsOf reads the settings of a target. A target's first region is its home; "*" alone stands for all regions, with the
// setting "home" or the partition's first as the home.
func settingsOf(t target.Target) (settings, error) {
	if t.Provider != provider {
		return settings{}, fault.Inputf("target %q is of provider %q, not aws", t.Name, t.Provider)
	}
	if _, err := t.Demand(nil, "home", "parameterPrefix", "role", "tokenVariable", "tpm", "endpoint"); err != nil {
		return settings{}, err
	}
	tpm := t.Settings["tpm"]
	if tpm != "" && tpm != "true" && tpm != "false" {
		return settings{}, fault.Inputf("target %q has tpm %q, which is neither true nor false", t.Name, tpm)
	}
	s := settings{
		Partition: t.Partition, Account: t.Account, Home: t.Settings["home"], Regions: t.Regions, ParameterPrefix: t.Settings["parameterPrefix"],
		Role: t.Settings["role"], TokenVariable: t.Settings["tokenVariable"], TPM: tpm == "true", Endpoint: t.Settings["endpoint"],
	}
	if slices.Equal(t.Regions, []string{"*"}) {
		s.Regions = nil
	}
	if s.Home == "" && len(s.Regions) > 0 {
		s.Home = s.Regions[0]
	}
	return s, nil
}

// partition is a part of AWS with accounts, credentials and regions of its own.
type partition struct {
	home   string // region that always exists
	suffix string // of its services' names
	region *lazyregexp.Regexp
}

// partitions are those that the public can have accounts in. Source: the AWS general reference, "Regions and endpoints".
var partitions = map[string]partition{
	"aws":        {"us-east-1", "amazonaws.com", lazyregexp.New(`^(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-\d+$`)},
	"aws-cn":     {"cn-north-1", "amazonaws.com.cn", lazyregexp.New(`^cn-[a-z]+-\d+$`)},
	"aws-us-gov": {"us-gov-west-1", "amazonaws.com", lazyregexp.New(`^us-gov-[a-z]+-\d+$`)},
}

var (
	accountForm = lazyregexp.New(`^\d{12}$`)
	roleForm    = lazyregexp.New(`^arn:(aws|aws-cn|aws-us-gov):iam::\d{12}:role/[\w+=,.@/-]+$`)
	prefixForm  = lazyregexp.New(`^(/[A-Za-z0-9_.-]+){1,10}$`)
)

// complete fills in defaults and refuses what cannot be.
func (s settings) complete() (settings, error) {
	if s.Partition == "" {
		s.Partition = "aws"
	}
	p, ok := partitions[s.Partition]
	if !ok {
		return s, fault.Inputf("partition %q is none of aws, aws-cn, aws-us-gov", s.Partition)
	}
	if s.Home == "" {
		s.Home = p.home
	}
	if s.TokenVariable == "" {
		s.TokenVariable = "AWS_ID_TOKEN"
	}
	for _, r := range append([]string{s.Home}, s.Regions...) {
		if !p.region.MatchString(r) {
			return s, fault.WithHint(fault.Inputf("region %q is none of partition %s", r, s.Partition), "make a target of its own, with credentials of its own, for each partition")
		}
	}
	if len(s.Regions) > 0 && !slices.Contains(s.Regions, s.Home) {
		s.Regions = append([]string{s.Home}, s.Regions...)
	}
	if s.Account != "" && !accountForm.MatchString(s.Account) {
		return s, fault.Inputf("account %q is not twelve digits", s.Account)
	}
	if s.Role != "" {
		if m := roleForm.FindStringSubmatch(s.Role); m == nil || m[1] != s.Partition {
			return s, fault.Inputf("role %q is not the ARN of a role in partition %s", s.Role, s.Partition)
		}
	}
	return s, s.demandPrefix()
}

// demandPrefix refuses prefixes that SSM keeps for itself, and those that are no path.
func (s settings) demandPrefix() error {
	if s.ParameterPrefix == "" {
		return nil
	}
	lower := strings.ToLower(strings.TrimPrefix(s.ParameterPrefix, "/"))
	if !prefixForm.MatchString(s.ParameterPrefix) || strings.HasPrefix(lower, "aws") || strings.HasPrefix(lower, "ssm") {
		return fault.WithHint(fault.Inputf("parameter prefix %q is not a path that SSM takes", s.ParameterPrefix), "use one like /debian: it begins with a slash, does not end with one, and its first word begins neither with aws nor with ssm")
	}
	return nil
}
