// Package publishtest is the suite that every Publisher passes: what publish.Publisher promises, tried on an empty fake cloud,
// with the publication cut after every single request.
package publishtest

import (
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// Provider is a kind of Publisher and the fake cloud that it is tried against.
type Provider struct {
	Name   string // Publisher.Provider
	Vendor string // of the images that go there
	// Cloud returns a new, empty cloud. It ends with the test.
	Cloud func(t testing.TB) Cloud
	// NoRequests says that the Publisher sends no requests that could be throttled: it works on files.
	NoRequests bool
	// NoJournal says that the Publisher keeps none: two at once are its own concern.
	NoJournal bool
	// EveryNth cuts only after every nth request, where a publication has hundreds. 0 means each.
	EveryNth int
	// Piece is the size, in bytes, of the pieces in which the Publisher sends an image to a Counter, AtOnce how many it sends side by side, and Marks after
	// how many it tells the journal which ones have come. Where they are set, an upload that was cut has to go on.
	Piece         int64
	AtOnce, Marks int
}

// Cloud is a fake of one account at a provider.
type Cloud interface {
	// Publisher returns a Publisher in the state of a new process: all that it knows is in the cloud and in the journal.
	// Every request of it goes through line (Transport or Call). Its retries wait for milliseconds.
	Publisher(t testing.TB, line *Line, j *journal.Journal) publish.Publisher
	// Dump describes everything that the account has, one thing a line, sorted, with what is in it and what leads to it. What
	// differs between two equal publications, as identifiers and times, is left out or numbered in a stable order.
	Dump(t testing.TB) string
	// Secrets are texts that were given to the Publisher and must turn up nowhere.
	Secrets() []string
}

// Loser is a Cloud that can lose the newest image, as by someone's hand. It tells whether it had one.
type Loser interface {
	Lose(t testing.TB) bool
}

// Alterer is a Cloud on which the newest image can be altered, as by someone's hand: something that Publish asked for, and that users would notice. It
// tells whether there was one.
type Alterer interface {
	Alter(t testing.TB) bool
}

// Counter is a Cloud that counts the pieces of images that it was sent: one that came twice counts twice.
type Counter interface {
	Pieces() int
}

// RunStages tries Run's first case alone, for a cloud that does not show at once what it has: what one publication does of another image then
// depends on when it looks.
func RunStages(t *testing.T, p Provider) {
	s := &suite{p: p, build: Build(t, Options{Vendor: p.Vendor, Version: "20260815-1", Seed: 2})}
	s.stages(t)
}
