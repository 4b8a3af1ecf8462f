package prune

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// Action is what happens to an Item.
type Action string

const (
	Keep      Action = "keep"
	Deprecate Action = "deprecate"
	Hide      Action = "hide"
	Delete    Action = "delete"
)

// Step is one Item and what happens to it.
type Step struct {
	Action Action
	Item   holding.Item
	Why    string
}

// Decide says what happens to each of a place's Items at the time now, in the order in which it has to be done: what
// others refer to is deleted after them. What is not ours gets no Step.
//
// An image goes from deprecated to hidden to deleted, one state a call and each in its time, as the policy of its upload type
// has it. It stays where it is among the newest of its family that users see, where its age, type, version or family is not known, or
// where no policy is for its type. The newest image of a family that users see always stays, and so does all that is newer; where
// they see none, the newest that they did. One that is private or hidden takes no place from those that they see, whether pruning
// or someone's hand made it so. What something refers to is neither hidden nor deleted. Everything else is deleted with the last Item that refers to it, or, where none ever did, when
// it is as old as an orphan has to be.
func Decide(items []holding.Item, policy holding.Policy, now time.Time) []Step {
	d := decision{policy: policy, now: now, referrers: map[string][]place{}, deleted: map[place]bool{}}
	for _, it := range items {
		for _, id := range it.RefersTo {
			d.referrers[id] = append(d.referrers[id], placeOf(it))
		}
	}
	for _, family := range families(items) {
		d.retire(family)
	}
	d.clear(items)
	rank := map[Action]int{Keep: 0, Deprecate: 1, Hide: 2, Delete: 3}
	slices.SortStableFunc(d.steps, func(a, b Step) int { return cmp.Compare(rank[a.Action], rank[b.Action]) })
	return d.steps
}

type decision struct {
	policy    holding.Policy
	now       time.Time
	referrers map[string][]place // of each ID, in whatever region, other Items
	deleted   map[place]bool
	steps     []Step
}

// place identifies an Item.
type place struct{ region, id string }

func placeOf(it holding.Item) place { return place{it.Region, it.ID} }

func (d *decision) add(a Action, it holding.Item, why string, args ...any) {
	d.steps = append(d.steps, Step{a, it, fmt.Sprintf(why, args...)})
	if a == Delete {
		d.deleted[placeOf(it)] = true
	}
}

// families groups our images by region and family, newest first, in a stable order.
func families(items []holding.Item) [][]holding.Item {
	type key struct {
		region, family string
		t              image.UploadType
	}
	groups := map[key][]holding.Item{}
	var keys []key
	for _, it := range items {
		if it.Kind != holding.Image || !it.Ours {
			continue
		}
		k := key{it.Region, it.Family, it.UploadType}
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], it)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.family, b.family), cmp.Compare(a.t, b.t), cmp.Compare(a.region, b.region))
	})
	var all [][]holding.Item
	for _, k := range keys {
		group := groups[k]
		slices.SortStableFunc(group, func(a, b holding.Item) int { return newer(a, b) })
		all = append(all, group)
	}
	return all
}

// newer orders by version, and by age where that is the same or not known.
func newer(a, b holding.Item) int {
	x, errX := image.ParseVersion(a.Version)
	y, errY := image.ParseVersion(b.Version)
	if errX == nil && errY == nil {
		if c := cmp.Or(cmp.Compare(y.Date, x.Date), cmp.Compare(y.Number, x.Number)); c != 0 {
			return c
		}
	}
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
}

// shown tells whether users see and start an image now. A deprecated one is shown where it is public: pruning deprecates private
// ones, too.
func shown(it holding.Item) bool { return it.Public && it.State != holding.Hidden }

// lasting is the index of the image that stays whatever its age, in a family that is sorted, newest first: the newest that users see. Where
// they see none it is the newest that is public all the same, else the newest hidden one, as most providers hide an image by taking
// it from the public. It is the number of images where none was ever public.
func lasting(family []holding.Item) int {
	for _, is := range []func(holding.Item) bool{
		shown,
		func(it holding.Item) bool { return it.Public },
		func(it holding.Item) bool { return it.State == holding.Hidden },
	} {
		if i := slices.IndexFunc(family, is); i >= 0 {
			return i
		}
	}
	return len(family)
}

// retire decides on the images of one family, newest first.
func (d *decision) retire(family []holding.Item) {
	last := lasting(family)
	places := 0 // of the policy's, taken so far
	for i, it := range family {
		rule, ruled := d.policy.Types[it.UploadType]
		if shown(it) {
			places++
		}
		if i > last {
			it.ReplacedBy = family[last].ID
		}
		switch _, err := image.ParseVersion(it.Version); {
		case it.Family == "" || it.UploadType == "":
			d.add(Keep, it, "what it is of is not known")
		case err != nil:
			d.add(Keep, it, "its version %q is none of ours", it.Version)
		case it.Created.IsZero():
			d.add(Keep, it, "its age is not known")
		case !ruled || rule.Keep < 1:
			d.add(Keep, it, "no policy is for type %s", it.UploadType)
		case i <= last:
			d.add(Keep, it, "the family has no newer public image")
		case shown(it) && places <= rule.Keep:
			d.add(Keep, it, "number %d of the %d newest", places, rule.Keep)
		default:
			d.age(it, rule)
		}
	}
}

// age moves an image on that is none of the newest.
func (d *decision) age(it holding.Item, rule holding.Retention) {
	held := d.held(it)
	switch it.State {
	case holding.Current:
		d.add(Deprecate, it, "not one of the %d newest", rule.Keep)
	case holding.Deprecated:
		d.wait(it, Deprecate, Hide, rule.HideAfter, held)
	case holding.Hidden:
		d.wait(it, Hide, Delete, rule.DeleteAfter, held)
	default:
		d.add(Keep, it, "its state %q is not known", it.State)
	}
}

// wait does next when the image was long enough in its state. Where nobody knows since when it is, the state is set again,
// which records the time.
func (d *decision) wait(it holding.Item, again, next Action, after time.Duration, held string) {
	due := it.Since.Add(after)
	switch {
	case it.Since.IsZero():
		d.add(again, it, "nobody knows since when it is %s", it.State)
	case held != "":
		d.add(Keep, it, "%s refers to it", held)
	case d.now.Before(due):
		d.add(Keep, it, "%s since %s, %s from %s on", it.State, day(it.Since), next, day(due))
	default:
		d.add(next, it, "%s since %s", it.State, day(it.Since))
	}
}

// held names what refers to an Item and stays, "" where nothing does.
func (d *decision) held(it holding.Item) string {
	if len(it.ReferencedBy) > 0 {
		return it.ReferencedBy[0]
	}
	for _, other := range d.referrers[it.ID] {
		if !d.deleted[other] {
			return other.id
		}
	}
	return ""
}

// clear deletes what nothing refers to any more, those first that refer to others.
func (d *decision) clear(items []holding.Item) {
	rest := slices.DeleteFunc(slices.Clone(items), func(it holding.Item) bool { return it.Kind == holding.Image || !it.Ours })
	for again := true; again; {
		again = false
		rest = slices.DeleteFunc(rest, func(it holding.Item) bool {
			if d.held(it) != "" || !d.orphaned(it) {
				return false
			}
			why := "nothing refers to it"
			if len(d.referrers[it.ID]) > 0 {
				why = "what refers to it is deleted"
			}
			d.add(Delete, it, "%s", why)
			again = true
			return true
		})
	}
	for _, it := range rest {
		switch held := d.held(it); {
		case held != "":
			d.add(Keep, it, "%s refers to it", held)
		case it.Created.IsZero():
			d.add(Keep, it, "its age is not known")
		default:
			d.add(Keep, it, "nothing refers to it yet; an orphan from %s on", day(it.Created.Add(d.policy.Orphans)))
		}
	}
}

// orphaned: what lost its referrers just now goes with them; what never had one may belong to a publication under way.
func (d *decision) orphaned(it holding.Item) bool {
	if it.Created.IsZero() {
		return false
	}
	return len(d.referrers[it.ID]) > 0 || d.policy.Orphans > 0 && !d.now.Before(it.Created.Add(d.policy.Orphans))
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
