package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// status returns the HTTP status in err, 0 where no answer came.
func status(err error) int {
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return e.StatusCode
	}
	return 0
}

func code(err error) string {
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return e.ErrorCode
	}
	return ""
}

func notFound(err error) bool { return status(err) == http.StatusNotFound }

// explain makes one sentence of an error of Azure.
func (s *session) explain(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, sorted := errors.AsType[*fault.Error](err); sorted {
		return err
	}
	text := said(err)
	if login, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok {
		return explainLogin(login, text)
	}
	switch n := status(err); {
	case code(err) == "SubscriptionNotFound":
		return fault.WithHint(fault.Inputf("%s: the credentials know no subscription %s: %s", doing, s.target.Account, text), "use the credentials of the target's subscription, or correct the target's account")
	case n == http.StatusUnauthorized:
		return fault.WithHint(fault.Inputf("%s: Azure refuses the token: %s", doing, text), "debcloud publish whoami tells whose it is; look at the clock of this machine, too")
	case n == http.StatusForbidden:
		return fault.WithHint(fault.Inputf("%s: the credentials may not do this: %s", doing, text), "debcloud publish whoami tells what is missing; README.md of jobs/publish/azure has the role")
	case strings.Contains(code(err), "Quota"), strings.Contains(code(err), "LimitExceeded"):
		return fault.WithHint(fault.Outsidef("%s: a quota of the subscription is used up: %s", doing, text), "have old versions pruned, or the quota raised")
	case n == http.StatusNotFound:
		return fault.Inputf("%s: it does not exist: %s", doing, text)
	case n == http.StatusConflict:
		return fault.Outsidef("%s: it is in another state than expected: %s", doing, text)
	case n >= 400 && n < 500 && n != http.StatusTooManyRequests && n != http.StatusRequestTimeout:
		return fault.Inputf("%s: Azure refuses: %s", doing, text)
	}
	return fault.Outsidef("%s: Azure does not do it now: %s", doing, text)
}

// explainWrite is explain for what is written anew: where Azure does not find it, or what it is made of, someone deleted that in between. Such an
// error is still one of notFound.
func (s *session) explainWrite(ctx context.Context, doing string, err error) error {
	if !notFound(err) || ctx.Err() != nil || code(err) == "SubscriptionNotFound" {
		return s.explain(ctx, doing, err)
	}
	gone := fault.Reword(err, fmt.Sprintf("%s: it was there and is gone, or what it is made of is: %s", doing, said(err)))
	return fault.WithHint(&fault.Error{Kind: fault.Outside, Err: gone}, "someone deleted it meanwhile: run the same command again")
}

// explainLogin makes one sentence of a failed login.
func explainLogin(err *azidentity.AuthenticationFailedError, text string) error {
	if err.RawResponse == nil || err.RawResponse.StatusCode >= 500 || err.RawResponse.StatusCode == http.StatusTooManyRequests {
		return fault.Outsidef("the login service of Azure does not answer: %s", text)
	}
	refused := fault.Inputf("Azure refuses the credentials: %s", text)
	if date, bad := http.ParseTime(err.RawResponse.Header.Get("Date")); bad == nil && time.Until(date).Abs() > 5*time.Minute {
		return fault.WithHint(refused, "the clocks differ by %s: set this machine's, then try again", time.Until(date).Abs().Round(time.Minute))
	}
	return fault.WithHint(refused, "an id token lives no longer than its job; a secret or certificate may have expired; the federated credential has to name this project and branch")
}

// said returns what Azure said in an error, as one line, without URLs' queries, where signatures stand.
func said(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		text = strconv.Itoa(e.StatusCode) + " " + e.ErrorCode
		if message := messageOf(e); message != "" {
			text += ": " + message
		}
	}
	text = journal.WithoutQueries(strings.Join(strings.Fields(text), " "))
	if len(text) > 500 {
		text = text[:500] + "…"
	}
	return text
}

// messageOf finds the "message" in an error's text, which has the whole answer in it.
func messageOf(e *azcore.ResponseError) string {
	_, after, ok := strings.Cut(e.Error(), `"message": "`)
	if !ok {
		_, after, ok = strings.Cut(e.Error(), `"message":"`)
	}
	if !ok {
		return ""
	}
	message, _, _ := strings.Cut(after, `"`)
	return message
}

// wait ends a long operation.
func wait[T any](ctx context.Context, s *session, poller *runtime.Poller[T], err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: s.patience.pause})
}
