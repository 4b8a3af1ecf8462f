package awstest

import (
	"net/http"
	"strings"
	"time"
)

func (c *Cloud) sts(r *request) (reply, *Failure) {
	switch r.call.Action {
	case "GetCallerIdentity":
		account := c.now().Account
		return sendXML(http.StatusOK, el("GetCallerIdentityResponse", el("GetCallerIdentityResult",
			text("Arn", r.arn), text("UserId", "AIDADEBCLOUD"), text("Account", account)))), nil
	case "AssumeRoleWithWebIdentity":
		return c.assumeRole(r)
	}
	return nil, refuse("InvalidAction", "The action %s is not valid for this web service.", r.call.Action)
}

// assumeRole gives a session to whoever has the token.
func (c *Cloud) assumeRole(r *request) (reply, *Failure) {
	p := newParameters(r.form)
	role, name, token := p.need("RoleArn"), p.need("RoleSessionName"), p.need("WebIdentityToken")
	p.get("DurationSeconds")
	if f := p.done(); f != nil {
		return nil, f
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	account := "arn:" + c.settings.Partition + ":iam::" + c.settings.Account + ":role/"
	switch {
	case strings.HasPrefix(token, "expired"):
		return nil, refuse("ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time")
	case token != c.settings.WebIdentity || c.settings.WebIdentity == "":
		return nil, refuse("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider")
	case !strings.HasPrefix(role, account):
		return nil, &Failure{Status: 403, Code: "AccessDenied", Message: "Not authorized to perform sts:AssumeRoleWithWebIdentity"}
	}
	s := session{
		secret: newID("secret"), token: newID("token"), ends: time.Now().Add(c.settings.Session),
		arn: "assumed-role/" + strings.TrimPrefix(role, account) + "/" + name,
	}
	key := "ASIA" + strings.ToUpper(newID("key")[4:20])
	c.sessions[key] = s
	return sendXML(http.StatusOK, el("AssumeRoleWithWebIdentityResponse", el("AssumeRoleWithWebIdentityResult",
		el("Credentials", text("AccessKeyId", key), text("SecretAccessKey", s.secret), text("SessionToken", s.token),
			text("Expiration", s.ends.UTC().Format(time.RFC3339))),
		el("AssumedRoleUser", text("Arn", "arn:"+c.settings.Partition+":sts::"+c.settings.Account+":"+s.arn), text("AssumedRoleId", "AROA:"+name))))), nil
}
