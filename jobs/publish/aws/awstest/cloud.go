// Package awstest is a strict double of the part of AWS that publishing images uses: EC2, EBS direct, SSM parameters and
// STS, over HTTP on loopback.
//
// It refuses what the real one refuses: parameters that a call does not know, signatures and clocks that are off, blocks whose
// digest is not theirs, images of snapshots that are not complete, names that are taken, shares that the account blocks. It is
// slow in the ways of the real one when told so: what was made just now is not found, images are pending, calls come too fast.
//
// Sources: the API references of EC2 (2016-11-15), EBS direct (2019-11-02), SSM (2014-11-06) and STS (2011-06-15), and "Signature
// Version 4" in the IAM user guide.
package awstest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Settings say how the cloud behaves. The zero value of each field is the friendliest.
type Settings struct {
	Account      string        // "" means 123456789012
	Partition    string        // "" means aws
	Regions      []string      // enabled for the account; nil means us-east-1
	NotOptedIn   []string      // known, but not enabled for the account
	Pending      int           // how many times an image or snapshot is described as pending before it is done
	Hidden       int           // how many reads of a new image, snapshot or parameter find nothing
	TooFast      int           // every n-th request is refused as too fast; 0 means none
	PublicImages int           // quota of public images a region; 0 means no limit
	Snapshots    int           // quota of snapshots a region; 0 means no limit
	Denied       []string      // calls that the principal has no right to, as "ec2:CopyImage"
	Policy       *Policy       // what the principal has a right to; nil means everything
	Skew         time.Duration // what the cloud's clock is ahead of ours
	NoDate       bool          // answers carry no time of the cloud
	Latency      time.Duration // of each call
	Discard      bool          // blocks are checked and counted, not kept
	WebIdentity  string        // the one token that AssumeRoleWithWebIdentity accepts
	Session      time.Duration // how long a session of AssumeRoleWithWebIdentity lasts; 0 means an hour
	Now          func() time.Time
}

// Key is a long-lived access key that the cloud knows.
const (
	KeyID  = "AKIADEBCLOUDTEST0001"
	Secret = "debcloud/not+a+secret/0123456789abcdefgh"
)

// Call is one request that passed the signature check.
type Call struct {
	N       int // from 1
	Service string
	Region  string
	Action  string
	Target  string // the image, snapshot, block or parameter that it is about, as far as the request names one
}

func (c Call) String() string {
	return fmt.Sprintf("%s:%s %s %s", c.Service, c.Action, c.Region, c.Target)
}

// Failure is an answer that refuses a call.
type Failure struct {
	Status  int // HTTP; 0 means 400
	Code    string
	Message string
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

func refuse(code, format string, args ...any) *Failure {
	return &Failure{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Cloud is a running double. Its methods may be called while it serves.
type Cloud struct {
	URL string

	server *httptest.Server
	served atomic.Int64

	mu       sync.Mutex
	settings Settings
	before   func(Call) *Failure
	after    func(Call)
	regions  map[string]*region
	sessions map[string]session // by access key ID
	calls    []Call
	blocks   blockCount
}

type session struct {
	secret, token, arn string
	ends               time.Time
}

// region holds what one region has.
type region struct {
	name       string
	images     map[string]*Image
	snapshots  map[string]*Snapshot
	parameters map[string]*Parameter
	tokens     map[string]idempotent // by call and client token
	imageBlock string                // unblocked, block-new-sharing
	snapBlock  string                // unblocked, block-new-sharing, block-all-sharing
	unblocking int                   // reads until an unblocked state shows
}

// idempotent is the answer to a client token, and what was asked with it.
type idempotent struct{ asked, id string }

// New starts a cloud; the caller closes it.
func New(s Settings) *Cloud {
	c := &Cloud{settings: withDefaults(s), regions: map[string]*region{}, sessions: map[string]session{}}
	c.sessions[KeyID] = session{secret: Secret, arn: "user/publisher"}
	c.server = httptest.NewServer(c)
	c.URL = c.server.URL
	return c
}

func withDefaults(s Settings) Settings {
	if s.Account == "" {
		s.Account = "123456789012"
	}
	if s.Partition == "" {
		s.Partition = "aws"
	}
	if s.Regions == nil {
		s.Regions = []string{"us-east-1"}
	}
	if s.Session == 0 {
		s.Session = time.Hour
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	return s
}

// Close ends the cloud.
func (c *Cloud) Close() {
	c.server.CloseClientConnections()
	c.server.Close()
}

// Set changes the settings.
func (c *Cloud) Set(change func(*Settings)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.settings)
	c.settings = withDefaults(c.settings)
}

// Before has every call shown to look before it is done; a Failure that look returns is the answer.
func (c *Cloud) Before(look func(Call) *Failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = look
}

// After has every call shown to look after it was done and before it is answered.
func (c *Cloud) After(look func(Call)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = look
}

// Calls returns all calls so far, but for PutSnapshotBlock, of which Blocks tells.
func (c *Cloud) Calls() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// Forget empties the list that Calls returns.
func (c *Cloud) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = nil
}

// Reset empties all regions.
func (c *Cloud) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.regions, c.calls = map[string]*region{}, nil
}

// Count returns how many calls of the action there were.
func (c *Cloud) Count(action string) int {
	n := 0
	for _, call := range c.Calls() {
		if call.Action == action {
			n++
		}
	}
	return n
}

func (c *Cloud) region(name string) *region {
	r := c.regions[name]
	if r == nil {
		r = &region{
			name: name, images: map[string]*Image{}, snapshots: map[string]*Snapshot{}, parameters: map[string]*Parameter{},
			tokens: map[string]idempotent{}, imageBlock: "unblocked", snapBlock: "unblocked",
		}
		c.regions[name] = r
	}
	return r
}

// Block sets a region's "block public access" for images and for snapshots; "" leaves one as it is.
func (c *Cloud) Block(name, images, snapshots string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.region(name)
	if images != "" {
		r.imageBlock = images
	}
	if snapshots != "" {
		r.snapBlock = snapshots
	}
}

// Images returns copies of the region's images, in the order of their creation.
func (c *Cloud) Images(name string) []Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Image
	for _, i := range sorted(c.region(name).images, func(a, b *Image) int { return a.serial - b.serial }) {
		v := *i
		v.Tags = maps.Clone(i.Tags)
		out = append(out, v)
	}
	return out
}

// Snapshots returns copies of the region's snapshots, in the order of their creation.
func (c *Cloud) Snapshots(name string) []Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Snapshot
	for _, s := range sorted(c.region(name).snapshots, func(a, b *Snapshot) int { return a.serial - b.serial }) {
		v := *s
		v.Tags = maps.Clone(s.Tags)
		out = append(out, v)
	}
	return out
}

// Parameters returns the region's parameters by name.
func (c *Cloud) Parameters(name string) map[string]Parameter {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]Parameter{}
	for k, v := range c.region(name).parameters {
		out[k] = *v
	}
	return out
}

// SetParameter sets a parameter behind the publisher's back.
func (c *Cloud) SetParameter(name, parameter, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.region(name).parameters[parameter] = &Parameter{Value: value, DataType: "aws:ec2:image", Version: 1, Changed: c.settings.Now()}
}

// ChangeImage changes an image behind the publisher's back.
func (c *Cloud) ChangeImage(name, id string, change func(*Image)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.region(name).images[id])
}

// ChangeSnapshot changes a snapshot behind the publisher's back.
func (c *Cloud) ChangeSnapshot(name, id string, change func(*Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c.region(name).snapshots[id])
}

// AddImage puts an image with a snapshot of its own into a region, as if made at some other time. It fills in the identifiers.
func (c *Cloud) AddImage(name string, i Image) Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.region(name)
	s := &Snapshot{ID: newID("snap"), State: "completed", SizeGB: 8, Tags: maps.Clone(i.Tags), Started: i.Created, serial: c.next()}
	r.snapshots[s.ID] = s
	i.ID, i.SnapshotID, i.State, i.serial = newID("ami"), s.ID, "available", c.next()
	if i.Owner == "" {
		i.Owner = c.settings.Account
	}
	r.images[i.ID] = &i
	return i
}

var serials atomic.Int64

func (c *Cloud) next() int { return int(serials.Add(1)) }

func newID(kind string) string {
	var b [9]byte
	rand.Read(b[:])
	return kind + "-" + hex.EncodeToString(b[:])[:17]
}

func sorted[T any](m map[string]*T, by func(a, b *T) int) []*T {
	return slices.SortedFunc(maps.Values(m), by)
}
