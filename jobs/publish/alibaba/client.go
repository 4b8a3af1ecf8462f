package alibaba

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// The RPC APIs of ECS (2014-05-26) and STS (2015-04-01), signed by version 3: help.aliyun.com, "Request syntax and signature method V3".
const (
	ecsVersion = "2014-05-26"
	stsVersion = "2015-04-01"
	algorithm  = "ACS3-HMAC-SHA256"
	timeForm   = "2006-01-02T15:04:05Z"
	maxAnswer  = 16 << 20 // bytes; a page of 100 images has under 1 MiB
)

// apiError is an answer that refuses a request.
type apiError struct {
	Status        int
	Code, Message string
	date          time.Time // of the answer
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message) }

// passing tells whether the same request may be answered differently soon.
func (e *apiError) passing() bool {
	return e.Status >= http.StatusInternalServerError || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout ||
		strings.HasPrefix(e.Code, "Throttling") || e.Code == "SignatureNonceUsed" || e.Code == "ServiceUnavailable" || e.Code == "InvalidOperation.Conflict" || e.Code == "LastTokenProcessing"
}

// late tells whether the time of the request was refused.
func (e *apiError) late() bool {
	return e.Code == "IllegalTimestamp" || strings.HasPrefix(e.Code, "InvalidTimeStamp")
}

// client calls the RPC APIs. Its methods may be called from several goroutines.
type client struct {
	http     *http.Client
	login    *login
	patience patience
	offset   atomic.Int64 // what is added to this machine's clock, in nanoseconds, learnt from answers
}

func (c *client) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// params are a call's, by name; empty ones are not sent. Lists are Name.1, Name.2 and so on.
type params map[string]string

// tags adds Tag.N.Key and Tag.N.Value.
func (p params) tags(tags map[string]string) params {
	for i, k := range slices.Sorted(maps.Keys(tags)) {
		p[fmt.Sprintf("Tag.%d.Key", i+1)], p[fmt.Sprintf("Tag.%d.Value", i+1)] = k, tags[k]
	}
	return p
}

// call makes a signed call, again where that may help, and decodes the answer into out, which may be nil.
func (c *client) call(ctx context.Context, host, version, action string, p params, out any) error {
	return c.retry(ctx, out, func() (*http.Request, error) {
		k, err := c.login.keys(ctx)
		if err != nil {
			return nil, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/?"+query(p), http.NoBody)
		if err != nil {
			return nil, err
		}
		h := request.Header
		h.Set("x-acs-action", action)
		h.Set("x-acs-version", version)
		sign(request, nil, k, c.now(), nonce())
		return request, nil
	})
}

// assume makes the one call that is not signed: STS's AssumeRoleWithOIDC. The token is in the body, as errors tell addresses.
func (c *client) assume(ctx context.Context, host string, e environment, token string) (keys, error) {
	form := url.Values{"RoleArn": {e.Role}, "OIDCProviderArn": {e.IdentityProvider}, "OIDCToken": {token}, "RoleSessionName": {e.Session}, "DurationSeconds": {"3600"}}.Encode()
	var answer struct {
		Credentials struct{ AccessKeyID, AccessKeySecret, SecurityToken, Expiration string }
	}
	err := c.retry(ctx, &answer, func() (*http.Request, error) {
		p := params{"Action": "AssumeRoleWithOIDC", "Version": stsVersion, "Format": "JSON", "Timestamp": c.now().UTC().Format(timeForm), "SignatureNonce": nonce()}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/?"+query(p), strings.NewReader(form))
		if err == nil {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			request.Header.Set("Accept", "application/json")
		}
		return request, err
	})
	if err != nil {
		return keys{}, explain(ctx, "", "AssumeRoleWithOIDC", err)
	}
	k := answer.Credentials
	until, err := time.Parse(timeForm, k.Expiration)
	if err != nil || k.AccessKeyID == "" || k.AccessKeySecret == "" || k.SecurityToken == "" {
		return keys{}, fault.Outsidef("AssumeRoleWithOIDC: the answer holds no credentials")
	}
	return keys{id: k.AccessKeyID, secret: k.AccessKeySecret, token: k.SecurityToken, until: until}, nil
}

// retry makes a request until it has an answer that will not change. Each try is signed anew: a nonce is good for once.
func (c *client) retry(ctx context.Context, out any, make func() (*http.Request, error)) error {
	for try := 1; ; try++ {
		request, err := make()
		if err == nil {
			err = c.once(request, out)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			return nil
		}
		refused, answered := errors.AsType[*apiError](err)
		switch {
		case answered && refused.late() && c.correct(refused.date):
		case answered && !refused.passing(), !answered && errors.As(err, new(*fault.Error)), try >= c.patience.calls:
			return err
		}
		if err := c.patience.Pause(ctx, try); err != nil {
			return err
		}
	}
}

// correct takes over the time of an answer, and tells whether that differs from what was taken for the time.
func (c *client) correct(date time.Time) bool {
	off := date.Sub(c.now())
	if date.IsZero() || off.Abs() < time.Minute {
		return false
	}
	c.offset.Add(int64(off))
	return true
}

func (c *client) once(request *http.Request, out any) error {
	response, err := c.http.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		return parseError(response, body)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(out); err != nil {
		return fault.Outsidef("the answer is no JSON: %w", err)
	}
	return nil
}

// withoutURL drops the address that package net/http puts into its errors: it has all parameters.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// parseError reads a refusal; load balancers answer with plain text.
func parseError(r *http.Response, body []byte) error {
	e := &apiError{Status: r.StatusCode}
	if json.Unmarshal(body, e) != nil || e.Code == "" {
		e.Code, e.Message = "", strings.TrimSpace(string(body[:min(len(body), 200)]))
	}
	e.Code, e.Status = cmp.Or(e.Code, http.StatusText(r.StatusCode)), r.StatusCode
	e.date, _ = http.ParseTime(r.Header.Get("Date")) // zero: unknown
	return e
}

// query is the canonical one: sorted, and encoded as RFC 3986 has it.
func query(p params) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(p)) {
		if p[k] != "" {
			parts = append(parts, escape(k)+"="+escape(p[k]))
		}
	}
	return strings.Join(parts, "&")
}

func escape(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

func nonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: package crypto/rand
	return hex.EncodeToString(b)
}

// sign signs a request whose query is canonical and whose action and version are set.
func sign(r *http.Request, body []byte, k keys, at time.Time, nonce string) {
	hash := sha256.Sum256(body)
	payload := hex.EncodeToString(hash[:])
	h := r.Header
	h.Set("x-acs-content-sha256", payload)
	h.Set("x-acs-date", at.UTC().Format(timeForm))
	h.Set("x-acs-signature-nonce", nonce)
	if k.token != "" {
		h.Set("x-acs-security-token", k.token)
	}
	signed := map[string]string{"host": r.URL.Host}
	for name := range h {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-acs-") || lower == "content-type" {
			signed[lower] = strings.TrimSpace(h.Get(name))
		}
	}
	names := slices.Sorted(maps.Keys(signed))
	var headers strings.Builder
	for _, name := range names {
		headers.WriteString(name + ":" + signed[name] + "\n")
	}
	list := strings.Join(names, ";")
	canonical := sha256.Sum256([]byte(strings.Join([]string{r.Method, "/", r.URL.RawQuery, headers.String(), list, payload}, "\n")))
	mac := hmac.New(sha256.New, []byte(k.secret))
	mac.Write([]byte(algorithm + "\n" + hex.EncodeToString(canonical[:])))
	h.Set("Authorization", algorithm+" Credential="+k.id+",SignedHeaders="+list+",Signature="+hex.EncodeToString(mac.Sum(nil)))
}
