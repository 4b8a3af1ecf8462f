// Package admission shares one host among jobs: nobody gets more than the budget has, and whoever does not fit waits for
// its turn.
//
// The ledger is a file in a state directory that every driver process reads and replaces under a lock, so no daemon has
// to live. Waiting is first come, first served: a large request is not overtaken by small ones, so it does not starve.
// A process that is killed while it waits loses its place, because the kernel lets go of the lock on its ticket. What was
// admitted stays until Release, or until Reclaim finds that its VM is gone.
package admission

import (
	"context"
	"errors"
	"fmt"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Class says what an admitted VM is for.
type Class string

const (
	Job  Class = "job"  // a job's VM
	Warm Class = "warm" // one that stands ready, and yields to waiting jobs
)

// Request asks for room.
type Request struct {
	// ID names the VM: its domain's name, unique among the living.
	ID    string `json:"id"`
	Class Class  `json:"class"`
	// Need is what the VM may grow to, VMs: 1 included, with the share of its test bed.
	Need settings.Resources `json:"need"`
	// Bed is the part of Need that is for its siblings.
	Bed settings.Resources `json:"bed,omitzero"`
	// For says in words whose it is, for status and for those who wait: "job 4711 of cloud-team/images".
	For string `json:"for,omitempty"`
}

// Entry is what was admitted.
type Entry struct {
	Request
	Since time.Time `json:"since"`
	// Siblings are what ReserveWithin took out of Need, by their ID.
	Siblings map[string]Sibling `json:"siblings,omitempty"`
}

// Sibling is a VM of a test bed.
type Sibling struct {
	settings.Resources
	Since time.Time `json:"since"`
}

// Waiter stands in the queue.
type Waiter struct {
	Request
	Since time.Time `json:"since"`
	// Ticket rises with each request.
	Ticket uint64 `json:"ticket"`
}

// Position is told to one who waits.
type Position struct {
	// Ahead is how many requests are served before.
	Ahead int
	// Free is what the budget has left.
	Free settings.Resources
	// Lacks says what there is too little of: "memory: 8GiB needed, 3GiB free". "" where others are only ahead.
	Lacks string
	// Waited is how long it has been.
	Waited time.Duration
}

// String is a sentence for the job's log.
func (p Position) String() string {
	waited := p.Waited.Round(time.Second)
	switch {
	case p.Ahead > 0:
		return fmt.Sprintf("waiting for room on this host, %d before this job, for %v so far", p.Ahead, waited)
	default:
		return fmt.Sprintf("waiting for room on this host, next in line, for %v so far: %s", waited, p.Lacks)
	}
}

// ErrTooLarge is in the chain of the error of a request that the whole budget cannot hold.
var ErrTooLarge = errors.New("more than this host gives to all jobs together")

// Options of a Ledger. Zero values get the default that is named.
type Options struct {
	// Spare says what the host really has left over beyond the reserve, Memory and Disk alone: the other users of the
	// host are not in the ledger. Nil: not asked.
	Spare func(context.Context) (settings.Resources, error)
	// OnDisk says what the files of a VM take up already, by its ID. Nil: nothing.
	OnDisk func(id string) settings.Size
	// Tell is how often a waiter is told its position, after the first time. Default 1 min.
	Tell time.Duration
	// Poll is how often a waiter looks although nothing told it to, for what leaves no trace, such as a killed process
	// and the host's own memory. Default 5 s.
	Poll time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// refuse finds the request that can never be admitted.
func (l *Ledger) refuse(r Request) error {
	switch {
	case r.ID == "" || len(r.ID) > 200:
		return fault.Inputf("%q is no name for a VM", r.ID)
	case r.Need.CPUs < 0 || r.Need.Memory < 0 || r.Need.Disk < 0 || r.Need.VMs < 1:
		return fault.Inputf("a request for %s cannot be", Describe(r.Need))
	}
	if lacks := lacking(r.Need, l.budget); lacks != "" {
		return fault.Inputf("%s: %w", lacks, ErrTooLarge)
	}
	return nil
}

// Describe writes resources as words.
func Describe(r settings.Resources) string {
	return fmt.Sprintf("%d VMs, %d processors, %v memory, %v disk", r.VMs, r.CPUs, r.Memory, r.Disk)
}

// lacking says what there is less of than needed, "" where it fits. A limit of no VMs is none.
func lacking(need, free settings.Resources) string {
	switch {
	case need.VMs > free.VMs:
		return fmt.Sprintf("VMs: %d needed, %d free", need.VMs, max(0, free.VMs))
	case need.CPUs > free.CPUs:
		return fmt.Sprintf("processors: %d needed, %d free", need.CPUs, max(0, free.CPUs))
	case need.Memory > free.Memory:
		return fmt.Sprintf("memory: %v needed, %v free", need.Memory, max(0, free.Memory))
	case need.Disk > free.Disk:
		return fmt.Sprintf("disk: %v needed, %v free", need.Disk, max(0, free.Disk))
	}
	return ""
}

func add(a, b settings.Resources) settings.Resources {
	return settings.Resources{CPUs: a.CPUs + b.CPUs, Memory: a.Memory + b.Memory, Disk: a.Disk + b.Disk, VMs: a.VMs + b.VMs}
}

func subtract(a, b settings.Resources) settings.Resources {
	return settings.Resources{CPUs: a.CPUs - b.CPUs, Memory: a.Memory - b.Memory, Disk: a.Disk - b.Disk, VMs: a.VMs - b.VMs}
}
