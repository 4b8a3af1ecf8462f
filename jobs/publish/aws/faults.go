package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// refusal says what an error code of AWS means to who publishes. Codes are those of the API references of EC2, EBS direct, SSM and STS.
type refusal struct {
	kind fault.Kind
	says string // "" means AWS's own words
	hint string
}

var (
	badCredentials = refusal{fault.Input, "AWS does not know these credentials", "debcloud publish whoami tells which are used; make new ones, or check that they are of this partition and that the region is enabled"}
	expired        = refusal{fault.Outside, "the credentials are expired", "get new ones, in GitLab by running the job again, and run the same command: it goes on where it stopped"}
	clock          = refusal{fault.Outside, "AWS refuses the signature or the time of the request", "set the clock of this machine; where it is right, the secret key is not that of the access key, or the credentials expired"}
	denied         = refusal{fault.Input, "the credentials have no right to this", "give it to the role, jobs/publish/aws/README.md has the policy; debcloud publish whoami lists all that is missing"}
	quota          = refusal{fault.Outside, "a quota of the account is reached", "ask AWS for more under Service Quotas, or retire old images with debcloud prune, and run the same command again"}
	throttled      = refusal{fault.Outside, "AWS refuses the calls as too many", "run the same command again later: it goes on where it stopped"}
	blocked        = refusal{fault.Input, "the account blocks public sharing", "allow it: DisableImageBlockPublicAccess and DisableSnapshotBlockPublicAccess in this region, where no organisation's policy forbids it"}
)

var refusals = map[string]refusal{
	"AuthFailure": badCredentials, "InvalidClientTokenId": badCredentials, "UnrecognizedClientException": badCredentials, "MissingAuthenticationToken": badCredentials, "OptInRequired": badCredentials,
	"ExpiredToken": expired, "ExpiredTokenException": expired, "InvalidIdentityToken": {fault.Input, "AWS does not accept the identity token", "check the trust policy of the role: the identity provider's address, the audience and the subject"},
	"IDPCommunicationError": {fault.Outside, "AWS cannot reach the identity provider", "run the same command again later"},
	"RequestExpired":        clock, "SignatureDoesNotMatch": clock, "InvalidSignatureException": clock, "RequestTimeTooSkewed": clock,
	"UnauthorizedOperation": denied, "AccessDenied": denied, "AccessDeniedException": denied,
	"ResourceLimitExceeded": quota, "SnapshotLimitExceeded": quota, "ServiceQuotaExceededException": quota, "ConcurrentLimitExceededException": quota, "ConcurrentSnapshotLimitExceeded": quota, "ParameterLimitExceeded": quota,
	"RequestLimitExceeded": throttled, "Throttling": throttled, "ThrottlingException": throttled, "RequestThrottledException": throttled, "RequestThrottled": throttled,
	"OperationNotPermitted": blocked,
	"InternalError":         {fault.Outside, "", ""}, "InternalServerException": {fault.Outside, "", ""}, "InternalFailure": {fault.Outside, "", ""}, "Unavailable": {fault.Outside, "", ""}, "ServiceUnavailable": {fault.Outside, "", ""},
}

// code returns AWS's error code in err, "" where AWS did not answer.
func code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// is tells whether err is AWS's refusal under one of the codes.
func is(err error, codes ...string) bool {
	got := code(err)
	for _, c := range codes {
		if c == got {
			return true
		}
	}
	return false
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
	api, answered := errors.AsType[smithy.APIError](err)
	if !answered {
		return unanswered(region, action, err)
	}
	r, known := refusals[api.ErrorCode()]
	if !known {
		r = refusal{kind: fault.Work}
		if api.ErrorFault() == smithy.FaultServer || overloaded(err) {
			r.kind = fault.Outside
		}
	}
	text := fmt.Sprintf("%s in %s: %s: %s", action, region, api.ErrorCode(), shorten(api.ErrorMessage()))
	if r.says != "" {
		text = fmt.Sprintf("%s in %s: %s (%s: %s)", action, region, r.says, api.ErrorCode(), shorten(api.ErrorMessage()))
	}
	e := &fault.Error{Kind: r.kind, Err: fault.Reword(err, text), Hint: r.hint}
	return e
}

// overloaded tells whether the answer came from something before AWS, or says nothing but that it did not work this time.
func overloaded(err error) bool {
	e, ok := errors.AsType[*smithyhttp.ResponseError](err)
	return ok && (e.HTTPStatusCode() >= http.StatusInternalServerError || e.HTTPStatusCode() == http.StatusTooManyRequests)
}

// unanswered explains an error that is not an answer of AWS.
func unanswered(region, action string, err error) error {
	if strings.Contains(err.Error(), "read the identity token") {
		return fault.WithHint(&fault.Error{Kind: fault.Input, Err: fault.Reword(err, "the identity token cannot be read: "+fault.Cause(err))}, "AWS_WEB_IDENTITY_TOKEN_FILE names a file with the token")
	}
	if strings.Contains(err.Error(), "no EC2 IMDS role found") || strings.Contains(err.Error(), "failed to refresh cached credentials") && !errors.As(err, new(*net.OpError)) {
		return fault.WithHint(&fault.Error{Kind: fault.Input, Err: fault.Reword(err, "there are no credentials for AWS, neither in the environment nor in files")},
			"see jobs/publish/aws/README.md: an identity token and a role in GitLab, elsewhere what the aws command uses")
	}
	return fault.WithHint(&fault.Error{Kind: fault.Outside, Err: fault.Reword(err, fmt.Sprintf("%s in %s: AWS does not answer: %s", action, region, fault.Cause(err)))},
		"check the network, and that the region exists; then run the same command again")
}

// shorten cuts what AWS adds for machines: the encoded reason of a refusal is long and tells of the account's policies.
func shorten(message string) string {
	message, _, _ = strings.Cut(message, " Encoded authorization failure message")
	message = strings.Join(strings.Fields(message), " ")
	if len(message) > 300 {
		message = message[:300] + "…"
	}
	return strings.TrimSuffix(message, ".")
}
