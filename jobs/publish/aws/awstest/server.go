package awstest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// request is one HTTP request on its way through the cloud.
type request struct {
	*http.Request
	body []byte
	form url.Values // of query protocols
	call Call
	arn  string // of the principal
}

// largest body that is accepted, bytes: a block and some.
const maxBody = 1 << 20

// ServeHTTP answers one call of any service. The service and region are those that the signature is for.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	body, done, err := publishtest.Body(hr, maxBody)
	defer done()
	if err != nil {
		return
	}
	r := &request{Request: hr, body: body}
	r.call.N = int(c.served.Add(1))
	c.stamp(w)
	answer, failure := c.serve(r)
	c.finish(r)
	if failure != nil {
		writeFailure(w, r, failure)
		return
	}
	answer(w)
}

// reply writes the answer to a call that was done.
type reply func(http.ResponseWriter)

func (c *Cloud) serve(r *request) (reply, *Failure) {
	if latency := c.now().Latency; latency > 0 {
		select {
		case <-time.After(latency):
		case <-r.Context().Done():
		}
	}
	if f := c.identify(r); f != nil {
		return nil, f
	}
	if f := c.admit(r); f != nil {
		return nil, f
	}
	switch r.call.Service {
	case "ec2":
		return c.ec2(r)
	case "ebs":
		return c.ebs(r)
	case "ssm":
		return c.ssm(r)
	case "sts":
		return c.sts(r)
	}
	return nil, refuse("UnknownService", "no service %q", r.call.Service)
}

// now returns the settings of this moment.
func (c *Cloud) now() Settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings
}

// stamp gives the answer the cloud's time, by which clients correct their own.
func (c *Cloud) stamp(w http.ResponseWriter) {
	s := c.now()
	w.Header()["Date"] = nil
	if !s.NoDate {
		w.Header().Set("Date", time.Now().Add(s.Skew).UTC().Format(http.TimeFormat))
	}
}

// admit refuses calls that come too fast, are not allowed, go to a region that is not enabled, or that a test wants refused.
func (c *Cloud) admit(r *request) *Failure {
	c.mu.Lock()
	s, before := c.settings, c.before
	if r.call.Action != "PutSnapshotBlock" {
		c.calls = append(c.calls, r.call)
	}
	c.mu.Unlock()
	if s.TooFast > 0 && r.call.N%s.TooFast == 0 {
		return tooFast(r.call.Service)
	}
	if before != nil {
		if f := before(r.call); f != nil {
			return f
		}
	}
	if r.call.Service != "sts" && !slices.Contains(s.Regions, r.call.Region) {
		return &Failure{Status: 401, Code: "AuthFailure", Message: "AWS was not able to validate the provided access credentials"}
	}
	if slices.Contains(s.Denied, r.call.Service+":"+r.call.Action) {
		return denied(r)
	}
	if s.Policy != nil && r.call.Service != "sts" {
		return c.authorize(r, s.Policy)
	}
	return nil
}

func (c *Cloud) finish(r *request) {
	c.mu.Lock()
	after := c.after
	c.mu.Unlock()
	if after != nil {
		after(r.call)
	}
}

func tooFast(service string) *Failure {
	switch service {
	case "ec2":
		return &Failure{Status: 503, Code: "RequestLimitExceeded", Message: "Request limit exceeded."}
	case "ebs":
		return refuse("RequestThrottledException", "The number of API requests has exceeded the maximum allowed.")
	}
	return refuse("ThrottlingException", "Rate exceeded")
}

func denied(r *request) *Failure {
	if r.call.Service == "ec2" {
		return &Failure{Status: 403, Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation. User: " + r.arn + " is not authorized to perform: ec2:" + r.call.Action}
	}
	return &Failure{Status: 400, Code: "AccessDeniedException", Message: "User: " + r.arn + " is not authorized to perform: " + r.call.Service + ":" + r.call.Action}
}

// element is a node of an XML answer.
type element struct {
	name, text string
	kids       []element
}

func el(name string, kids ...element) element { return element{name: name, kids: kids} }
func text(name, value string) element         { return element{name: name, text: value} }
func flag(name string, value bool) element    { return text(name, strconv.FormatBool(value)) }

// optional is nothing where value is "".
func optional(kids []element, name, value string) []element {
	if value == "" {
		return kids
	}
	return append(kids, text(name, value))
}

func (e element) write(b *bytes.Buffer) {
	b.WriteString("<" + e.name + ">")
	xml.EscapeText(b, []byte(e.text))
	for _, k := range e.kids {
		k.write(b)
	}
	b.WriteString("</" + strings.Fields(e.name)[0] + ">")
}

func sendXML(status int, root element) reply {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	root.write(&b)
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		w.WriteHeader(status)
		w.Write(b.Bytes())
	}
}

func sendJSON(status int, v any) reply {
	b, err := json.Marshal(v)
	return func(w http.ResponseWriter) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		w.Write(b)
	}
}

// writeFailure refuses in the words of the call's protocol.
func writeFailure(w http.ResponseWriter, r *request, f *Failure) {
	status := f.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	said := []element{text("Code", f.Code), text("Message", f.Message)}
	switch r.call.Service {
	case "ebs", "ssm":
		w.Header().Set("X-Amzn-ErrorType", f.Code)
		sendJSON(status, map[string]string{"__type": f.Code, "message": f.Message, "Message": f.Message})(w)
	case "sts":
		sendXML(status, el("ErrorResponse", el("Error", append([]element{text("Type", "Sender")}, said...)...), text("RequestId", "double")))(w)
	default:
		sendXML(status, el("Response", el("Errors", el("Error", said...)), text("RequestID", "double")))(w)
	}
}
