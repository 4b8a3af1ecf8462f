// Package holding holds the noun that publishing leaves behind and pruning takes away: an Item that a provider has of ours.
package holding

import (
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// Kind says what an Item is.
type Kind string

const (
	Image    Kind = "image"    // what people start VMs from; the only kind that has a Family
	Snapshot Kind = "snapshot" // what an image is made of
	Disk     Kind = "disk"
	Blob     Kind = "blob"
	Object   Kind = "object"
)

// State says how an image is shown. Every Item but an image is Current.
type State string

const (
	Current    State = "current"
	Deprecated State = "deprecated" // still found and started, with a warning or the name of its successor
	Hidden     State = "hidden"     // no longer found or started by the public, still there for the owner
)

// Item is one thing that a provider has in one region.
type Item struct {
	ID       string // the provider's own, unique among the Items of a Holder's region
	Name     string
	Kind     Kind
	Provider string
	Region   string // "" where the provider has it everywhere

	// Family is what successors are counted in, Family(…) of what the image was made of; "" where it is not known.
	Family     string
	UploadType image.UploadType // "" where it is not known
	Version    string           // "" where it is not known

	Created time.Time // zero: unknown, and then it is never retired
	State   State
	Since   time.Time // of State; zero: unknown

	RefersTo     []string // IDs of what it needs: an image's snapshot
	ReferencedBy []string // what else needs it and is no Item: a running VM, a launch template, a share
	// Ours: debcloud made it, by a mark that only debcloud sets. What is not ours is listed, as it may refer to ours, and left alone.
	Ours bool
	// Public: everyone sees it, where State is not Hidden. Whether one that is Hidden is still Public is the provider's.
	Public bool

	// ReplacedBy is the ID of the newest Item of the family. Pruning sets it when it has the Item deprecated.
	ReplacedBy string
}

// Family names what successors are counted in: "trixie ec2 amd64 daily".
func Family(release, vendor, arch string, t image.UploadType) string {
	return release + " " + vendor + " " + arch + " " + string(t)
}

// Policy says how long images are kept. A type that it does not name is kept for ever.
type Policy struct {
	Types   map[image.UploadType]Retention
	Orphans time.Duration // how old what nothing refers to must be
}

// Retention says when an image goes that is not among the newest Keep of its family: it is deprecated at once, hidden HideAfter
// that, and deleted DeleteAfter that.
type Retention struct {
	Keep                   int
	HideAfter, DeleteAfter time.Duration
}
