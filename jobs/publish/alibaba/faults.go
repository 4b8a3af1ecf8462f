package alibaba

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// refusal says what an error code of Alibaba means to who publishes. Codes are those of the API references of ECS, STS and OSS.
type refusal struct {
	kind fault.Kind
	says string
	hint string
}

var (
	badCredentials = refusal{fault.Input, "Alibaba Cloud does not know these credentials", "debcloud publish whoami tells which are used; make new ones, or check that they are of this partition: mainland China and the rest of the world have accounts of their own"}
	expired        = refusal{fault.Outside, "the credentials are expired", "get new ones, in GitLab by running the job again, and run the same command: it goes on where it stopped"}
	clock          = refusal{fault.Outside, "Alibaba Cloud refuses the time of the request", "set the clock of this machine and run the same command again"}
	signature      = refusal{fault.Input, "Alibaba Cloud refuses the signature of the request", "the secret is not that of the access key: copy both again"}
	denied         = refusal{fault.Input, "the credentials have no right to this", "give it to the role, jobs/publish/alibaba/README.md has the policy; debcloud publish whoami lists all that is missing"}
	trust          = refusal{fault.Input, "Alibaba Cloud does not accept the identity token", "check the OIDC provider in RAM (issuer, fingerprint, client ID) and the trust policy of the role (oidc:aud, oidc:sub)"}
	quota          = refusal{fault.Outside, "a quota of the account is reached", "ask Alibaba Cloud for more in its Quota Center, or retire old images with debcloud prune, and run the same command again"}
	throttled      = refusal{fault.Outside, "Alibaba Cloud refuses the calls as too many", "run the same command again later: it goes on where it stopped"}
	importRole     = refusal{fault.Input, "ECS may not read the bucket", "an administrator creates the role " + roleName + " once an account, jobs/publish/alibaba/README.md says how"}
	agreement      = refusal{fault.Input, "the account has not signed the agreement about community images", "its owner signs it in the ECS console by publishing any image there"}
	noPublic       = refusal{fault.Input, "this region has no community images", "take the region out of the target's regions"}
	noCopy         = refusal{fault.Input, "images are not copied to this region", "take the region out of the target's regions"}
	inDebt         = refusal{fault.Input, "the account has a debt or is not verified", "its owner pays it, or has it verified, and then the same command goes on"}
	bucket         = refusal{fault.Input, "the bucket is not there or in another region", "make the bucket of the target's setting in the home region, with storage class Standard and without encryption"}
	again          = refusal{fault.Outside, "Alibaba Cloud is at work on the same image", "run the same command again later: it goes on where it stopped"}
)

var refusals = map[string]refusal{
	"InvalidAccessKeyId": badCredentials, "InvalidAccessKeyId.NotFound": badCredentials, "InvalidAccessKeyId.Inactive": badCredentials, "InvalidSecurityToken.Malformed": badCredentials,
	"InvalidSecurityToken.MismatchWithAccessKey": badCredentials, "MissingSecurityToken": badCredentials,
	"InvalidSecurityToken.Expired": expired, "SecurityTokenExpired": expired, "InvalidSecurityToken": expired,
	"IllegalTimestamp": clock, "InvalidTimeStamp.Expired": clock, "InvalidTimeStamp.Format": clock, "RequestTimeTooSkewed": clock,
	"SignatureDoesNotMatch": signature, "IncompleteSignature": signature,
	"NoPermission": denied, "Forbidden": denied, "Forbbiden": denied, "Forbidden.RAM": denied, "Forbidden.Unauthorized": denied, "UnauthorizedOperation": denied, "AccessDenied": denied,
	"QuotaExceed.Image": quota, "QuotaExceed.Snapshot": quota, "QuotaExceed.ShareImage": quota, "ImageQuotaFull.ImageFamily": quota, "ImageFamilyQuotaFull": quota,
	"NoSetRoletoECSServiceAcount": importRole, "NoSetRoletoECSServiceAccount": importRole, "InvalidOSS.NotAuthorized": importRole,
	"PublicImageAgreement.NotSigned": agreement, "CurrentRegion.NotSupportPublicImage": noPublic, "RegionNotSupportCopy": noCopy, "OperationDenied.NonCompliantDestinationRegion": noCopy,
	"Account.Arrearage": inDebt, "InvalidAccountStatus.NotEnoughBalance": inDebt, "UserDisable": inDebt, "InvalidAccountStatus.OSSDisabled": inDebt,
	"NoSuchBucket": bucket, "InvalidOSSBucket.NotFound": bucket, "InvalidOSSBucket.NotMatched": bucket, "InvalidOSSBucket.EncryptUnsupported": bucket,
	"InvalidRegionId.NotFound":     {fault.Input, "Alibaba Cloud has no such region for this account (any more)", "take it out of the target's regions"},
	"OperationDenied.ImageCopying": again, "OperationDenied.CommunityImage": again, "OperationDenied.ImageCopyConflict": again, "ImageIsImporting": again,
}

// refusalOf returns what an error means, the zero refusal where that is not known or there was no answer.
func refusalOf(err error) refusal {
	code, message, status := answer(err)
	if code == "AccessDenied" && strings.Contains(message, "specified endpoint") {
		return bucket // of another region
	}
	if r, ok := refusals[code]; ok {
		return r
	}
	switch {
	case strings.HasPrefix(code, "AuthenticationFail.OIDCToken.Expired"):
		return expired
	case strings.HasPrefix(code, "AuthenticationFail"), strings.HasPrefix(code, "EntityNotExist"):
		return trust
	case strings.HasPrefix(code, "Throttling"), status == http.StatusTooManyRequests:
		return throttled
	case status >= http.StatusInternalServerError:
		return refusal{kind: fault.Outside, hint: "run the same command again later: it goes on where it stopped"}
	}
	return refusal{}
}

// answer returns the code, text and status of a refusal by ECS, STS or OSS; the code is "" where there was no answer.
func answer(err error) (code, message string, status int) {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e.Code, e.Message, e.Status
	}
	if e, ok := errors.AsType[*oss.ServiceError](err); ok {
		return e.Code, e.Message, e.StatusCode
	}
	return "", "", 0
}

// is tells whether err is a refusal under one of the codes.
func is(err error, codes ...string) bool {
	code, _, _ := answer(err)
	return code != "" && slices.Contains(codes, code)
}

// explain makes one sentence of an error of a call, in the region, of its kind and with a hint. nil stays nil.
func explain(ctx context.Context, region, action string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err // explained already
	}
	if region != "" {
		action += " in " + region
	}
	code, message, status := answer(err)
	if code == "" && status == 0 {
		return fault.WithHint(&fault.Error{Kind: fault.Outside, Err: fault.Reword(err, fmt.Sprintf("%s: Alibaba Cloud does not answer: %s", action, fault.Cause(err)))},
			"check the network, and that the region exists; then run the same command again")
	}
	r := refusalOf(err)
	text := fmt.Sprintf("%s: %s: %s", action, code, shorten(message))
	if r.says != "" {
		text = fmt.Sprintf("%s: %s (%s: %s)", action, r.says, code, shorten(message))
	}
	return &fault.Error{Kind: r.kind, Err: fault.Reword(err, text), Hint: r.hint}
}

func shorten(message string) string {
	message = strings.Join(strings.Fields(message), " ")
	if len(message) > 300 {
		message = message[:300] + "…"
	}
	return strings.TrimSuffix(message, ".")
}
