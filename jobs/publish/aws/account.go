package aws

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// demandAccount asks whose the credentials are and refuses another account than the target's. It returns account and principal, of a refused one too.
func (a *Publisher) demandAccount(ctx context.Context) (account, arn string, err error) {
	who, err := a.login.sts().GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", "", explain(ctx, a.settings.Home, "GetCallerIdentity", err)
	}
	account, arn = deref(who.Account), deref(who.Arn)
	if !strings.HasPrefix(arn, "arn:"+a.settings.Partition+":") {
		return account, arn, fault.WithHint(fault.Inputf("the credentials are of %s, which is not in partition %s", arn, a.settings.Partition), "use credentials of an account in that partition: each has its own")
	}
	if a.settings.Account != "" && account != a.settings.Account {
		return account, arn, fault.WithHint(fault.Inputf("the credentials are of account %s (%s) where the target names account %s", account, arn, a.settings.Account),
			"assume a role of account %s, or correct the target's account", a.settings.Account)
	}
	return account, arn, nil
}

// regions finds the regions to publish in. failed says of each that the target names and that cannot be used why. The home region must
// be usable.
func (a *Publisher) regions(ctx context.Context) (usable []string, failed map[string]error, err error) {
	all := true
	out, err := a.login.in(a.settings.Home).ec2.DescribeRegions(ctx, &ec2.DescribeRegionsInput{AllRegions: &all})
	if err != nil {
		return nil, nil, explain(ctx, a.settings.Home, "DescribeRegions", err)
	}
	state := map[string]string{}
	for _, r := range out.Regions {
		state[deref(r.RegionName)] = deref(r.OptInStatus)
	}
	wanted := a.settings.Regions
	if len(wanted) == 0 {
		for name, optIn := range state {
			if optIn != "not-opted-in" {
				wanted = append(wanted, name)
			}
		}
		slices.Sort(wanted)
	}
	failed = map[string]error{}
	for _, name := range wanted {
		switch optIn, known := state[name]; {
		case !known:
			failed[name] = fault.WithHint(fault.Inputf("AWS has no region %q (any more)", name), "take it out of the target's regions")
		case optIn == "not-opted-in":
			failed[name] = fault.WithHint(fault.Inputf("region %q is not enabled for the account", name), "enable it in the account's settings (account:EnableRegion), or take it out of the target's regions")
		default:
			usable = append(usable, name)
		}
	}
	if err := failed[a.settings.Home]; err != nil {
		return nil, nil, err
	}
	return usable, failed, nil
}
