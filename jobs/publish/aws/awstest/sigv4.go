package awstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// the oldest, and the furthest ahead, that a signature may be.
const skewAllowed = 15 * time.Minute

// identify finds out the service, region, action and principal of a request, and checks its signature.
func (c *Cloud) identify(r *request) *Failure {
	if f := r.readForm(); f != nil {
		return f
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		r.call.Service, r.call.Region, r.call.Action = "sts", "us-east-1", r.form.Get("Action")
		if r.call.Action != "AssumeRoleWithWebIdentity" {
			return &Failure{Status: 403, Code: "MissingAuthenticationToken", Message: "Request is missing Authentication Token"}
		}
		return nil
	}
	given, ok := parseAuthorization(authorization)
	if !ok {
		return &Failure{Status: 400, Code: "IncompleteSignature", Message: "Authorization header is not of Signature Version 4"}
	}
	r.call.Service, r.call.Region = given.service, given.region
	r.name()
	return c.verify(r, given)
}

// verify checks who signed the request and when.
func (c *Cloud) verify(r *request, given signature) *Failure {
	c.mu.Lock()
	s, known := c.sessions[given.key]
	settings := c.settings
	c.mu.Unlock()
	if !known {
		return badKey(r.call.Service)
	}
	if r.Header.Get("X-Amz-Security-Token") != s.token {
		return badKey(r.call.Service)
	}
	signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || signed.Format("20060102") != given.day {
		return badSignature(r.call.Service, "the date of the request and of its credential scope differ")
	}
	clock := time.Now().Add(settings.Skew)
	if off := clock.Sub(signed); off > skewAllowed || off < -skewAllowed {
		return badClock(r.call.Service, signed, clock)
	}
	if !s.ends.IsZero() && time.Now().After(s.ends) {
		return expired(r.call.Service)
	}
	if want := sign(r, given, s.secret); !hmac.Equal([]byte(want), []byte(given.mac)) {
		return badSignature(r.call.Service, "The request signature we calculated does not match the signature you provided.")
	}
	if f := r.checkPayload(); f != nil {
		return f
	}
	r.arn = "arn:" + settings.Partition + ":iam::" + settings.Account + ":" + s.arn
	return nil
}

type signature struct {
	key, day, region, service, mac string
	headers                        []string
}

func parseAuthorization(header string) (signature, bool) {
	rest, ok := strings.CutPrefix(header, "AWS4-HMAC-SHA256 ")
	var s signature
	for part := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch key {
		case "Credential":
			scope := strings.Split(value, "/")
			if len(scope) != 5 || scope[4] != "aws4_request" {
				return s, false
			}
			s.key, s.day, s.region, s.service = scope[0], scope[1], scope[2], scope[3]
		case "SignedHeaders":
			s.headers = strings.Split(value, ";")
		case "Signature":
			s.mac = value
		}
	}
	return s, ok && s.key != "" && s.mac != "" && slices.Contains(s.headers, "host") && slices.Contains(s.headers, "x-amz-date")
}

// sign computes the signature that the request should have.
func sign(r *request, given signature, secret string) string {
	scope := strings.Join([]string{given.day, given.region, given.service, "aws4_request"}, "/")
	digest := sha256.Sum256([]byte(canonical(r, given.headers)))
	toSign := strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope, hex.EncodeToString(digest[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range []string{given.day, given.region, given.service, "aws4_request"} {
		key = mac(key, part)
	}
	return hex.EncodeToString(mac(key, toSign))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonical writes the request in the form that is signed.
func canonical(r *request, headers []string) string {
	var b strings.Builder
	b.WriteString(r.Method + "\n" + r.canonicalPath() + "\n" + canonicalQuery(r.URL.Query()) + "\n")
	for _, name := range headers {
		b.WriteString(name + ":" + strings.Join(strings.Fields(r.headerValue(name)), " ") + "\n")
	}
	b.WriteString("\n" + strings.Join(headers, ";") + "\n" + r.payloadHash())
	return b.String()
}

func (r *request) headerValue(name string) string {
	switch name {
	case "host":
		return r.Host
	case "content-length":
		return r.Header.Get("Content-Length") + lengthOf(r.Request)
	}
	return strings.Join(r.Header.Values(name), ",")
}

// lengthOf restores the header that net/http takes out.
func lengthOf(r *http.Request) string {
	if r.Header.Get("Content-Length") != "" || r.ContentLength < 0 {
		return ""
	}
	return itoa(int(r.ContentLength))
}

func (r *request) canonicalPath() string {
	path := r.URL.EscapedPath()
	if path == "" {
		return "/"
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.QueryEscape(p), "+", "%20")
	}
	return strings.Join(parts, "/")
}

func canonicalQuery(q url.Values) string {
	return strings.ReplaceAll(q.Encode(), "+", "%20")
}

const unsigned = "UNSIGNED-PAYLOAD"

// payloadHash is the digest that was signed: the body's, or none for EBS direct's blocks.
func (r *request) payloadHash() string {
	if given := r.Header.Get("X-Amz-Content-Sha256"); given != "" {
		return given
	}
	if r.call.Action == "PutSnapshotBlock" {
		return unsigned
	}
	sum := sha256.Sum256(r.body)
	return hex.EncodeToString(sum[:])
}

// checkPayload compares the body with the digest that was signed.
func (r *request) checkPayload() *Failure {
	given := r.Header.Get("X-Amz-Content-Sha256")
	if given == "" || given == unsigned && r.call.Action == "PutSnapshotBlock" {
		return nil
	}
	sum := sha256.Sum256(r.body)
	if given != hex.EncodeToString(sum[:]) {
		return badSignature(r.call.Service, "the payload is not what was signed")
	}
	return nil
}

func badKey(service string) *Failure {
	switch service {
	case "ec2":
		return &Failure{Status: 401, Code: "AuthFailure", Message: "AWS was not able to validate the provided access credentials"}
	case "sts":
		return &Failure{Status: 403, Code: "InvalidClientTokenId", Message: "The security token included in the request is invalid."}
	}
	return &Failure{Status: 403, Code: "UnrecognizedClientException", Message: "The security token included in the request is invalid."}
}

func badSignature(service, why string) *Failure {
	switch service {
	case "ec2":
		return &Failure{Status: 401, Code: "AuthFailure", Message: "AWS was not able to validate the provided access credentials"}
	case "sts":
		return &Failure{Status: 403, Code: "SignatureDoesNotMatch", Message: why}
	}
	return &Failure{Status: 403, Code: "InvalidSignatureException", Message: why}
}

func badClock(service string, signed, clock time.Time) *Failure {
	form := "20060102T150405Z"
	why := "Signature not yet current or expired: " + signed.Format(form) + " is not within 15 min. of " + clock.UTC().Format(form)
	switch service {
	case "ec2":
		return refuse("RequestExpired", "Request has expired.")
	case "sts":
		return &Failure{Status: 403, Code: "SignatureDoesNotMatch", Message: why}
	}
	return &Failure{Status: 403, Code: "InvalidSignatureException", Message: why}
}

func expired(service string) *Failure {
	switch service {
	case "ec2":
		return refuse("RequestExpired", "Request has expired.")
	case "sts":
		return &Failure{Status: 403, Code: "ExpiredToken", Message: "The security token included in the request is expired"}
	}
	return &Failure{Status: 400, Code: "ExpiredTokenException", Message: "The security token included in the request is expired"}
}
