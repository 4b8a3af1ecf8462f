package salsa

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

func lintOK(lintRequest) map[string]any { return map[string]any{"valid": true} }

func TestPatience(t *testing.T) {
	reset := fmt.Sprint(time.Now().Add(40 * time.Second).Unix())
	for _, row := range []struct {
		summary  string
		act      func(http.ResponseWriter, *http.Request, http.HandlerFunc)
		times    int
		requests int
		wait     time.Duration // the first wait is at least that
		kind     fault.Kind    // Work: no error
	}{
		{"no trouble", nil, 0, 1, 0, fault.Work},
		{"a bad gateway passes", says(502), 2, 3, 250 * time.Millisecond, fault.Work},
		{"an overloaded server says when", says(503, "Retry-After", "7"), 1, 2, 7 * time.Second, fault.Work},
		{"a rate limit says how long", says(429, "Retry-After", "30"), 1, 2, 30 * time.Second, fault.Work},
		{"a rate limit says until when", says(429, "RateLimit-Reset", reset), 1, 2, 38 * time.Second, fault.Work},
		{"a rate limit without a word", says(429), 1, 2, 250 * time.Millisecond, fault.Work},
		{"a rate limit of an hour is not waited for", says(429, "Retry-After", "3600"), 1, 1, 0, fault.Outside},
		{"nonsense in the headers", says(429, "Retry-After", "soon", "RateLimit-Reset", "-1"), 1, 2, 250 * time.Millisecond, fault.Work},
		{"a server that stays down", says(500), 99, 6, 250 * time.Millisecond, fault.Outside},
		{"an answer that is cut", truncates, 1, 2, 250 * time.Millisecond, fault.Work},
		{"a server that hangs", hangs, 1, 2, 250 * time.Millisecond, fault.Work},
		{"not implemented will not change", says(501), 1, 1, 0, fault.Outside},
		{"forbidden is final", says(403), 1, 1, 0, fault.Input},
		{"unprocessable is final", says(422), 1, 1, 0, fault.Input},
	} {
		t.Run(row.summary, func(t *testing.T) {
			d := newDouble(t)
			d.lint = lintOK
			if row.times > 0 {
				d.inject("POST .*/ci/lint", row.times, row.act)
			}
			c := d.client()
			c.patience.answer = 300 * time.Millisecond
			_, err := c.Lint(t.Context(), "a: b", LintOptions{})
			if fault.KindOf(err) != row.kind || (err == nil) != (row.kind == fault.Work) {
				t.Errorf("error %v of kind %v, want kind %v", err, fault.KindOf(err), row.kind)
			}
			if n := d.count("POST"); n != row.requests {
				t.Errorf("%d requests, want %d", n, row.requests)
			}
			if len(d.waits) != row.requests-1 {
				t.Errorf("waited %v, want %d times", d.waits, row.requests-1)
			}
			if len(d.waits) > 0 && (d.waits[0] < row.wait || d.waits[0] > row.wait+3*time.Second) {
				t.Errorf("waited %s first, want %s", d.waits[0], row.wait)
			}
		})
	}
}

func TestPostIsNotRepeatedBlindly(t *testing.T) {
	d := newDouble(t)
	c := d.client()
	p := c.patience
	for _, code := range []int{500, 502, 503} {
		d.inject("POST", 1, says(code))
		req, _ := http.NewRequestWithContext(t.Context(), "POST", d.server.URL+"/api/v4/x", strings.NewReader("{}"))
		resp, err := p.RoundTrip(req)
		if err != nil || resp.StatusCode != code {
			t.Errorf("a POST that met %d: %v, %v", code, resp, err)
		}
	}
	if n := d.count("POST"); n != 3 {
		t.Errorf("3 POSTs became %d", n)
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	d := newDouble(t)
	c := d.client()
	d.server.Close()
	_, err := c.Lint(t.Context(), "a: b", LintOptions{})
	if fault.KindOf(err) != fault.Outside {
		t.Errorf("error %v, want one from outside", err)
	}
	if len(d.waits) != 5 {
		t.Errorf("waited %v", d.waits)
	}
	if !slices.IsSorted(d.waits[:1]) || d.waits[4] < d.waits[0] {
		t.Errorf("the waits do not grow: %v", d.waits)
	}
}

func TestAnswerWithoutEnd(t *testing.T) {
	d := newDouble(t)
	c := d.client()
	c.patience.limit = 1 << 20
	d.inject("POST", 99, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		for range 100 {
			fmt.Fprint(w, strings.Repeat(" ", 1<<16))
		}
	})
	_, err := c.Lint(t.Context(), "a: b", LintOptions{})
	if fault.KindOf(err) != fault.Outside || d.count("POST") != 1 || !strings.Contains(err.Error(), "larger") {
		t.Errorf("error %v after %d requests", err, d.count("POST"))
	}
}

func TestNoJSON(t *testing.T) {
	for _, text := range []string{"", "<html>", `{"valid":`, `{"valid":"maybe"}`, `[]`} {
		d := newDouble(t)
		d.inject("POST", 99, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) { fmt.Fprint(w, text) })
		if _, err := d.client().Lint(t.Context(), "a: b", LintOptions{}); fault.KindOf(err) != fault.Outside {
			t.Errorf("answer %q: error %v", text, err)
		}
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	d := newDouble(t)
	d.inject("POST", 99, says(429, "Retry-After", "100"))
	c := d.client()
	c.patience.sleep = pause.For
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	start := time.Now()
	_, err := c.Lint(ctx, "a: b", LintOptions{})
	if !errors.Is(err, why) || time.Since(start) > 5*time.Second {
		t.Errorf("error %v after %s", err, time.Since(start))
	}
}

func TestListingWithoutEnd(t *testing.T) {
	d := newDouble(t)
	d.inject("GET .*/pipeline_schedules", 10_000, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		w.Header().Set("X-Next-Page", "2")
		fmt.Fprint(w, "[]")
	})
	err := d.client().ApplySchedules(t.Context(), nil, true, func(Action) {})
	if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "more than 500 pages") {
		t.Errorf("error %v", err)
	}
}

func TestAskedWait(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, row := range []struct {
		summary string
		headers []string
		want    time.Duration
		ok      bool
	}{
		{"nothing", nil, 0, false},
		{"seconds", []string{"Retry-After", "12"}, 12 * time.Second, true},
		{"a date", []string{"Retry-After", now.Add(time.Minute).Format(http.TimeFormat)}, time.Minute, true},
		{"the server's clock counts", []string{"Date", now.Add(time.Hour).Format(http.TimeFormat), "RateLimit-Reset", fmt.Sprint(now.Add(time.Hour + 9*time.Second).Unix())}, 9 * time.Second, true},
		{"both: Retry-After", []string{"Retry-After", "1", "RateLimit-Reset", fmt.Sprint(now.Add(time.Hour).Unix())}, time.Second, true},
		{"a number that overflows", []string{"Retry-After", "99999999999999999999"}, 0, false},
	} {
		resp := &http.Response{Header: http.Header{}}
		for i := 0; i < len(row.headers); i += 2 {
			resp.Header.Set(row.headers[i], row.headers[i+1])
		}
		if got, ok := askedWait(resp, now); got != row.want || ok != row.ok {
			t.Errorf("%s: %s, %t", row.summary, got, ok)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for attempt := 1; attempt < 40; attempt++ {
		if d := pause.Backoff(attempt, firstWait, longestWait); d < 250*time.Millisecond || d > 30*time.Second {
			t.Fatalf("Backoff(%d) = %s", attempt, d)
		}
	}
}

func TestRedirects(t *testing.T) {
	var seen http.Header
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		fmt.Fprint(w, `{"id": 7}`)
	}))
	defer storage.Close()
	elsewhere := strings.Replace(storage.URL, "127.0.0.1", "localhost", 1) + "/bucket?X-Amz-Signature=s3cr3t"
	to := func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		http.Redirect(w, r, elsewhere, http.StatusFound)
	}
	d := newDouble(t)
	d.inject("GET .*/user", 1, to)
	if _, err := d.client().currentUser(t.Context()); err != nil {
		t.Fatal(err)
	}
	if seen.Get("Private-Token") != "" || seen.Get("Job-Token") != "" || seen == nil {
		t.Errorf("another host got the token: %v", seen)
	}
	d.inject("POST .*/ci/lint", 1, to)
	_, err := d.client().Lint(t.Context(), "a: b", LintOptions{})
	if err == nil || !strings.Contains(err.Error(), "redirect") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("a redirected POST: %v", err)
	}
}
