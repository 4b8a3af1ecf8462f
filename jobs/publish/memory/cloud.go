package memory

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
)

// blockSize is the unit, in bytes, in which snapshots are written.
const blockSize = 64 << 10

// Cloud is one account of a cloud that lives in the process. It refuses what real ones refuse: names that are taken, blocks
// with a wrong checksum, snapshots that are used before they are complete, the removal of what is in use.
type Cloud struct {
	Now func() time.Time // time.Now where it is nil

	mu       sync.Mutex
	last     int // identifiers are numbered
	items    map[string]*thing
	families map[string]string // region and family → image that "latest" leads to
}

// thing is an Item and what it consists of.
type thing struct {
	holding.Item
	digest string // tag
	token  string // client token, of a snapshot
	blocks map[int64][]byte
	ready  bool
}

// NewCloud returns an empty account.
func NewCloud() *Cloud { return &Cloud{items: map[string]*thing{}, families: map[string]string{}} }

func (c *Cloud) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// add gives a thing its identifier and age.
func (c *Cloud) add(prefix string, t *thing) string {
	c.last++
	t.ID, t.Created, t.Since, t.State = fmt.Sprintf("%s-%06d", prefix, c.last), c.now(), c.now(), holding.Current
	t.Provider, t.Ours = provider, true
	c.items[t.ID] = t
	return t.ID
}

func (c *Cloud) get(id string) (*thing, error) {
	t := c.items[id]
	if t == nil {
		return nil, fault.Inputf("there is no %s", id)
	}
	return t, nil
}

// startSnapshot begins a snapshot; the same token gives the same one.
func (c *Cloud) startSnapshot(token, digest string, it holding.Item) (string, error) {
	for id, t := range c.items {
		if t.token == token {
			return id, nil
		}
	}
	it.Kind = holding.Snapshot
	return c.add("snap", &thing{Item: it, digest: digest, token: token, blocks: map[int64][]byte{}}), nil
}

func (c *Cloud) putBlock(id string, index int64, data []byte, sum [sha256.Size]byte) error {
	t, err := c.get(id)
	switch {
	case err != nil:
		return err
	case t.ready:
		return fault.Inputf("%s is complete", id)
	case len(data) != blockSize || sha256.Sum256(data) != sum:
		return fault.Inputf("block %d of %s has a wrong checksum", index, id)
	}
	t.blocks[index] = bytes.Clone(data)
	return nil
}

func (c *Cloud) completeSnapshot(id string, blocks int64, linear [sha256.Size]byte) error {
	t, err := c.get(id)
	if err != nil || t.ready {
		return err
	}
	if n := int64(len(t.blocks)); n != blocks || t.linear() != linear {
		return fault.Inputf("%s has %d blocks, which are not the announced %d", id, n, blocks)
	}
	t.ready = true
	return nil
}

func (t *thing) linear() [sha256.Size]byte {
	var indices []int64
	for i := range t.blocks {
		indices = append(indices, i)
	}
	slices.Sort(indices)
	all := sha256.New()
	for _, i := range indices {
		sum := sha256.Sum256(t.blocks[i])
		all.Write(sum[:])
	}
	return [sha256.Size]byte(all.Sum(nil))
}

// registerImage makes an image of a snapshot, or of an image in another region.
func (c *Cloud) registerImage(source, digest string, it holding.Item) (string, error) {
	t, err := c.get(source)
	if err != nil {
		return "", err
	}
	if !t.ready {
		return "", fault.Inputf("%s is not complete", source)
	}
	for _, other := range c.items {
		if other.Kind == holding.Image && other.Region == it.Region && other.Name == it.Name {
			return "", fault.Inputf("the name %s is taken in %s", it.Name, it.Region)
		}
	}
	it.Kind, it.RefersTo = holding.Image, []string{source}
	if t.Kind == holding.Image { // a copy stands on its own
		it.RefersTo = nil
	}
	return c.add("img", &thing{Item: it, digest: digest, blocks: t.blocks, ready: true}), nil
}

func (c *Cloud) setPublic(id string, public bool) error {
	t, err := c.get(id)
	if err == nil {
		t.Public = public
	}
	return err
}

func (c *Cloud) setState(id string, s holding.State, replacedBy string) error {
	t, err := c.get(id)
	if err != nil {
		return err
	}
	if t.State != s {
		t.State, t.Since = s, c.now()
	}
	t.Public = t.Public && s != holding.Hidden
	t.ReplacedBy = replacedBy
	return nil
}

// Refer has something that is no Item, as a running VM, refer to one.
func (c *Cloud) Refer(id, by string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.items[id]; t != nil {
		t.ReferencedBy = append(t.ReferencedBy, by)
	}
}

func (c *Cloud) delete(id string) error {
	it := c.items[id]
	if it == nil {
		return nil
	}
	if len(it.ReferencedBy) > 0 {
		return fault.Inputf("%s is in use by %s", id, it.ReferencedBy[0])
	}
	for _, t := range c.items {
		if slices.Contains(t.RefersTo, id) {
			return fault.Inputf("%s is in use by %s", id, t.ID)
		}
	}
	delete(c.items, id)
	return nil
}

// list returns copies of all things, by kind, region, name and identifier.
func (c *Cloud) list() []thing {
	var all []thing
	for _, t := range c.items {
		all = append(all, *t)
	}
	slices.SortFunc(all, func(a, b thing) int {
		return slices.Compare([]string{string(a.Kind), a.Region, a.Name, a.ID}, []string{string(b.Kind), b.Region, b.Name, b.ID})
	})
	return all
}

// Dump describes the account without identifiers and times, one thing a line.
func (c *Cloud) Dump() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := func(id string) string {
		if t := c.items[id]; t != nil {
			return string(t.Kind) + " " + t.Name
		}
		return id
	}
	var lines []string
	for _, t := range c.list() {
		line := fmt.Sprintf("%s %s in %q: %x, digest %s, ready %v, public %v, %s, family %s", t.Kind, t.Name, t.Region, t.linear(), t.digest, t.ready, t.Public, t.State, t.Family)
		for _, id := range t.RefersTo {
			line += ", of " + name(id)
		}
		if t.ReplacedBy != "" {
			line += ", replaced by " + name(t.ReplacedBy)
		}
		lines = append(lines, line)
	}
	for key, id := range c.families {
		lines = append(lines, key+" → "+name(id))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
