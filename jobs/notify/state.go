package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// StateName is the default place of the state in a tree, a directory that debcloud index does not enter. Only its owner can read it.
const StateName = ".notify/state.json"

// memory is how long an image that left the index is remembered, so that it is no news when it comes back, by accident or not.
const memory = 90 * 24 * time.Hour

// saveEvery bounds how much is repeated after SIGKILL, and how often a long queue's file is written.
const saveEvery = time.Second

// state is what was told to whom. Its methods may be called at the same time.
type state struct {
	path  string
	mu    sync.Mutex
	saved time.Time
	doc   stateDocument
}

type stateDocument struct {
	manifest.Header
	Data stateData `json:"data"`
}

type stateData struct {
	Known     map[string]known    `json:"known"`     // by key of the image
	Events    map[string]string   `json:"events"`    // by id: those that wait or are dead, byte by byte as they are sent
	Listeners map[string]*account `json:"listeners"` // by name
}

// known is an image that was in the index.
type known struct {
	Name      string    `json:"name"`
	Seen      time.Time `json:"seen"` // first; of what was there before the state, its version's day
	Last      time.Time `json:"last"`
	Providers []string  `json:"providers"`
}

// account is what one listener is owed.
type account struct {
	Queue     []letter  `json:"queue"`
	Dead      []letter  `json:"dead"`
	NotBefore time.Time `json:"notBefore,omitzero"` // the listener asked for peace until then
}

// letter is an event on its way.
type letter struct {
	ID    string    `json:"id"`
	Image string    `json:"image"`
	First time.Time `json:"first,omitzero"` // attempt
	Why   string    `json:"why,omitempty"`  // the last attempt failed
}

const stateKind = "Notifications"

// readState reads a state, or returns one that knows nothing.
func readState(path string) (*state, error) {
	s := &state{path: path}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		s.doc = stateDocument{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: stateKind}}
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &s.doc); err != nil {
		return nil, fault.WithHint(fault.Inputf("state %s: %w", path, err), "put a copy of it back; without it, what is there counts as known and what waits is lost")
	}
	if s.doc.Kind != stateKind || s.doc.APIVersion != manifest.APIVersion {
		return nil, fault.Inputf("state %s is a %q of %q, not a %q of %q", path, s.doc.Kind, s.doc.APIVersion, stateKind, manifest.APIVersion)
	}
	return s, nil
}

// openState reads the state and keeps other runs away from it until unlock.
func openState(path string) (s *state, unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	unlock = func() { lock.Close() }
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unlock()
		return nil, nil, fault.Outsidef("another run works with %s: try again when it is done", path)
	}
	if err := atomicfile.Sweep(path); err != nil {
		unlock()
		return nil, nil, err
	}
	if s, err = readState(path); err != nil {
		unlock()
		return nil, nil, err
	}
	return s, unlock, nil
}

func (s *state) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saveLocked()
}

func (s *state) saveLocked() error {
	s.dropEvents()
	text, err := json.MarshalIndent(s.doc, "", "  ")
	if err != nil {
		return err
	}
	s.saved = time.Now()
	return atomicfile.Write(s.path, append(text, '\n'), 0o600)
}

// dropEvents forgets events that no one waits for.
func (s *state) dropEvents() {
	wanted := map[string]bool{}
	for _, a := range s.doc.Data.Listeners {
		for _, l := range slices.Concat(a.Queue, a.Dead) {
			wanted[l.ID] = true
		}
	}
	maps.DeleteFunc(s.doc.Data.Events, func(id, _ string) bool { return !wanted[id] })
}

// take compares the index with what is known and queues what is new for whom it is new.
func (s *state) take(images []manifest.IndexImage, o Options) error {
	d := &s.doc.Data
	first := d.Known == nil
	if first {
		*d = stateData{Known: map[string]known{}, Events: map[string]string{}, Listeners: map[string]*account{}}
	}
	newcomers := map[string]bool{}
	for _, l := range o.Listeners {
		if d.Listeners[l.Name] == nil {
			d.Listeners[l.Name], newcomers[l.Name] = &account{}, true
		}
		if a := d.Listeners[l.Name]; o.Replay {
			a.Queue, a.Dead = append(revived(a.Dead), a.Queue...), nil
		}
	}
	now := o.Now().UTC().Truncate(time.Second)
	for _, i := range slices.Backward(images) { // the newest version of a kind is told last
		before, there := d.Known[key(i)]
		k := known{Name: i.Name, Seen: before.Seen, Last: now, Providers: providers(i)}
		if !there {
			k.Seen = now
			if day, err := time.Parse(time.DateOnly, i.Date); first && err == nil {
				k.Seen = day
			}
		}
		d.Known[key(i)] = k
		for _, l := range o.Listeners {
			isNew := !first && !(there && l.Filter.matches(i, before.Providers))
			if newcomers[l.Name] && !o.Since.IsZero() {
				isNew = i.Date >= o.Since.Format(time.DateOnly)
			}
			if !isNew || !l.Filter.matches(i, k.Providers) {
				continue
			}
			if err := d.queue(l.Name, i, o.URL, now); err != nil {
				return err
			}
		}
	}
	maps.DeleteFunc(d.Known, func(_ string, k known) bool { return now.Sub(k.Last) > memory })
	return nil
}

func (d *stateData) queue(listener string, i manifest.IndexImage, url string, now time.Time) error {
	id, text, err := newEvent(i, url, now)
	if err != nil {
		return err
	}
	if d.Events[id] == "" { // one that waits elsewhere keeps its body
		d.Events[id] = text
	}
	a := d.Listeners[listener]
	a.Queue = append(a.Queue, letter{ID: id, Image: i.Name})
	return nil
}

// revived are dead letters as if they were new.
func revived(dead []letter) []letter {
	var out []letter
	for _, l := range dead {
		out = append(out, letter{ID: l.ID, Image: l.Image})
	}
	return out
}

// waiting lists what a run would send.
func (s *state) waiting(listeners []Listener) []Notice {
	var all []Notice
	for _, l := range listeners {
		for _, it := range s.doc.Data.Listeners[l.Name].Queue {
			all = append(all, Notice{Listener: l.Name, Image: it.Image, ID: it.ID, Outcome: Wanted})
		}
	}
	return all
}

func (s *state) letters() int {
	n := 0
	for _, a := range s.doc.Data.Listeners {
		n += len(a.Dead)
	}
	return n
}

// next is the head of a listener's queue with its event, until which time the listener is left alone, and whether there is one.
func (s *state) next(listener string) (l letter, body []byte, notBefore time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.doc.Data.Listeners[listener]
	if len(a.Queue) == 0 {
		return letter{}, nil, time.Time{}, false
	}
	l = a.Queue[0]
	return l, []byte(s.doc.Data.Events[l.ID]), a.NotBefore, true
}

// change changes what a listener is owed and saves it, at the latest a while later.
func (s *state) change(listener string, change func(*account)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.doc.Data.Listeners[listener])
	if time.Since(s.saved) < saveEvery {
		return nil
	}
	if err := s.saveLocked(); err != nil {
		return fmt.Errorf("note what was told: %w", err)
	}
	return nil
}
