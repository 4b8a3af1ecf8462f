package awstest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Parameter is a parameter of SSM's parameter store.
type Parameter struct {
	Value, DataType, Description string
	Version                      int
	Changed                      time.Time
	hidden                       int
	before                       string // the value that is still read while hidden > 0
}

// parameterName finds the name that a request is about.
func parameterName(body []byte) string {
	var in struct {
		Name  string
		Names []string
	}
	json.Unmarshal(body, &in)
	return in.Name + strings.Join(in.Names, ",")
}

func decode(r *request, into any) *Failure {
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return &Failure{Code: "ValidationException", Message: err.Error()}
	}
	return nil
}

func (c *Cloud) ssm(r *request) (reply, *Failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reg := c.region(r.call.Region)
	switch r.call.Action {
	case "PutParameter":
		return c.putParameter(r, reg)
	case "GetParameter":
		return c.getParameter(r, reg)
	case "GetParametersByPath":
		return c.parametersByPath(r, reg)
	case "DeleteParameter":
		return c.deleteParameter(r, reg)
	}
	return nil, refuse("UnknownOperationException", "%s", r.call.Action)
}

var parameterForm = regexp.MustCompile(`^(/[A-Za-z0-9_.-]+){1,15}$`)

func (c *Cloud) putParameter(r *request, reg *region) (reply, *Failure) {
	var in struct {
		Name, Value, Type, DataType, Description, Tier string
		Overwrite                                      bool
	}
	if f := decode(r, &in); f != nil {
		return nil, f
	}
	lower := strings.ToLower(strings.TrimPrefix(in.Name, "/"))
	switch {
	case !parameterForm.MatchString(in.Name) || strings.HasPrefix(lower, "aws") || strings.HasPrefix(lower, "ssm"):
		return nil, refuse("ValidationException", "Parameter name: can't be prefixed with \"aws\" or \"ssm\" (case-insensitive), must be a fully qualified name: %s", in.Name)
	case in.Value == "" || len(in.Value) > 4096:
		return nil, refuse("ValidationException", "value of %d bytes", len(in.Value))
	case in.Type != "String" && in.Type != "":
		return nil, refuse("UnsupportedParameterType", "data type aws:ec2:image needs type String")
	case in.DataType != "" && in.DataType != "text" && in.DataType != "aws:ec2:image":
		return nil, refuse("ValidationException", "data type %s", in.DataType)
	}
	old := reg.parameters[in.Name]
	if old != nil && !in.Overwrite {
		return nil, refuse("ParameterAlreadyExists", "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
	}
	if old == nil && in.Type == "" {
		return nil, refuse("ValidationException", "A parameter type is required when you create a parameter.")
	}
	p := &Parameter{Value: in.Value, DataType: in.DataType, Description: in.Description, Version: 1, Changed: c.settings.Now(), hidden: c.settings.Hidden}
	if old != nil {
		p.Version, p.before = old.Version+1, old.Value
	}
	answer := sendJSON(http.StatusOK, map[string]any{"Version": p.Version, "Tier": "Standard"})
	// The real one looks at the image later; a value that is no image then never becomes the parameter's.
	if i := reg.images[in.Value]; in.DataType == "aws:ec2:image" && (i == nil || i.State != "available") {
		return answer, nil
	}
	reg.parameters[in.Name] = p
	return answer, nil
}

// read returns the value that is seen now, "" for none.
func (p *Parameter) read() string {
	if p.hidden > 0 {
		p.hidden--
		return p.before
	}
	return p.Value
}

func (p *Parameter) describe(name, value string) map[string]any {
	return map[string]any{"Name": name, "Type": "String", "Value": value, "Version": p.Version, "DataType": p.DataType, "LastModifiedDate": float64(p.Changed.Unix())}
}

func (c *Cloud) getParameter(r *request, reg *region) (reply, *Failure) {
	var in struct {
		Name           string
		WithDecryption bool
	}
	if f := decode(r, &in); f != nil {
		return nil, f
	}
	p := reg.parameters[in.Name]
	if p == nil {
		return nil, refuse("ParameterNotFound", "")
	}
	value := p.read()
	if value == "" {
		return nil, refuse("ParameterNotFound", "")
	}
	return sendJSON(http.StatusOK, map[string]any{"Parameter": p.describe(in.Name, value)}), nil
}

func (c *Cloud) parametersByPath(r *request, reg *region) (reply, *Failure) {
	var in struct {
		Path, NextToken           string
		Recursive, WithDecryption bool
		MaxResults                int
	}
	if f := decode(r, &in); f != nil {
		return nil, f
	}
	if in.MaxResults > 10 {
		return nil, refuse("ValidationException", "maxResults is at most 10")
	}
	list := []map[string]any{}
	for name, p := range reg.parameters {
		rest, ok := strings.CutPrefix(name, strings.TrimSuffix(in.Path, "/")+"/")
		if !ok || !in.Recursive && strings.Contains(rest, "/") {
			continue
		}
		if value := p.read(); value != "" {
			list = append(list, p.describe(name, value))
		}
	}
	return sendPage(list, in.NextToken, in.MaxResults)
}

// sendPage answers with ten parameters, or fewer where fewer were asked for.
func sendPage(list []map[string]any, token string, size int) (reply, *Failure) {
	sortByName(list)
	for len(list) > 0 && token != "" && list[0]["Name"].(string) < token {
		list = list[1:]
	}
	if size == 0 {
		size = 10
	}
	answer := map[string]any{"Parameters": list}
	if len(list) > size {
		answer = map[string]any{"Parameters": list[:size], "NextToken": list[size]["Name"]}
	}
	return sendJSON(http.StatusOK, answer), nil
}

func (c *Cloud) deleteParameter(r *request, reg *region) (reply, *Failure) {
	var in struct{ Name string }
	if f := decode(r, &in); f != nil {
		return nil, f
	}
	if reg.parameters[in.Name] == nil {
		return nil, refuse("ParameterNotFound", "")
	}
	delete(reg.parameters, in.Name)
	return sendJSON(http.StatusOK, map[string]any{}), nil
}

func sortByName(list []map[string]any) {
	slices.SortFunc(list, func(a, b map[string]any) int { return strings.Compare(a["Name"].(string), b["Name"].(string)) })
}
