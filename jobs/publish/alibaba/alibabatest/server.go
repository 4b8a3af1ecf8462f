package alibabatest

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// largest body that is accepted, bytes: a part of 16 MiB and some.
const maxBody = 64 << 20

var hosts = regexp.MustCompile(`^(?:(ecs|sts)\.|([a-z0-9-]+)\.oss-)([a-z0-9-]+)\.aliyuncs\.com$`)

// ServeHTTP answers one call of any service, which the host names.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, done, err := publishtest.Body(r, maxBody)
	if c.settings.Discard {
		defer done()
	}
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Date", c.now().Format(http.TimeFormat))
	host := hosts.FindStringSubmatch(r.Host)
	switch {
	case host == nil:
		http.Error(w, "no such host: "+r.Host, http.StatusNotFound)
	case host[1] != "":
		answer, failure := c.rpc(r, body, host[1], host[3])
		writeJSON(w, answer, failure)
	default:
		c.store(w, r, body, host[2], host[3])
	}
}

func writeJSON(w http.ResponseWriter, answer map[string]any, f *Failure) {
	w.Header().Set("Content-Type", "application/json")
	if f != nil {
		if f.Status == 0 {
			f.Status = http.StatusBadRequest
		}
		w.WriteHeader(f.Status)
		answer = map[string]any{"Code": f.Code, "Message": f.Message, "HostId": "double", "Recommend": "https://api.example/"}
	}
	answer["RequestId"] = "473469C7-AA6F-4DC5-B3DB-A3DC0DE3C83E"
	_ = json.NewEncoder(w).Encode(answer) // whoever asked may be gone
}

func writeXML(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_ = xml.NewEncoder(w).Encode(answer)
}

// rpc answers a call of ECS or STS.
func (c *Cloud) rpc(r *http.Request, body []byte, service, at string) (map[string]any, *Failure) {
	if service == "sts" && r.URL.Query().Get("Action") == "AssumeRoleWithOIDC" {
		return c.assume(r, body)
	}
	who, f := c.identify(r, body)
	if f != nil {
		return nil, f
	}
	action := r.Header.Get("x-acs-action")
	if f := c.admit(service + ":" + action + " " + at); f != nil {
		return nil, f
	}
	if service == "sts" {
		if action != "GetCallerIdentity" || r.Header.Get("x-acs-version") != "2015-04-01" {
			return nil, refuse(404, "InvalidAction.NotFound", "Specified api is not found: %s", action)
		}
		return map[string]any{"AccountId": c.settings.Account, "Arn": who.arn, "IdentityType": "RAMUser"}, nil
	}
	return c.ecs(r, action, at)
}

// admit refuses what the principal may not do, what comes too fast, and what the test says.
func (c *Cloud) admit(call string) *Failure {
	c.calls = append(c.calls, call)
	if c.before != nil {
		if f := c.before(call); f != nil {
			return f
		}
	}
	name, _, _ := strings.Cut(call, " ")
	if slices.Contains(c.settings.Denied, name) {
		if strings.HasPrefix(name, "oss:") {
			return refuse(403, "AccessDenied", "You have no right to access this object because of bucket acl.")
		}
		return refuse(403, "Forbidden.RAM", "User not authorized to operate on the specified resource, or this API doesn't support RAM.")
	}
	if !strings.HasPrefix(name, "ecs:") {
		return nil
	}
	if c.served++; c.settings.TooFast > 0 && c.served%c.settings.TooFast == 0 {
		return refuse(400, "Throttling.User", "Request was denied due to user flow control.")
	}
	return nil
}
