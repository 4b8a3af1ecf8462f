// Package alibabatest is a strict double of the part of Alibaba Cloud that publishing images uses: ECS, STS and one bucket of OSS, over HTTP on
// loopback.
//
// It refuses what the real one refuses: parameters that an action does not know or lacks, signatures, nonces and clocks that are off, parts in the wrong
// order or with another ETag, objects that are no qcow2 image, names that are taken, copies of community images, a bucket in another region, an account
// without the role or the agreement. It is slow in the ways of the real one when told so: what was made just now is not shown, images are pending,
// calls come too fast.
//
// Sources: the API references of ECS (2014-05-26), STS (2015-04-01) and OSS, with the error codes that stand there, and "Request syntax and signature
// method V3".
package alibabatest

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Settings say how the cloud behaves. The zero value of each field is the friendliest.
type Settings struct {
	Account       string        // "" means 1234567890123456
	Regions       []string      // nil means ap-southeast-1
	Bucket        string        // "" means debian-images
	BucketRegion  string        // "" means the first region
	Pending       int           // how many times an image is described as being made before it is done
	Hidden        int           // how many looks at a new image find nothing
	Untagged      int           // how many looks at a new image find it without its tags
	TooFast       int           // every n-th call of ECS is refused as too fast; 0 means none
	Images        int           // quota of images a region; 0 means no limit
	Denied        []string      // actions that the principal has no right to, as "ecs:CopyImage"
	Skew          time.Duration // what the cloud's clock is ahead of ours
	IDToken       string        // the one token that AssumeRoleWithOIDC accepts
	Session       time.Duration // how long a session of AssumeRoleWithOIDC lasts; 0 means an hour
	NoRole        bool          // ECS may not read the bucket
	NoAgreement   bool          // the account has not signed the agreement about community images
	NoPublic      []string      // regions without community images
	NoCopy        []string      // regions to which nothing is copied
	FailImports   int           // so many imports are given up
	FailCopies    int           // so many copies are given up
	OneCopy       bool          // an image is copied to one region at a time
	PublicIsShare bool          // community images cannot be deprecated
	Forgetful     bool          // copies lose boot mode and NVMe support
	Damage        bool          // objects are not what was sent
	DamageParts   int           // so many parts do not arrive as they were sent
	Discard       bool          // parts are checked and counted, not kept, and images are not looked at
}

// The access key that the cloud knows, and what AssumeRoleWithOIDC wants.
const (
	KeyID            = "LTAIDebcloudTest00000001"
	Secret           = "notASecretButThirtyCharacters0"
	Role             = "acs:ram::1234567890123456:role/debcloud"
	IdentityProvider = "acs:ram::1234567890123456:oidc-provider/gitlab"
)

// Cloud is a running double. Its methods may be called while it serves.
type Cloud struct {
	server *httptest.Server

	mu       sync.Mutex
	settings Settings
	regions  map[string]*region
	bucket   bucket
	sessions map[string]session // by access key ID
	nonces   map[string]bool
	served   int // calls of ECS
	made     int // identifiers
	before   func(call string) *Failure
	calls    []string
}

type session struct {
	secret, token, arn string
	ends               time.Time // zero: never
}

// region holds what one region has.
type region struct {
	images    map[string]*Image
	snapshots map[string]*Snapshot
	tokens    map[string]idempotent // by action and client token
}

// idempotent is the answer to a client token, and what was asked with it.
type idempotent struct{ asked, id string }

// Image is an image of a region.
type Image struct {
	ID, Name, Family, Description, Architecture, BootMode, Nvme, Imds, Status string

	Public   bool
	Shared   bool // with single accounts
	Used     bool // by an instance of the account
	Size     int  // GiB
	Tags     map[string]string
	Snapshot string
	Created  time.Time
	Disk     string // digest of the raw disk
	Copied   bool

	pending, hidden, untagged int
	fails, given              bool
	from                      string // what it is copied from
}

// Snapshot is what an image is made of.
type Snapshot struct {
	ID      string
	Tags    map[string]string
	Size    int // GiB
	Created time.Time
}

// Failure is an answer that refuses a call.
type Failure struct {
	Status  int // HTTP; 0 means 400
	Code    string
	Message string
}

func refuse(status int, code, format string, args ...any) *Failure {
	return &Failure{status, code, fmt.Sprintf(format, args...)}
}

// New starts a cloud; the caller closes it.
func New(s Settings) *Cloud {
	if s.Regions == nil {
		s.Regions = []string{"ap-southeast-1"}
	}
	s.Account, s.Bucket, s.BucketRegion = cmp.Or(s.Account, "1234567890123456"), cmp.Or(s.Bucket, "debian-images"), cmp.Or(s.BucketRegion, s.Regions[0])
	s.Session = cmp.Or(s.Session, time.Hour)
	c := &Cloud{settings: s, regions: map[string]*region{}, sessions: map[string]session{KeyID: {secret: Secret, arn: "acs:ram::" + s.Account + ":user/publisher"}}, nonces: map[string]bool{}}
	for _, name := range s.Regions {
		c.regions[name] = &region{images: map[string]*Image{}, snapshots: map[string]*Snapshot{}, tokens: map[string]idempotent{}}
	}
	c.bucket = bucket{objects: map[string]*Object{}, uploads: map[string]*Upload{}}
	c.server = httptest.NewServer(c)
	return c
}

// Close ends the cloud.
func (c *Cloud) Close() { c.server.Close() }

// Transport leads every request to the cloud, whatever its host is, without TLS.
func (c *Cloud) Transport() http.RoundTripper { return Transport(c.URL()) }

// URL is where the cloud listens.
func (c *Cloud) URL() string { return c.server.URL }

// Transport is that of the cloud which listens at an address, for those in another process.
func Transport(address string) http.RoundTripper {
	own := http.DefaultTransport.(*http.Transport).Clone()
	own.MaxIdleConnsPerHost = 32
	to, err := url.Parse(address)
	if err != nil {
		panic(err) // the URL is httptest's
	}
	return transport{own, to.Host}
}

type transport struct {
	next http.RoundTripper
	to   string
}

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.Host = r.URL.Host
	out.URL.Scheme, out.URL.Host = "http", t.to
	response, err := t.next.RoundTrip(out)
	if response != nil {
		response.Request = r
	}
	return response, err
}

// Change changes how the cloud behaves.
func (c *Cloud) Change(change func(*Settings)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.settings)
}

// Before has f look at every call, as "ecs:ImportImage ap-southeast-1", before it is done; what f returns is the answer.
func (c *Cloud) Before(f func(call string) *Failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = f
}

// Calls returns all calls so far, in their order.
func (c *Cloud) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// Reset forgets everything that was made.
func (c *Cloud) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.regions {
		clear(r.images)
		clear(r.snapshots)
		clear(r.tokens)
	}
	clear(c.bucket.objects)
	clear(c.bucket.uploads)
}

// Images returns copies of a region's images, by name.
func (c *Cloud) Images(name string) []Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Image
	for _, i := range c.regions[name].images {
		one := *i
		one.Tags = maps.Clone(i.Tags)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Image) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return all
}

// Snapshots returns copies of a region's snapshots, by identifier.
func (c *Cloud) Snapshots(name string) []Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Snapshot
	for _, s := range c.regions[name].snapshots {
		one := *s
		one.Tags = maps.Clone(s.Tags)
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Snapshot) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// ChangeImage changes an image by someone's hand; nil removes it.
func (c *Cloud) ChangeImage(name, id string, change func(*Image)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if change == nil {
		delete(c.regions[name].images, id)
		return
	}
	change(c.regions[name].images[id])
}

// AddImage adds someone's image.
func (c *Cloud) AddImage(name string, i Image) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	i.ID, i.Created = c.id("m"), c.now()
	if i.Tags == nil {
		i.Tags = map[string]string{}
	}
	c.regions[name].images[i.ID] = &i
	return i.ID
}

// RemoveRegion closes a region.
func (c *Cloud) RemoveRegion(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.regions, name)
}

func (c *Cloud) id(kind string) string {
	c.made++
	return fmt.Sprintf("%s-bp1%017d", kind, c.made)
}

func (c *Cloud) now() time.Time { return time.Now().Add(c.settings.Skew).UTC() }

// RemoveSnapshot removes a snapshot by someone's hand.
func (c *Cloud) RemoveSnapshot(name, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.regions[name].snapshots, id)
}
