package google

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// The JSON APIs of Compute Engine, Cloud Storage and Resource Manager, as far as publishing needs them
// (cloud.google.com/compute/docs/reference/rest/v1, cloud.google.com/storage/docs/json_api).

// tries is how often a request is made that failed for a reason that may go away.
const tries = 9

// maxAnswer bounds an answer, in bytes; a page of images has under 1 MiB.
const maxAnswer = 16 << 20

// apiError is an answer that refuses a request.
type apiError struct {
	Status  int
	Reason  string // as notFound, quotaExceeded
	Message string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.Status, e.Reason, e.Message)
}

func isStatus(err error, status ...int) bool {
	refused, ok := errors.AsType[*apiError](err)
	return ok && slices.Contains(status, refused.Status)
}

// passing tells whether the same request may be answered differently soon.
func (e *apiError) passing() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	case http.StatusForbidden:
		return e.Reason == "rateLimitExceeded" || e.Reason == "userRateLimitExceeded"
	}
	return false
}

// parseError reads a refusal; load balancers answer with plain text.
func parseError(status int, body []byte) *apiError {
	e := &apiError{Status: status, Message: strings.TrimSpace(string(body[:min(len(body), 200)]))}
	var answer struct {
		Error struct {
			Message string
			Status  string
			Errors  []struct{ Reason, Message string }
		}
	}
	if json.Unmarshal(body, &answer) == nil && answer.Error.Message != "" {
		e.Message, e.Reason = answer.Error.Message, answer.Error.Status
		if len(answer.Error.Errors) > 0 {
			e.Reason = answer.Error.Errors[0].Reason
		}
	}
	return e
}

// explain gives a refusal its kind, and says what to do.
func (p *Publisher) explain(doing string, err error) error {
	refused, ok := errors.AsType[*apiError](err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch {
	case refused.passing():
		return fault.Outsidef("%s: %w", doing, err)
	case refused.Status == http.StatusUnauthorized:
		return fault.WithHint(fault.Inputf("%s: the credentials are refused or have expired: %w", doing, err), "get a new id token, or look at the clock of this machine")
	case strings.Contains(strings.ToLower(refused.Reason), "quota"):
		return fault.WithHint(fault.Outsidef("%s: a quota of project %s is reached: %w", doing, p.project, err), "prune old images, or ask Google for a larger quota")
	case refused.Status == http.StatusForbidden:
		return fault.WithHint(fault.Inputf("%s: %s lacks a right in project %s: %w", doing, p.credentials.principal(), p.project, err), "debcloud publish whoami --to %s lists what is missing", p.target.Name)
	}
	return fault.Inputf("%s: %w", doing, err)
}

// request is one request to an API.
type request struct {
	method string
	url    string
	header http.Header
	body   []byte
	accept []int // answers beside 200 to 299 that are no errors
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes a request until it has an answer that will not change.
func (p *Publisher) send(ctx context.Context, r request) (*answer, error) {
	for try := 0; ; try++ {
		a, err := p.once(ctx, r)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			return a, nil
		}
		refused, answered := errors.AsType[*apiError](err)
		if answered && !refused.passing() || errors.As(err, new(*fault.Error)) {
			return nil, err
		}
		if try+1 == tries {
			if answered {
				return nil, err
			}
			return nil, fault.Outsidef("Google does not answer: %w", withoutURL(err))
		}
		if err := pause.For(ctx, p.patience.Poll<<min(try, 6)); err != nil {
			return nil, err
		}
	}
}

// withoutURL drops the URL that package net/http puts into its errors: that of an upload is a secret.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func (p *Publisher) once(ctx context.Context, r request) (*answer, error) {
	client, err := p.credentials.client()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, r.method, r.url, bytes.NewReader(r.body))
	if err != nil {
		return nil, withoutURL(err)
	}
	for key, values := range r.header {
		request.Header[key] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, p.credentials.refused(withoutURL(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 && !slices.Contains(r.accept, response.StatusCode) {
		return nil, parseError(response.StatusCode, body)
	}
	return &answer{response.StatusCode, response.Header, body}, nil
}

// call sends in, if it is not nil, as JSON and decodes the answer into out.
func (p *Publisher) call(ctx context.Context, method, address string, query url.Values, in, out any) error {
	r := request{method: method, url: address, header: http.Header{}}
	if len(query) > 0 {
		r.url += "?" + query.Encode()
	}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		r.body = body
		r.header.Set("Content-Type", "application/json")
	}
	a, err := p.send(ctx, r)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return fault.Outsidef("the answer to %s %s is no JSON: %w", method, address, err)
	}
	return nil
}

// pages calls a list until its last page.
func pages[T any](ctx context.Context, p *Publisher, address string, query url.Values) ([]T, error) {
	var all []T
	for {
		var page struct {
			Items         []T
			NextPageToken string
		}
		if err := p.call(ctx, http.MethodGet, address, query, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.NextPageToken == "" {
			return all, nil
		}
		query.Set("pageToken", page.NextPageToken)
	}
}
