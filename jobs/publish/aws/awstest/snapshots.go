package awstest

import (
	"slices"
	"strings"
	"time"
)

// Snapshot is an EBS snapshot as the cloud has it.
type Snapshot struct {
	ID, Description string
	State           string // pending, completed, error
	SizeGB          int
	Public          bool
	Started         time.Time
	Tags            map[string]string

	serial, hidden, pending int
	completed               bool // CompleteSnapshot was called
	blocks                  map[int]block
}

// Blocks returns how many blocks were written.
func (s Snapshot) Blocks() int { return len(s.blocks) }

// Lose loses a block.
func (s *Snapshot) Lose() {
	for i := range s.blocks {
		delete(s.blocks, i)
		return
	}
}

// Bytes reads the snapshot, size bytes from its start.
func (s Snapshot) Bytes(size int64) []byte {
	out := make([]byte, size)
	for i, b := range s.blocks {
		if at := int64(i) * BlockSize; at < size {
			copy(out[at:], b.data)
		}
	}
	return out
}

// snapshot finds a snapshot that has come into view.
func (r *region) snapshot(id string) (*Snapshot, *Failure) {
	s := r.snapshots[id]
	if s == nil {
		return nil, refuse("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
	}
	if s.hidden > 0 {
		s.hidden--
		return nil, refuse("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", id)
	}
	return s, nil
}

func (s *Snapshot) settle() {
	switch {
	case s.State != "pending" || !s.completed:
	case s.pending > 0:
		s.pending--
	default:
		s.State = "completed"
	}
}

func (c *Cloud) demandSnapshotQuota(r *region) *Failure {
	if limit := c.settings.Snapshots; limit > 0 && len(r.snapshots) >= limit {
		return refuse("SnapshotLimitExceeded", "Snapshot limit of %d exceeded", limit)
	}
	return nil
}

func (c *Cloud) addSnapshot(r *region, s *Snapshot) {
	s.ID, s.State, s.Started, s.serial = newID("snap"), "pending", c.settings.Now(), c.next()
	s.hidden = c.settings.Hidden
	if s.Tags == nil {
		s.Tags = map[string]string{}
	}
	if s.blocks == nil {
		s.blocks = map[int]block{}
	}
	r.snapshots[s.ID] = s
}

func (c *Cloud) describeSnapshots(r *region, p *parameters) (element, *Failure) {
	ids, owners, filters := p.list("SnapshotId"), p.list("Owner"), p.filters()
	for _, o := range owners {
		if o != "self" && o != c.settings.Account {
			p.fail(refuse("InvalidUserID.Malformed", "the double has no snapshots of %s", o))
		}
	}
	if len(ids) > 0 && p.get("MaxResults") != "" {
		p.fail(refuse("InvalidParameterCombination", "The parameter snapshotIds cannot be used with the parameter maxResults"))
	}
	for _, id := range ids {
		if _, f := r.snapshot(id); f != nil {
			return element{}, f
		}
	}
	var found []*Snapshot
	for _, s := range sorted(r.snapshots, func(a, b *Snapshot) int { return a.serial - b.serial }) {
		ok, f := matches(filters, s.Tags, map[string]string{"status": s.State})
		if f != nil {
			return element{}, f
		}
		if !ok || len(ids) > 0 && !slices.Contains(ids, s.ID) {
			continue
		}
		if s.hidden > 0 {
			s.hidden--
			continue
		}
		s.settle()
		found = append(found, s)
	}
	shown, next := page(p, found)
	if f := p.done(); f != nil {
		return element{}, f
	}
	set := element{name: "snapshotSet"}
	for _, s := range shown {
		set.kids = append(set.kids, el("item", text("snapshotId", s.ID), text("volumeId", "vol-ffffffff"), text("status", s.State),
			text("startTime", stamp(s.Started)), text("ownerId", c.settings.Account), text("volumeSize", itoa(s.SizeGB)),
			text("description", s.Description), flag("encrypted", false), tagSet(s.Tags)))
	}
	return el("", optional([]element{set}, "nextToken", next)...), nil
}

func (c *Cloud) describeSnapshotAttribute(r *region, p *parameters) (element, *Failure) {
	id := p.need("SnapshotId")
	if p.need("Attribute") != "createVolumePermission" {
		p.fail(refuse("InvalidParameterValue", "the double knows createVolumePermission only"))
	}
	if f := p.done(); f != nil {
		return element{}, f
	}
	s, f := r.snapshot(id)
	if f != nil {
		return element{}, f
	}
	permission := element{name: "createVolumePermission"}
	if s.Public {
		permission.kids = []element{el("item", text("group", "all"))}
	}
	return el("", text("snapshotId", id), permission), nil
}

func (c *Cloud) modifySnapshotAttribute(r *region, p *parameters) (element, *Failure) {
	id, add, remove := p.need("SnapshotId"), p.get("CreateVolumePermission.Add.1.Group"), p.get("CreateVolumePermission.Remove.1.Group")
	p.oneOf("Attribute", "createVolumePermission")
	if f := p.done(); f != nil {
		return element{}, f
	}
	s, f := r.snapshot(id)
	switch {
	case f != nil:
		return element{}, f
	case add+remove != "all":
		return element{}, refuse("InvalidParameterCombination", "No attributes specified.")
	case s.State != "completed":
		return element{}, refuse("IncorrectState", "The snapshot '%s' is not completed.", id)
	case add == "all" && r.snapBlock != "unblocked":
		return element{}, refuse("OperationNotPermitted", "You can't publicly share this snapshot because block public access for snapshots is enabled for this account.")
	}
	s.Public = add == "all"
	return done(), nil
}

func (c *Cloud) deleteSnapshot(r *region, p *parameters) (element, *Failure) {
	id := p.need("SnapshotId")
	if f := p.done(); f != nil {
		return element{}, f
	}
	s, f := r.snapshot(id)
	if f != nil {
		return element{}, f
	}
	var users []string
	for _, i := range r.images {
		if i.SnapshotID == s.ID && i.State != "deregistered" {
			users = append(users, i.ID)
		}
	}
	if len(users) > 0 {
		return element{}, refuse("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", id, strings.Join(users, ", "))
	}
	delete(r.snapshots, id)
	return done(), nil
}
