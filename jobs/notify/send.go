package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// Patience with a listener.
const (
	attempts    = 5                // of one event in one run
	longestWait = 2 * time.Minute  // between two; whoever asks for more is asked again in a later run
	answerTime  = 20 * time.Second // Standard Webhooks recommends 15 to 30 s
	maxAge      = 72 * time.Hour   // since the first attempt, until an event that always failed is dead
	maxAnswer   = 64 << 10         // bytes of an answer that are read, to use the connection again
)

// sender delivers one listener's queue, in order. It stops at the first event that the listener cannot take now.
type sender struct {
	Listener
	state  *state
	o      Options
	client *http.Client
}

func newSender(l Listener, s *state, o Options) *sender {
	dialer := &net.Dialer{Timeout: answerTime}
	if !l.Internal {
		dialer.Control = refuseInner
	}
	return &sender{l, s, o, &http.Client{
		Timeout: answerTime,
		// No proxy: it would be the proxy's address that is looked at.
		Transport: &http.Transport{DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: answerTime},
		// A redirect would be an answer that makes us speak to someone else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *sender) run(ctx context.Context) []Notice {
	defer s.client.CloseIdleConnections()
	var notices []Notice
	for ctx.Err() == nil {
		l, body, notBefore, ok := s.state.next(s.Name)
		if !ok {
			break
		}
		n := Notice{Listener: s.Name, Image: l.Image, ID: l.ID}
		if wait := notBefore.Sub(s.o.Now()); wait > 0 {
			n.Outcome, n.Why = Later, "the listener wants to be left alone until "+notBefore.Format(time.RFC3339)
			return append(notices, s.rest(n)...)
		}
		failed := s.patiently(ctx, l, body)
		if err := s.note(&n, failed); err != nil {
			n.Outcome, n.Why = Later, err.Error()
			return append(notices, n)
		}
		if n.Outcome == Later {
			return append(notices, s.rest(n)...)
		}
		notices = append(notices, n)
	}
	return notices
}

// rest is what stays in the queue, the first of it n.
func (s *sender) rest(n Notice) []Notice {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	out := []Notice{n}
	for _, l := range s.state.doc.Data.Listeners[s.Name].Queue[1:] {
		out = append(out, Notice{Listener: s.Name, Image: l.Image, ID: l.ID, Outcome: Later, Why: "it waits for one that failed"})
	}
	return out
}

// note puts in the state what became of the head of the queue.
func (s *sender) note(n *Notice, failed *failure) error {
	now := s.o.Now().UTC().Truncate(time.Second)
	return s.state.change(s.Name, func(a *account) {
		head := &a.Queue[0]
		if failed == nil {
			n.Outcome = Told
			a.Queue, a.NotBefore = a.Queue[1:], time.Time{}
			return
		}
		n.Outcome, n.Why = Later, failed.why
		head.Why = failed.why
		if head.First.IsZero() && !failed.stopped {
			head.First = now
		}
		if failed.wait > 0 {
			a.NotBefore = now.Add(failed.wait)
		}
		if failed.final || !failed.stopped && now.Sub(head.First) >= maxAge {
			n.Outcome = Dead
			a.Dead, a.Queue = append(a.Dead, *head), a.Queue[1:]
		}
	})
}

// failure is why an event was not taken.
type failure struct {
	why     string
	final   bool          // it will not be taken either when it is sent again
	stopped bool          // this run was ended
	wait    time.Duration // that the listener asked for
}

// patiently sends an event until it is taken, is refused, or has failed often enough for this run.
func (s *sender) patiently(ctx context.Context, l letter, body []byte) *failure {
	for attempt := 1; ; attempt++ {
		f := s.post(ctx, l.ID, body)
		if f == nil || f.final {
			return f
		}
		wait := max(pause.Backoff(attempt, time.Second, time.Minute), f.wait)
		if ctx.Err() != nil {
			f.stopped = true
			return f
		}
		if attempt == attempts || wait > longestWait {
			return f
		}
		slog.InfoContext(ctx, "an event was not taken and is sent again", "listener", s.Name, "event", l.ID, "why", f.why, "wait", wait.Round(time.Millisecond))
		if s.o.pause(ctx, wait) != nil {
			f.stopped = true
			return f
		}
	}
}

// post sends an event once.
func (s *sender) post(ctx context.Context, id string, body []byte) *failure {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return &failure{why: "its url cannot be used", final: true}
	}
	at := s.o.Now()
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "debcloud")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("webhook-signature", signatures(s.keys, id, at, body))
	resp, err := s.client.Do(req)
	if err != nil {
		return &failure{why: withoutURL(err).Error(), final: errors.Is(err, errInner)}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // the status says all
	return judge(resp, at)
}

// judge reads the answer: 2xx is success, a fault of the server or too many requests may pass, all else is refused.
func judge(resp *http.Response, now time.Time) *failure {
	code := resp.StatusCode
	switch {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 400:
		return &failure{why: fmt.Sprintf("it answered %d, and redirects are not followed", code), final: true}
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return &failure{why: fmt.Sprintf("it answered %d", code), wait: askedWait(resp, now)}
	}
	return &failure{why: fmt.Sprintf("it answered %d", code), final: true}
}

// askedWait reads Retry-After (RFC 9110, 10.2.3), at most a day of it.
func askedWait(resp *http.Response, now time.Time) time.Duration {
	text := resp.Header.Get("Retry-After")
	var wait time.Duration
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		wait = time.Duration(n) * time.Second
	} else if date, err := http.ParseTime(text); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), 24*time.Hour)
}

// signatures signs an event with each key (Standard Webhooks, "Signature scheme").
func signatures(keys [][]byte, id string, at time.Time, body []byte) string {
	var all []string
	for _, k := range keys {
		mac := hmac.New(sha256.New, k)
		fmt.Fprintf(mac, "%s.%d.", id, at.Unix())
		mac.Write(body)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}

// withoutURL takes the URL out of an error of package http, and host and address out of one of package net.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if errors.Is(err, errInner) {
		return errInner
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New("its host's name cannot be resolved: " + e.Err)
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

var errInner = fault.WithHint(fault.Inputf("it is at an inner address"), "if that is meant, say internal: true")

// inner are networks that netip has no word for: this host's own (RFC 1122), shared address space (RFC 6598), IETF's (RFC 6890),
// benchmarks (RFC 2544), reserved (RFC 1112), and IPv6 addresses that have an IPv4 address in them: NAT64 (RFC 6052, 8215), 6to4 (RFC 3056)
// and Teredo (RFC 4380).
var inner = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/32"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("fec0::/10"),
}

// refuseInner is a net.Dialer.Control: it sees the address that is dialled, after all names were resolved.
func refuseInner(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || isInner(ap.Addr()) {
		return errInner
	}
	return nil
}

func isInner(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
		return true
	}
	for _, p := range inner {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
