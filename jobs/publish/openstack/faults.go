package openstack

import (
	"context"
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// retry is gophercloud's RetryFunc: nil means that the request is made again. Bodies that cannot be read twice are not.
func (s *session) retry(ctx context.Context, _, _ string, o *gophercloud.RequestOpts, err error, tries uint) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !transient(err) || o.RawBody != nil || tries > s.patience.retries {
		return err
	}
	wait := s.patience.pause << min(tries-1, 4)
	var response gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &response) {
		if seconds, bad := strconv.Atoi(response.ResponseHeader.Get("Retry-After")); bad == nil && seconds >= 0 {
			wait = max(wait, min(time.Duration(seconds)*time.Second, time.Minute))
		}
	}
	return pause.For(ctx, wait)
}

// status returns the HTTP status in err, 0 where no answer came.
func status(err error) int {
	var response gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &response) {
		return response.Actual
	}
	// gophercloud's errors about a renewed token do not unwrap.
	if e := (*gophercloud.ErrUnableToReauthenticate)(nil); errors.As(err, &e) {
		return status(e.ErrReauth)
	}
	if e := (*gophercloud.ErrErrorAfterReauthentication)(nil); errors.As(err, &e) {
		return status(e.ErrOriginal)
	}
	return 0
}

// transient tells whether the same request may get another answer soon.
func transient(err error) bool {
	switch status(err) {
	case 0, http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return !errors.Is(err, context.Canceled) && fault.KindOf(err) != fault.Input
	}
	return false
}

// explain makes one sentence of an error of the image service.
func (s *session) explain(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var sorted *fault.Error
	if errors.As(err, &sorted) {
		return err
	}
	text := s.said(err)
	switch code := status(err); {
	case code == http.StatusUnauthorized:
		return fault.WithHint(fault.Inputf("%s: the cloud takes the token no longer: %s", doing, text), "the application credential may have expired or been deleted: debcloud publish whoami tells")
	case code == http.StatusForbidden:
		return fault.WithHint(fault.Inputf("%s: the credentials may not do this: %s", doing, text), "debcloud publish whoami tells which roles are missing; README.md of jobs/publish/openstack says what for")
	case code == http.StatusRequestEntityTooLarge:
		return fault.WithHint(fault.Outsidef("%s: a quota of the project is used up: %s", doing, text), "have old images pruned, or the quota raised")
	case code == http.StatusConflict:
		return fault.Outsidef("%s: the image is in another state than expected: %s", doing, text)
	case code >= 400 && code < 500 && code != http.StatusTooManyRequests && code != http.StatusRequestTimeout:
		return fault.Inputf("%s: the cloud refuses: %s", doing, text)
	}
	return fault.Outsidef("%s: the cloud does not do it now: %s", doing, text)
}

// explainLogin makes one sentence of a failed authentication.
func (s *session) explainLogin(ctx context.Context, place string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch status(err) {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		refused := fault.Inputf("Keystone of %s refuses the credentials: %s", place, s.said(err))
		if skew := clockSkew(err); skew.Abs() > 5*time.Minute {
			return fault.WithHint(refused, "the clocks differ by %s: set this machine's, then try again", skew.Abs().Round(time.Minute))
		}
		return fault.WithHint(refused, "the application credential may have expired or been deleted, or belongs to another cloud: make a new one")
	case http.StatusBadRequest:
		return fault.Inputf("Keystone of %s does not understand the credentials: %s", place, s.said(err))
	}
	return fault.WithHint(fault.Outsidef("Keystone of %s does not answer: %s", place, s.said(err)), "look at auth_url, and try again later")
}

// clockSkew is how far this machine's clock is behind the answering one's.
func clockSkew(err error) time.Duration {
	var response gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &response) {
		return 0
	}
	date, bad := http.ParseTime(response.ResponseHeader.Get("Date"))
	if bad != nil {
		return 0
	}
	return time.Until(date)
}

var tags = lazyregexp.New(`<[^>]*>`)

// said returns what a cloud said in an error, as one line without markup and secrets.
func (s *session) said(err error) string {
	text := err.Error()
	var response gophercloud.ErrUnexpectedResponseCode
	if errors.As(err, &response) {
		text = strconv.Itoa(response.Actual) + " " + http.StatusText(response.Actual)
		if body := message(response.Body); body != "" && body != http.StatusText(response.Actual) {
			text += ": " + body
		}
	}
	if len(text) > 400 {
		text = text[:400] + "…"
	}
	return s.redact.Replace(text)
}

// message finds the text in an error's body: Keystone answers JSON, Glance HTML, load balancers either.
func message(body []byte) string {
	var answer struct{ Error struct{ Message string } }
	if json.Unmarshal(body, &answer) == nil && answer.Error.Message != "" {
		return strings.Join(strings.Fields(answer.Error.Message), " ")
	}
	text := string(body)
	if _, after, ok := strings.Cut(text, "<body>"); ok {
		text = after
	}
	return strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(text, " "))), " ")
}
