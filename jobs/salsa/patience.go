package salsa

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// patience repeats requests that GitLab did not take or could not answer, and bounds every answer in time and size.
//
// A rate-limited request (429) was turned away before it was acted on, so any may be repeated. After a 5xx, a cut connection or
// a truncated answer the server may have acted: only requests that say the same twice are repeated then (RFC 9110, 9.2.2),
// and a POST that is marked so. What creates something is repeated by createOnce, which looks first.
type patience struct {
	next     http.RoundTripper
	attempts int           // of one request
	longest  time.Duration // wait; a server that asks for more is not waited for
	answer   time.Duration // until the whole of an answer is there
	silence  time.Duration // of a download, until it is given up
	limit    int64         // bytes of an answer that is no download
	sleep    func(context.Context, time.Duration) error
}

func newPatience(next http.RoundTripper) *patience {
	return &patience{
		next: next, attempts: 6, longest: 2 * time.Minute, answer: 2 * time.Minute, silence: time.Minute,
		limit: 32 << 20, sleep: pause.For,
	}
}

type contextKey int

const (
	repeatableKey contextKey = iota // a POST that may be repeated
	streamKey                       // the answer is a download: not buffered, not limited here
)

func repeatable(ctx context.Context) context.Context {
	return context.WithValue(ctx, repeatableKey, true)
}

func streamed(ctx context.Context) context.Context { return context.WithValue(ctx, streamKey, true) }

var errTooLarge = errors.New("the answer is larger than any that is expected")

// RoundTrip implements http.RoundTripper.
func (p *patience) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	body, err := readBody(req)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		resp, err := p.try(req, body)
		wait, again := p.verdict(req, resp, err, attempt)
		attributes := []any{"method", req.Method, "path", req.URL.Path, "attempt", attempt, "status", statusCode(resp)}
		if !again {
			slog.DebugContext(ctx, "GitLab answered", attributes...)
			return resp, err
		}
		slog.DebugContext(ctx, "GitLab is asked again", append(attributes, "wait", wait.Round(time.Millisecond))...)
		if resp != nil {
			resp.Body.Close()
		}
		if err := p.sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func readBody(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	defer req.Body.Close()
	return io.ReadAll(req.Body)
}

// try sends one request. Unless the answer is a download it is read to its end, so that a truncated one is noticed here.
func (p *patience) try(req *http.Request, body []byte) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	stream := ctx.Value(streamKey) != nil
	bound := p.answer
	if stream {
		bound = p.silence
	}
	timer := time.AfterFunc(bound, func() { cancel(fmt.Errorf("no answer within %s", bound)) })
	end := func() { timer.Stop(); cancel(nil) }
	again := req.Clone(ctx)
	if body != nil {
		again.Body = io.NopCloser(bytes.NewReader(body))
		again.ContentLength = int64(len(body))
	}
	resp, err := p.next.RoundTrip(again)
	if err != nil {
		defer end()
		return nil, whyStopped(ctx, req.Context(), err)
	}
	if stream && resp.StatusCode < 400 {
		resp.Body = &download{resp.Body, ctx, req.Context(), timer, bound, end}
		return resp, nil
	}
	defer end()
	text, err := io.ReadAll(io.LimitReader(resp.Body, p.limit+1))
	resp.Body.Close()
	switch {
	case err != nil:
		return nil, whyStopped(ctx, req.Context(), err)
	case int64(len(text)) > p.limit:
		return nil, errTooLarge
	}
	resp.Body = io.NopCloser(bytes.NewReader(text))
	resp.ContentLength = int64(len(text))
	return resp, nil
}

// whyStopped replaces "context canceled" by the time limit of inner where that, not outer, ended the request.
func whyStopped(inner, outer context.Context, err error) error {
	if outer.Err() == nil && inner.Err() != nil {
		return context.Cause(inner)
	}
	return err
}

// download is the body of a streamed answer that ends when nothing comes for a while.
type download struct {
	io.ReadCloser
	inner, outer context.Context
	timer        *time.Timer
	silence      time.Duration
	end          func()
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		return n, whyStopped(d.inner, d.outer, err)
	}
	d.timer.Reset(d.silence)
	return n, err
}

func (d *download) Close() error {
	defer d.end()
	return d.ReadCloser.Close()
}

func statusCode(resp *http.Response) int {
	if resp == nil {
		return 0
	}
	return resp.StatusCode
}

// verdict tells whether the request is sent again, and after which wait.
func (p *patience) verdict(req *http.Request, resp *http.Response, err error, attempt int) (time.Duration, bool) {
	if req.Context().Err() != nil || attempt >= p.attempts || errors.Is(err, errTooLarge) {
		return 0, false
	}
	if err != nil {
		return pause.Backoff(attempt, firstWait, longestWait), mayRepeat(req) || neverSent(err)
	}
	busy := resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented || resp.StatusCode == http.StatusRequestTimeout
	if resp.StatusCode != http.StatusTooManyRequests && !(busy && mayRepeat(req)) {
		return 0, false
	}
	wait := pause.Backoff(attempt, firstWait, longestWait)
	if asked, ok := askedWait(resp, time.Now()); ok {
		wait = max(wait, asked)
	}
	return wait, wait <= p.longest
}

// mayRepeat tells whether the server's state is the same after one and after two of the request.
func mayRepeat(req *http.Request) bool {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Context().Value(repeatableKey) != nil
}

// neverSent tells whether err happened before anything was on its way.
func neverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// The waits between two tries of a request.
const (
	firstWait   = 500 * time.Millisecond
	longestWait = 30 * time.Second
)

// askedWait reads Retry-After (RFC 9110, 10.2.3) and GitLab's RateLimit-Reset, seconds since 1970 (docs.gitlab.com, "Rate limits").
// The server's clock counts where it tells the time.
func askedWait(resp *http.Response, now time.Time) (time.Duration, bool) {
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = date
	}
	if text := resp.Header.Get("Retry-After"); text != "" {
		if n, err := strconv.ParseInt(text, 10, 32); err == nil && n >= 0 {
			return time.Duration(n) * time.Second, true
		}
		if date, err := http.ParseTime(text); err == nil {
			return date.Sub(now), true
		}
	}
	if n, err := strconv.ParseInt(resp.Header.Get("RateLimit-Reset"), 10, 64); err == nil && n > 0 && n < 1<<40 {
		return time.Unix(n, 0).Sub(now), true
	}
	return 0, false
}

// noLimit takes the place of client-go's own rate limiter, which would stretch a short run over minutes:
// patience waits when GitLab says so.
type noLimit struct{}

func (noLimit) Wait(context.Context) error { return nil }
