// Package notify tells the world what is new in a public tree: listeners by webhooks, and everyone by an Atom feed.
//
// It reads index.json, which debcloud index wrote, and no other step's files. What a listener gets is one CloudEvents 1.0 event
// an image, JSON in structured mode, signed by Standard Webhooks (standardwebhooks.com):
//
//	webhook-id         the event's id
//	webhook-timestamp  seconds since 1970, of this attempt
//	webhook-signature  v1,base64(HMAC-SHA256(secret, id.timestamp.body)); one a secret, separated by spaces
//
// An event's id is derived from the image's name, its digest and the providers that have it, so a repeat has the id and the body
// of the first time and a listener passes over what it knows. An image that comes to a provider later is another event, for
// listeners that chose that provider and were not told yet.
//
// The state is one file, replaced by rename. New events are in its queues before the first is sent, and leave them after the
// listener took them: a run that is killed anywhere loses nothing, and the next one repeats at most what the last did not note.
// What a listener refuses, and what fails for three days, becomes a dead letter in the same file until Options.Replay.
//
// Without a state all that is in the tree counts as known, and a new listener is told of what comes from now on: nobody expects
// a thousand events for adding a line to a file. Options.Since tells new listeners of older images too.
package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
)

// indexName is the index's file in a tree, as debcloud index writes it.
const indexName = "index.json"

// Options say whom to tell and how.
type Options struct {
	Listeners []Listener
	URL       string           // where the tree is seen, ending in a slash; "" where unknown
	State     string           // file; StateName in the tree where ""
	Since     time.Time        // new listeners hear of images of this day and later; of new ones only where zero
	Replay    bool             // send the dead letters again
	DryRun    bool             // tell nobody and write nothing
	Now       func() time.Time // nil means time.Now

	pause func(context.Context, time.Duration) error // between attempts; nil means to wait
}

// Notice is one event for one listener.
type Notice struct {
	Listener string
	Image    string // public name
	ID       string // of the event
	Outcome  Outcome
	Why      string // it is not delivered; never has the URL or a secret in it
}

// Outcome is what became of a Notice.
type Outcome string

const (
	Told   Outcome = "told"
	Later  Outcome = "later" // stays in the queue for the next run
	Dead   Outcome = "dead"  // became a dead letter
	Wanted Outcome = "would tell"
)

// Result is what Run did.
type Result struct {
	Notices []Notice
	Feed    bool // whether the feed changed
	Letters int  // dead letters that there are now
}

// Run tells o.Listeners what is new in the tree dir and writes its feed. Where some could not be told, the result comes with an
// error, of kind Outside if the next run may help.
func Run(ctx context.Context, dir string, o Options) (*Result, error) {
	o.fill(dir)
	index, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	if o.DryRun {
		s, err := readState(o.State)
		if err != nil {
			return nil, err
		}
		if err := s.take(index.Data.Images, o); err != nil {
			return nil, err
		}
		return &Result{Notices: s.waiting(o.Listeners), Letters: s.letters()}, nil
	}
	s, unlock, err := openState(o.State)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.take(index.Data.Images, o); err != nil {
		return nil, err
	}
	if err := s.save(); err != nil {
		return nil, err
	}
	r := &Result{}
	if r.Feed, err = writeFeed(dir, index.Data.Images, s, o.URL); err != nil {
		return r, err
	}
	r.Notices, err = s.deliver(ctx, o)
	r.Letters = s.letters()
	return r, err
}

func (o *Options) fill(dir string) {
	if o.State == "" {
		o.State = filepath.Join(dir, StateName)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.pause == nil {
		o.pause = pause.For
	}
}

func readIndex(dir string) (*manifest.Index, error) {
	name := filepath.Join(dir, indexName)
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		return nil, fault.WithHint(fault.Inputf("there is no index at %s", name), "write it first: debcloud index %s", dir)
	}
	x, err := manifest.ReadIndex(name)
	switch {
	case err != nil:
		return nil, err
	case x.Metadata.DryRun():
		return nil, fault.Inputf("%s is of a dry run: there is nothing to tell", name)
	}
	return x, nil
}

// deliver empties the queues, those of all listeners side by side, and notes in the state what was told.
func (s *state) deliver(ctx context.Context, o Options) ([]Notice, error) {
	results := make([][]Notice, len(o.Listeners))
	var all sync.WaitGroup
	for n, l := range o.Listeners {
		all.Go(func() { results[n] = newSender(l, s, o).run(ctx) })
	}
	all.Wait()
	if err := s.save(); err != nil {
		return nil, err
	}
	var notices []Notice
	var dead, later int
	for _, r := range results {
		for _, n := range r {
			switch n.Outcome {
			case Dead:
				dead++
			case Later:
				later++
			}
		}
		notices = append(notices, r...)
	}
	switch {
	case ctx.Err() != nil:
		return notices, context.Cause(ctx)
	case dead > 0:
		return notices, fault.WithHint(fmt.Errorf("%d events were not taken and are dead letters now", dead), "mend what is wrong and send them again: debcloud notify … --replay")
	case later > 0:
		return notices, fault.Outsidef("%d events could not be delivered and wait for the next run", later)
	}
	return notices, nil
}
