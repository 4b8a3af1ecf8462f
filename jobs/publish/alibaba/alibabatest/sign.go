package alibabatest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"
)

var (
	rpcForm = regexp.MustCompile(`^ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})$`)
	ossForm = regexp.MustCompile(`^OSS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/oss/aliyun_v4_request,Signature=([0-9a-f]{64})$`)
)

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// encode is what RFC 3986 has, all but the unreserved characters.
func encode(text string, keep string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~"+keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func canonicalQuery(values url.Values, empty string) string {
	var parts []string
	for k, all := range values {
		for _, v := range all {
			part := encode(k, "") + "=" + encode(v, "")
			if v == "" {
				part = encode(k, "") + empty
			}
			parts = append(parts, part)
		}
	}
	sort.Strings(parts)
	return strings.Join(parts, "&")
}

// identify checks the signature of a call of ECS or STS, version 3.
func (c *Cloud) identify(r *http.Request, body []byte) (session, *Failure) {
	m := rpcForm.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return session{}, refuse(400, "IncompleteSignature", "The request signature does not conform to Aliyun standards.")
	}
	who, known := c.sessions[m[1]]
	if !known {
		return session{}, refuse(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
	}
	signed := strings.Split(m[2], ";")
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-acs-") && !slices.Contains(signed, lower) {
			return session{}, refuse(400, "IncompleteSignature", "header %s is not signed", lower)
		}
	}
	for _, name := range []string{"host", "x-acs-action", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce", "x-acs-version"} {
		if !slices.Contains(signed, name) {
			return session{}, refuse(400, "IncompleteSignature", "header %s is not signed", name)
		}
	}
	if r.Header.Get("x-acs-content-sha256") != digest(body) || !slices.IsSorted(signed) {
		return session{}, refuse(400, "SignatureDoesNotMatch", "the body is another one than was signed")
	}
	var headers strings.Builder
	for _, name := range signed {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	canonical := strings.Join([]string{r.Method, r.URL.Path, canonicalQuery(r.URL.Query(), "="), headers.String(), m[2], digest(body)}, "\n")
	if hex.EncodeToString(mac([]byte(who.secret), "ACS3-HMAC-SHA256\n"+digest([]byte(canonical)))) != m[3] {
		return session{}, refuse(400, "SignatureDoesNotMatch", "Specified signature is not matched with our calculation.")
	}
	return who, c.admitTime(r, who)
}

func (c *Cloud) admitTime(r *http.Request, who session) *Failure {
	at, err := time.Parse("2006-01-02T15:04:05Z", r.Header.Get("x-acs-date"))
	nonce := r.Header.Get("x-acs-signature-nonce")
	switch {
	case err != nil:
		return refuse(400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted.")
	case c.now().Sub(at).Abs() > 15*time.Minute:
		return refuse(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	case c.nonces[nonce]:
		return refuse(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
	case r.Header.Get("x-acs-security-token") != who.token:
		return refuse(400, "InvalidSecurityToken.MismatchWithAccessKey", "Specified SecurityToken mismatch with the AccessKey.")
	case !who.ends.IsZero() && c.now().After(who.ends):
		return refuse(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
	}
	c.nonces[nonce] = true
	return nil
}

// identifyStore checks the signature of a request to OSS, version 4.
func (c *Cloud) identifyStore(r *http.Request, bucket, region string) *Failure {
	m := ossForm.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return refuse(400, "InvalidArgument", "the authorization is malformed")
	}
	who, known := c.sessions[m[1]]
	if !known {
		return refuse(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("x-oss-date"))
	if err != nil || at.Format("20060102") != m[2] || m[3] != region || r.Header.Get("x-oss-content-sha256") != "UNSIGNED-PAYLOAD" {
		return refuse(400, "InvalidArgument", "date, region or payload of the signature are wrong")
	}
	var names []string
	for name := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-oss-") || lower == "content-type" || lower == "content-md5" {
			names = append(names, lower)
		}
	}
	slices.Sort(names)
	var headers bytes.Buffer
	for _, name := range names {
		headers.WriteString(name + ":" + strings.TrimSpace(r.Header.Get(name)) + "\n")
	}
	canonical := strings.Join([]string{r.Method, encode("/"+bucket+r.URL.Path, "/"), canonicalQuery(r.URL.Query(), ""), headers.String(), "", "UNSIGNED-PAYLOAD"}, "\n")
	key := mac(mac(mac(mac([]byte("aliyun_v4"+who.secret), m[2]), m[3]), "oss"), "aliyun_v4_request")
	scope := m[2] + "/" + m[3] + "/oss/aliyun_v4_request"
	if hex.EncodeToString(mac(key, "OSS4-HMAC-SHA256\n"+r.Header.Get("x-oss-date")+"\n"+scope+"\n"+digest([]byte(canonical)))) != m[4] {
		return refuse(403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
	}
	switch {
	case c.now().Sub(at).Abs() > 15*time.Minute:
		return refuse(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
	case r.Header.Get("x-oss-security-token") != who.token:
		return refuse(403, "InvalidSecurityToken", "The security token you provided is invalid.")
	case !who.ends.IsZero() && c.now().After(who.ends):
		return refuse(403, "SecurityTokenExpired", "The security token you provided has expired.")
	}
	return nil
}

// assume is AssumeRoleWithOIDC, which is not signed.
func (c *Cloud) assume(r *http.Request, body []byte) (map[string]any, *Failure) {
	form, err := url.ParseQuery(string(body))
	query := r.URL.Query()
	if f := c.admit("sts:AssumeRoleWithOIDC"); f != nil {
		return nil, f
	}
	at, bad := time.Parse("2006-01-02T15:04:05Z", query.Get("Timestamp"))
	switch {
	case err != nil || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || query.Get("Version") != "2015-04-01" || query.Get("Format") != "JSON" || query.Get("SignatureNonce") == "":
		return nil, refuse(400, "InvalidParameter", "the request is malformed")
	case bad != nil || c.now().Sub(at).Abs() > 15*time.Minute:
		return nil, refuse(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	case form.Get("RoleArn") != Role:
		return nil, refuse(404, "EntityNotExist.Role", "The role not exists: %s.", form.Get("RoleArn"))
	case form.Get("OIDCProviderArn") != IdentityProvider:
		return nil, refuse(404, "AuthenticationFail.NoPermission", "You are not authorized to do this action by %s.", form.Get("OIDCProviderArn"))
	case form.Get("RoleSessionName") == "" || form.Get("DurationSeconds") != "3600":
		return nil, refuse(400, "InvalidParameter.RoleSessionName", "session or duration are wrong")
	case form.Get("OIDCToken") == "expired":
		return nil, refuse(400, "AuthenticationFail.OIDCToken.Expired", "This JsonWebToken is expired.")
	case c.settings.IDToken == "" || form.Get("OIDCToken") != c.settings.IDToken:
		return nil, refuse(400, "AuthenticationFail.OIDCToken.Invalid", "The OIDC token is invalid.")
	}
	id := "STS." + c.id("k")
	s := session{secret: "secretOf" + id, token: "tokenOf" + id, arn: "acs:ram::" + c.settings.Account + ":assumed-role/debcloud/" + form.Get("RoleSessionName"), ends: c.now().Add(c.settings.Session)}
	c.sessions[id] = s
	return map[string]any{"Credentials": map[string]string{
		"AccessKeyId": id, "AccessKeySecret": s.secret, "SecurityToken": s.token, "Expiration": time.Now().Add(c.settings.Session).UTC().Format("2006-01-02T15:04:05Z"),
	}}, nil
}
