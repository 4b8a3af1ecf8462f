package publishtest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// errCut is what a request sees whose process died.
var errCut = errors.New("publishtest: the process died here")

// Line is the way from a Publisher to its cloud. It counts the requests, and dies at one of them as told: then nothing gets through
// any more, and the context of the publication ends, as if the process had been killed.
type Line struct {
	mu        sync.Mutex
	requests  int
	cutAt     int         // the request at which the line dies, from 1; 0: never
	delivered bool        // whether that request still reaches the cloud and only its answer is lost
	cutWhen   func() bool // the line also dies at the first request at which it says so
	dead      bool
	kill      context.CancelCauseFunc
	status    func(request int) int // answers that come in the place of the cloud's, 0: none
	names     []string
}

// take counts a request and tells what becomes of it.
func (l *Line) take(name string) (deliver, answer bool, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return false, false, 0
	}
	l.requests++
	l.names = append(l.names, name)
	if l.requests == l.cutAt || l.cutWhen != nil && l.cutWhen() {
		l.dead = true
		l.kill(errCut)
		return l.delivered, false, 0
	}
	if l.status != nil {
		if status := l.status(l.requests); status != 0 {
			return false, true, status
		}
	}
	return true, true, 0
}

// Transport returns an http.RoundTripper that goes through the line to next, http.DefaultTransport where that is nil.
// Publishers that speak HTTP are given it as their client's Transport, below all retrying.
func (l *Line) Transport(next http.RoundTripper) http.RoundTripper {
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{l, next}
}

type transport struct {
	line *Line
	next http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	deliver, answer, status := t.line.take(r.Method + " " + r.URL.Path)
	if status != 0 {
		drop(r)
		return refusal(r, status), nil
	}
	if !deliver {
		drop(r)
		return nil, errCut
	}
	if answer {
		return t.next.RoundTrip(r)
	}
	// The request gets there though the process is dead.
	response, err := t.next.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
	if err == nil {
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	return nil, errCut
}

func drop(r *http.Request) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
}

// refusal is a bare answer, as a load balancer gives it.
func refusal(r *http.Request, status int) *http.Response {
	return &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status, Request: r,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Retry-After": {"0"}, "Content-Type": {"text/plain"}},
		Body:   io.NopCloser(strings.NewReader(http.StatusText(status))),
	}
}

// Call is a request of a cloud that is no HTTP server: it does do, or what the line was told in its place. An answer in
// the cloud's place is an error of kind fault.Outside.
func (l *Line) Call(ctx context.Context, name string, do func() error) error {
	deliver, answer, status := l.take(name)
	if status != 0 {
		return fault.Outsidef("%s: %d %s", name, status, http.StatusText(status))
	}
	if !deliver {
		return errCut
	}
	if !answer {
		do()
		return errCut
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return do()
}

// Requests returns how many requests were made so far.
func (l *Line) Requests() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests
}
