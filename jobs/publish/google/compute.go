package google

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// markLabel is on everything that debcloud made.
const markLabel = "debcloud"

// number is an int64, which Google's JSON has as a string.
type number int64

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	return json.Marshal(strconv.FormatInt(int64(n), 10))
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*n = number(v)
	return err
}

// computeImage is an Image of Compute Engine, as far as it matters here.
type computeImage struct {
	ID                number            `json:"id,omitempty"`
	Name              string            `json:"name"`
	Description       string            `json:"description,omitempty"`
	Family            string            `json:"family,omitempty"`
	Status            string            `json:"status,omitempty"`
	Architecture      string            `json:"architecture,omitempty"`
	DiskSizeGb        number            `json:"diskSizeGb,omitempty"`
	CreationTimestamp string            `json:"creationTimestamp,omitempty"`
	SelfLink          string            `json:"selfLink,omitempty"`
	Licenses          []string          `json:"licenses,omitempty"`
	StorageLocations  []string          `json:"storageLocations,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	GuestOsFeatures   []feature         `json:"guestOsFeatures,omitempty"`
	RawDisk           *rawDisk          `json:"rawDisk,omitempty"`
	Deprecated        *deprecation      `json:"deprecated,omitempty"`
}

type feature struct {
	Type string `json:"type"`
}

type rawDisk struct {
	ContainerType string `json:"containerType"`
	Source        string `json:"source"`
}

// deprecation is a DeprecationStatus; its times tell when a state was entered.
type deprecation struct {
	State       string `json:"state"` // ACTIVE, DEPRECATED, OBSOLETE
	Replacement string `json:"replacement,omitempty"`
	Deprecated  string `json:"deprecated,omitempty"` // RFC 3339
	Obsolete    string `json:"obsolete,omitempty"`
}

func (i *computeImage) ours() bool { return i.Labels[markLabel] == "yes" }

// state is "" for an image that is neither deprecated nor obsolete.
func (i *computeImage) state() string {
	if i.Deprecated == nil || i.Deprecated.State == "ACTIVE" {
		return ""
	}
	return i.Deprecated.State
}

// operation is a change that takes time. It can fail long after the request was accepted.
type operation struct {
	Name   string
	Status string
	Error  *struct {
		Errors []struct{ Code, Message string }
	}
	HTTPErrorStatusCode int
}

// do makes a change and waits for its end.
func (p *Publisher) do(ctx context.Context, doing, method, address string, query url.Values, in any) error {
	var op operation
	if err := p.call(ctx, method, address, query, in, &op); err != nil {
		return p.explain(doing, err)
	}
	done, err := p.patience.Until(ctx, p.patience.operation, func() (bool, error) {
		if op.Status == "DONE" {
			return true, nil
		}
		// Google holds this request back until the operation ends, two minutes at most.
		err := p.call(ctx, http.MethodPost, p.endpoint.compute+"/operations/"+op.Name+"/wait", nil, nil, &op)
		return op.Status == "DONE", err
	})
	if err != nil {
		return p.explain(doing, err)
	}
	if !done {
		return fault.WithHint(fault.Outsidef("%s: Google's operation %s is still %s after %s", doing, op.Name, op.Status, p.patience.operation),
			"run the same command again; gcloud compute operations describe %s --global --project %s says what holds it up", op.Name, p.project)
	}
	if op.Error == nil || len(op.Error.Errors) == 0 {
		return nil
	}
	first := op.Error.Errors[0]
	status := op.HTTPErrorStatusCode
	if strings.Contains(first.Code, "ALREADY_EXISTS") {
		status = http.StatusConflict
	}
	return p.explain(doing, &apiError{Status: status, Reason: first.Code, Message: first.Message})
}

// images lists all images of ours.
func (p *Publisher) images(ctx context.Context, filter string) ([]computeImage, error) {
	all, err := pages[computeImage](ctx, p, p.endpoint.compute+"/images", url.Values{"filter": {filter}, "maxResults": {"500"}})
	if err != nil {
		return nil, p.explain("list images", err)
	}
	return all, nil
}

// deprecate sets the state of an image.
func (p *Publisher) deprecate(ctx context.Context, name string, d deprecation) error {
	return p.do(ctx, "set image "+name+" to "+d.State, http.MethodPost, p.endpoint.compute+"/images/"+name+"/deprecate", nil, d)
}

// policy is an IAM policy. What is not understood here is kept as it is.
type policy map[string]json.RawMessage

type binding struct {
	Role      string          `json:"role"`
	Members   []string        `json:"members"`
	Condition json.RawMessage `json:"condition,omitempty"`
}

const (
	userRole = "roles/compute.imageUser"
	everyone = "allAuthenticatedUsers"
)

// policyOf reads the policy of an image.
func (p *Publisher) policyOf(ctx context.Context, name string) (policy, error) {
	var there policy
	// Version 3 shows bindings with conditions; an older one would lose them.
	err := p.call(ctx, http.MethodGet, p.endpoint.compute+"/images/"+name+"/getIamPolicy", url.Values{"optionsRequestedPolicyVersion": {"3"}}, nil, &there)
	if err != nil {
		return nil, p.explain("read the policy of image "+name, err)
	}
	return there, nil
}

// isPublic tells whether everyone has the right to use an image.
func (p *Publisher) isPublic(ctx context.Context, name string) (bool, error) {
	there, err := p.policyOf(ctx, name)
	if err != nil {
		return false, err
	}
	_, changes, err := there.with(true)
	return !changes, err
}

// setPublic gives everyone the right to use an image, or takes it, and leaves the rest of the policy alone. It tells whether the policy
// was another one before.
func (p *Publisher) setPublic(ctx context.Context, name string, public bool) (changed bool, err error) {
	address := p.endpoint.compute + "/images/" + name
	for range tries {
		there, err := p.policyOf(ctx, name)
		if !public && isStatus(err, http.StatusNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		wanted, changes, err := there.with(public)
		if err != nil || !changes {
			return changed, err
		}
		changed = true
		err = p.call(ctx, http.MethodPost, address+"/setIamPolicy", nil, map[string]any{"policy": wanted}, nil)
		if err == nil {
			return true, nil
		}
		if !isStatus(err, http.StatusConflict, http.StatusPreconditionFailed) { // someone else changed it meanwhile
			return true, p.explain("make image "+name+" public", err)
		}
		if err := pause.For(ctx, p.patience.Poll); err != nil {
			return true, err
		}
	}
	return changed, fault.Outsidef("the policy of image %s is changed by others all the time", name)
}

// with returns the policy with or without everyone's right, and whether that is another one.
func (there policy) with(public bool) (policy, bool, error) {
	var bindings []json.RawMessage
	if there["bindings"] != nil {
		if err := json.Unmarshal(there["bindings"], &bindings); err != nil {
			return nil, false, fault.Outsidef("the policy has no bindings that can be read: %w", err)
		}
	}
	changes := public
	for i := 0; i < len(bindings); i++ {
		var b binding
		if err := json.Unmarshal(bindings[i], &b); err != nil {
			return nil, false, fault.Outsidef("the policy has a binding that cannot be read: %w", err)
		}
		if b.Role != userRole || len(b.Condition) > 0 {
			continue
		}
		var others []string
		for _, m := range b.Members {
			if m != everyone {
				others = append(others, m)
			}
		}
		if len(others) == len(b.Members) {
			continue
		}
		if public {
			return there, false, nil
		}
		changes = true
		if bindings = append(bindings[:i:i], bindings[i+1:]...); len(others) > 0 {
			b.Members = others
			text, _ := json.Marshal(b) // strings only
			bindings = append(bindings, text)
		}
		i--
	}
	if !changes {
		return there, false, nil
	}
	if public {
		text, _ := json.Marshal(binding{Role: userRole, Members: []string{everyone}})
		bindings = append(bindings, text)
	}
	out := policy{}
	for k, v := range there {
		out[k] = v
	}
	text, err := json.Marshal(bindings)
	out["bindings"] = text
	return out, true, err
}

func parseTime(text string) time.Time {
	t, _ := time.Parse(time.RFC3339, text) // zero: unknown
	return t
}
