package publish

import (
	"context"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// Stage says who can see a publication.
type Stage string

const (
	Private Stage = "private" // there, complete and verified, but not shown to the public
	Public  Stage = "public"  // shown to everyone, and what "latest" leads to
)

// Publisher puts images at one place.
//
// Stage Private uploads, registers, copies to every region, tags, and verifies what the place says it has. Stage Public
// does what Private would have done where that is missing, then makes public, has "latest" (family, parameter, version)
// lead to the image where it is the newest, and deprecates its predecessor.
//
// Publish is idempotent: called again for the same image and stage it changes nothing and returns the same uploads,
// and called again after it was cut anywhere, by an error or by SIGKILL, with the same journal, another one or none, it goes
// on to the same end: nothing twice, nothing lost, nothing orphaned. It asks the place what it has before it makes
// anything, by names, tags and client tokens that follow from the image alone, and trusts no journal about what the
// place may have lost. Nobody but the owner sees half a publication. Calls for one image wait for each other, or stop.
//
// What may be retried, Publish retries itself, within bounds: throttling, 5xx, broken connections, what is not visible yet.
// An error of kind fault.Outside is what remained of that: the same command may work later. One of kind fault.Input is
// final: the place holds another image under that name, or one that is not ours; the credentials are for another account or lack
// a right; the image is not what its documents say. After any error nothing public has changed but what Publish reports.
//
// Where one region fails the others go on: Publish then returns both, a Publication of what is there, at the stage that was asked
// for, and an error that names the regions which failed.
type Publisher interface {
	// Provider is the word by which commands name the place's kind, and part of NAME.upload-PROVIDER.json.
	Provider() string
	Publish(ctx context.Context, img *Image, stage Stage) (*Publication, error)
}

// Publication is what a Publisher did.
type Publication struct {
	Uploads []manifest.Upload // all that this place has of the image, also from earlier calls, by region
	Changed bool              // false: everything was there already
	Place   string            // where a person finds it
}

// Identifier is a Publisher that can tell who it is at its provider.
type Identifier interface {
	// Whoami asks the provider, and changes nothing there. An error of kind fault.Input says that the credentials are refused.
	Whoami(ctx context.Context) (Identity, error)
}

// Identity is who a Publisher is at its provider.
type Identity struct {
	Account   string    // as Target.Account would have it
	Principal string    // user, role or service account
	Until     time.Time // when the credentials expire; zero: they do not, or the provider does not tell
	Missing   []string  // rights that publishing and pruning need and these credentials lack, in the provider's words
}
