package executor

import (
	"cmp"
	"context"
	"slices"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
)

// Status is what runs on this host, for whom, and what is free.
type Status struct {
	Machines []MachineStatus    `json:"machines"`
	Ledger   admission.Snapshot `json:"ledger"`
	// Accelerator is how guests are executed here: "KVM" or "TCG".
	Accelerator string `json:"accelerator"`
}

// MachineStatus is one VM.
type MachineStatus struct {
	Domain    string `json:"domain"`
	Running   bool   `json:"running"`
	Reason    string `json:"reason"` // why it runs or does not, in libvirt's words
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	Mark
	// Over says why reap would remove it; "" where it would not.
	Over string `json:"over,omitempty"`
}

// Age is how long the VM exists.
func (m MachineStatus) Age() time.Duration { return time.Since(m.Created) }

// Status looks at the host. Machines are sorted by age, the oldest first.
func (d *Driver) Status(ctx context.Context) (Status, error) {
	var s Status
	if err := d.connect(ctx); err != nil {
		return s, err
	}
	all, err := d.machines(ctx)
	if err != nil {
		return s, err
	}
	kept := d.kept()
	for _, m := range all {
		s.Machines = append(s.Machines, MachineStatus{
			Domain: m.Lasting.Name, Running: m.running(), Reason: m.Reason, CPUs: m.CPUs, MemoryMiB: m.MemoryMiB, Mark: m.Mark, Over: over(m, all, kept),
		})
	}
	slices.SortFunc(s.Machines, func(a, b MachineStatus) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Domain, b.Domain))
	})
	accel, _ := d.node.Accelerator(ctx)
	s.Accelerator = accel.String()
	l, err := d.ledger()
	if err != nil {
		return s, err
	}
	s.Ledger, err = l.Snapshot(ctx)
	return s, err
}
