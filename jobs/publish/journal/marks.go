package journal

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
)

// Marks remember which blocks of something large a step has brought to its place, so that the step leaves them out when it is done again.
//
// A block is known by its number and its print: one of other contents, as of an image that was altered meanwhile, has no mark. Marks stand
// where the step's result will, and go when the step ends. What was added is written every so often, so a process that is killed
// loses the last ones, and its successor sends some blocks twice. That their place still has the blocks is for the caller to
// find out. Methods may be called from several goroutines.
type Marks struct {
	entry *Entry
	step  string
	of    string
	every int

	writing sync.Mutex // is taken before the other
	mu      sync.Mutex
	have    map[uint32]mark
	added   int // since they were written
}

// mark is the half of a print: enough that no two contents have the same.
type mark [sha256.Size / 2]byte

// keptMarks is what stands in the journal.
type keptMarks struct {
	Of     string `json:"of"`
	Blocks []byte `json:"blocks"` // numbers, big endian, each with its mark
}

const markSize = 4 + len(mark{})

// Marks returns those of a step that began and did not end. of names the place, by an identifier that no other one ever has: marks of
// another place, or a text that is none of Marks, count for nothing. They are written when that many blocks were added, at least.
func (e *Entry) Marks(ctx context.Context, step, of string, every int) (*Marks, error) {
	m := &Marks{entry: e, step: step, of: of, every: every, have: map[uint32]mark{}}
	var text sql.NullString
	err := e.journal.db.QueryRowContext(ctx, "SELECT result FROM step WHERE target = ? AND digest = ? AND image = ? AND name = ? AND ended IS NULL",
		e.Target, e.Digest, e.Image, step).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !text.Valid {
		return m, nil
	}
	if err != nil {
		return nil, e.journal.explain(ctx, err)
	}
	var kept keptMarks
	if json.Unmarshal([]byte(text.String), &kept) != nil || kept.Of != of || len(kept.Blocks)%markSize != 0 {
		return m, nil
	}
	for one := range slices.Chunk(kept.Blocks, markSize) {
		m.have[binary.BigEndian.Uint32(one)] = mark(one[4:])
	}
	return m, nil
}

// Len returns how many blocks have a mark.
func (m *Marks) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.have)
}

// Has tells whether the block has a mark.
func (m *Marks) Has(block int64, print [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	have, ok := m.have[uint32(block)]
	return ok && have == mark(print[:len(mark{})])
}

// Add marks a block whose arrival was acknowledged. Where it is time to write, this call does so; others go on, until it is time again.
func (m *Marks) Add(block int64, print [sha256.Size]byte) error {
	m.mu.Lock()
	m.have[uint32(block)] = mark(print[:len(mark{})])
	m.added++
	due := m.added >= m.every
	m.mu.Unlock()
	if !due {
		return nil
	}
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	due = m.added >= m.every // another one may have written meanwhile
	m.mu.Unlock()
	if !due {
		return nil
	}
	return m.write()
}

// Keep writes what was added and not yet written. Callers do so when they stop for whatever reason.
func (m *Marks) Keep() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	none := m.added == 0
	m.mu.Unlock()
	if none {
		return nil
	}
	return m.write()
}

// Clear forgets all marks: the place does not have what they say.
func (m *Marks) Clear() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	clear(m.have)
	m.mu.Unlock()
	return m.write()
}

// write runs with writing locked.
func (m *Marks) write() error {
	m.mu.Lock()
	kept := keptMarks{Of: m.of, Blocks: make([]byte, 0, len(m.have)*markSize)}
	for _, block := range slices.Sorted(maps.Keys(m.have)) {
		one := m.have[block]
		kept.Blocks = append(binary.BigEndian.AppendUint32(kept.Blocks, block), one[:]...)
	}
	m.added = 0
	m.mu.Unlock()
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	e := m.entry
	return e.write("UPDATE step SET result = ? WHERE target = ? AND digest = ? AND image = ? AND name = ? AND ended IS NULL", string(text), e.Target, e.Digest, e.Image, m.step)
}
