package salsa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// explain turns err of a request that was to do what ("create the note") into an error of a kind. The text that GitLab sent is
// quoted, shortened and without any token; the chain behind err is cut, because its texts were not cleaned.
func (c *Client) explain(ctx context.Context, err error, what string, args ...any) error {
	what = fmt.Sprintf(what, args...)
	if _, done := errors.AsType[*fault.Error](err); done {
		return err
	}
	switch refused, ok := errors.AsType[*gitlab.ErrorResponse](err); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case ok:
		return c.refusal(refused, what)
	case isJSON(err):
		return fault.Outsidef("%s: the answer of %s cannot be read: %s", what, c.host, c.clean(err.Error()))
	default:
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, which may be a signed one
		}
		return fault.Outsidef("%s: %s does not answer: %s", what, c.host, c.clean(err.Error()))
	}
}

func (c *Client) refusal(r *gitlab.ErrorResponse, what string) error {
	text := fmt.Sprintf("%s: %s says %d %s", what, c.host, r.StatusCode, http.StatusText(r.StatusCode))
	if r.Message != "" && r.StatusCode < 500 && r.StatusCode != http.StatusNotFound {
		text += ": " + c.clean(r.Message)
	}
	switch {
	case r.StatusCode == http.StatusUnauthorized:
		return fault.WithHint(fault.Inputf("%s", text), "the token is unknown, expired or of another instance")
	case r.StatusCode == http.StatusForbidden:
		return fault.WithHint(fault.Inputf("%s", text), "the token needs the scope api and, for schedules, the role of a maintainer")
	case r.StatusCode == http.StatusNotFound:
		return fault.WithHint(fault.Inputf("%s", text), "project %s does not exist or the token may not see it", c.project)
	case r.StatusCode >= 500, r.StatusCode == http.StatusTooManyRequests, r.StatusCode == http.StatusConflict, r.StatusCode == http.StatusRequestTimeout:
		return fault.Outsidef("%s", text)
	default:
		return fault.Inputf("%s", text)
	}
}

func isJSON(err error) bool {
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return true
	}
	_, ok := errors.AsType[*json.UnmarshalTypeError](err)
	return ok || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// clean makes text of the server printable: one line, no token, at most 300 characters.
func (c *Client) clean(text string) string {
	for _, s := range c.secrets {
		for _, form := range []string{s, url.QueryEscape(s), url.PathEscape(s)} {
			text = strings.ReplaceAll(text, form, "[token]")
		}
	}
	return shorten(oneLine(text), 300)
}

// isUnclear tells whether a request that failed with err may have been acted on all the same.
func isUnclear(err error) bool {
	refused, ok := errors.AsType[*gitlab.ErrorResponse](err)
	if !ok {
		return err != nil
	}
	return refused.StatusCode >= 500 || refused.StatusCode == http.StatusConflict || refused.StatusCode == http.StatusRequestTimeout
}

func isMissing(err error) bool { return gitlab.HasStatusCode(err, http.StatusNotFound) }

// createOnce runs create, which must not take effect twice. When its result is unclear there looks whether it took effect, and
// create runs again only if it did not. A server that still works on the lost request while there looks can make a second
// one: what creates here finds and heals that in its next run.
func (c *Client) createOnce(ctx context.Context, create func() error, there func() (bool, error)) error {
	for attempt := 1; ; attempt++ {
		err := create()
		if err == nil || ctx.Err() != nil || !isUnclear(err) {
			return err
		}
		if attempt >= c.patience.attempts {
			return err
		}
		if err := c.patience.sleep(ctx, pause.Backoff(attempt+1, firstWait, longestWait)); err != nil {
			return err
		}
		found, lookErr := there()
		if lookErr != nil {
			return lookErr
		}
		if found {
			return nil
		}
	}
}

// maxPages bounds a listing, so that a server that always names a next page does not hold a job.
const maxPages = 500

// collect reads all pages of a listing.
func collect[T any](list func(page gitlab.PaginationOptionFunc) ([]T, *gitlab.Response, error)) ([]T, error) {
	pages := 0
	return gitlab.ScanAndCollect(func(page gitlab.PaginationOptionFunc) ([]T, *gitlab.Response, error) {
		if pages++; pages > maxPages {
			return nil, nil, fmt.Errorf("the listing has more than %d pages", maxPages)
		}
		return list(page)
	})
}

// currentUser is the user that the access token belongs to.
func (c *Client) currentUser(ctx context.Context) (*gitlab.User, error) {
	u, _, err := c.api.Users.CurrentUser(gitlab.WithContext(ctx))
	return u, c.explain(ctx, err, "ask whose token it is")
}
