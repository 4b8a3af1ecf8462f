package prune

import (
	"context"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
)

// Holder is a place that has images of ours and what belongs to them. The publishers implement it.
//
// Every call may be repeated: what is in the wanted state already, or gone, is no error. An error of kind fault.Outside may
// go away by itself. No call changes an Item that is not Ours; one whose state differs from it.State by now is refused.
type Holder interface {
	// List returns all Items of ours in all regions of the target, also those of unfinished publications, and those of
	// others that refer to ours. Where a region cannot be asked it returns an error: pruning half-blind could delete
	// what is referenced.
	List(ctx context.Context) ([]holding.Item, error)
	// Deprecate marks the image as old and, where the provider can, names it.ReplacedBy as its successor. It records
	// when that was, so that List tells Since.
	Deprecate(ctx context.Context, it holding.Item) error
	// Hide takes the image out of what the public finds and starts, and records when. It stays, so that this can be undone.
	Hide(ctx context.Context, it holding.Item) error
	// Delete removes the Item alone: what it refers to is an Item of its own.
	Delete(ctx context.Context, it holding.Item) error
}
