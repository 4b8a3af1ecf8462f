package aws

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// parameterName is PREFIX/{daily|release}/{codename|id}/{latest|version}/ARCH, as upstream has it.
func (p *publication) parameterName(release, version string) string {
	return parameterPath(p.settings.ParameterPrefix, string(p.img.Type), release, version, p.img.Build.Data.Info.Arch)
}

func parameterPath(parts ...string) string { return strings.Join(parts, "/") }

// setParameters has the parameters lead to the image: those of its version for good, those of "latest" where it is the newest.
func (p *publication) setParameters(ctx context.Context, region, id string, newest bool) error {
	if p.settings.ParameterPrefix == "" || p.img.Type == image.Dev {
		return nil
	}
	info := p.img.Build.Data.Info
	releases := []string{info.Release, info.ReleaseID}
	if info.Release == info.ReleaseID { // sid
		releases = releases[:1]
	}
	for _, release := range releases {
		if err := p.setParameter(ctx, region, p.parameterName(release, info.Version), id, false); err != nil {
			return err
		}
	}
	for _, release := range releases {
		if !newest {
			break
		}
		if err := p.setParameter(ctx, region, p.parameterName(release, "latest"), id, true); err != nil {
			return err
		}
	}
	return nil
}

// setParameter sets one parameter and waits until it reads back: AWS looks at the image after it has answered, and forgets the change
// where it finds none.
func (p *publication) setParameter(ctx context.Context, region, name, id string, replace bool) error {
	have, err := p.parameter(ctx, region, name)
	if have == id || err != nil {
		return err
	}
	if have != "" && !replace {
		return p.replaceGone(ctx, region, name, have, id)
	}
	return p.putParameter(ctx, region, name, id, have != "")
}

// replaceGone replaces the value of a version's parameter where the image that it names is gone, and refuses otherwise.
func (p *publication) replaceGone(ctx context.Context, region, name, have, id string) error {
	i, err := p.look(ctx, region, have)
	if err != nil && !gone(err) && !is(err, "InvalidAMIID.Malformed") {
		return explain(ctx, region, "DescribeImages", err)
	}
	if i != nil {
		return fault.WithHint(fault.Inputf("parameter %s in %s names image %s and should name %s", name, region, have, id), "a version's parameter never changes: remove it if it is wrong, and run the same command again")
	}
	return p.putParameter(ctx, region, name, id, true)
}

func (p *publication) putParameter(ctx context.Context, region, name, id string, replace bool) error {
	in := &ssm.PutParameterInput{Name: &name, Value: &id, Type: ssmtypes.ParameterTypeString, DataType: aws.String("aws:ec2:image"), Overwrite: &replace, Description: aws.String("AMI of " + p.name)}
	_, err := p.login.in(region).ssm.PutParameter(ctx, in)
	if is(err, "ParameterAlreadyExists") {
		replace = true // someone was faster, or an earlier run whose parameter AWS did not show: what reads back decides
		err = nil
	}
	if err != nil {
		return explain(ctx, region, "PutParameter", err)
	}
	p.changed.Store(true)
	last := ""
	set, err := p.patience.Until(ctx, p.patience.visible, func() (bool, error) {
		last, err = p.parameter(ctx, region, name)
		return last == id, err
	})
	if err == nil && !set {
		err = fault.WithHint(fault.Outsidef("parameter %s in %s was set to %s and reads %q after %s", name, region, id, last, p.patience.visible), "AWS takes a value of data type aws:ec2:image only after it has found the image; run the same command again")
	}
	return err
}

// parameter returns the value of a parameter, "" where there is none.
func (a *Publisher) parameter(ctx context.Context, region, name string) (string, error) {
	out, err := a.login.in(region).ssm.GetParameter(ctx, &ssm.GetParameterInput{Name: &name})
	if is(err, "ParameterNotFound") {
		return "", nil
	}
	if err != nil {
		return "", explain(ctx, region, "GetParameter", err)
	}
	return deref(out.Parameter.Value), nil
}
