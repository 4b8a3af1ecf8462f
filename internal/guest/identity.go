package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Identity is what makes one VM out of many that were booted, or restored, alike. What is zero stays as it is.
type Identity struct {
	Hostname  string    `json:"hostname,omitempty"`  // without domain
	MachineID string    `json:"machineID,omitempty"` // 32 hexadecimal digits (machine-id(5)); "uninitialized" is none
	Entropy   []byte    `json:"entropy,omitempty"`   // counts in full for the kernel's random numbers
	Time      time.Time `json:"time,omitzero"`       // sets the clock; not before the year 2020
}

// Global requests of the agent, and their payloads: for identity an Identity as JSON, answered with the reason where it
// is refused; none for ping.
const (
	IdentityRequest = "identity@cloud.debian.org"
	PingRequest     = "ping@cloud.debian.org"
)

// Identify gives a VM with the agent a new identity. Programs that run already may have remembered the old one.
func (s *SSH) Identify(ctx context.Context, id Identity) error {
	payload, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if err := s.request(ctx, IdentityRequest, payload); err != nil {
		return fmt.Errorf("give the guest its identity: %w", err)
	}
	return nil
}

// Ping asks whether the agent is alive, and waits for its answer as long as ctx lasts.
func (s *SSH) Ping(ctx context.Context) error {
	if err := s.request(ctx, PingRequest, nil); err != nil {
		return fmt.Errorf("the agent does not answer: %w", err)
	}
	return nil
}

func (s *SSH) request(ctx context.Context, kind string, payload []byte) error {
	done := make(chan error, 1)
	go func() {
		ok, reason, err := s.client.SendRequest(kind, true, payload)
		if err == nil && !ok {
			err = errors.New("refused")
			if len(reason) > 0 {
				err = errors.New(string(reason))
			}
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
