package metrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
)

// page is metrics in Prometheus' text format 0.0.4 (its documentation, "Exposition formats"). Prometheus' own client would
// write it as well, and costs each start of the program, which is one a call of the driver, a tenth of its time.
type page struct{ text []byte }

// contentType is what a scraper is told.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// label is one of a sample's.
type label struct{ name, value string }

// family begins a metric. Its samples come next.
func (p *page) family(kind, name, help string) {
	name = fullName(name)
	p.add("# HELP ", name, " ", escapeHelp.Replace(help), "\n# TYPE ", name, " ", kind, "\n")
}

func (p *page) sample(name string, value float64, labels ...label) {
	p.add(fullName(name))
	for i, l := range labels {
		p.add([]string{"{", ","}[min(i, 1)], l.name, `="`, escapeLabel.Replace(l.value), `"`)
	}
	if len(labels) > 0 {
		p.add("}")
	}
	p.add(" ", number(value), "\n")
}

func (p *page) add(words ...string) {
	for _, w := range words {
		p.text = append(p.text, w...)
	}
}

func fullName(name string) string { return "debcloud_executor_" + name }

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// single is a metric of one sample.
func (p *page) single(kind, name, help string, value float64, labels ...label) {
	p.family(kind, name, help)
	p.sample(name, value, labels...)
}

func (p *page) histogram(name string, bounds []float64, h histogram, labels ...label) {
	for _, b := range bounds {
		p.sample(name+"_bucket", float64(h.Buckets[number(b)]), append(slices.Clip(labels), label{"le", number(b)})...)
	}
	p.sample(name+"_bucket", float64(h.Count), append(slices.Clip(labels), label{"le", "+Inf"})...)
	p.sample(name+"_sum", h.Sum, labels...)
	p.sample(name+"_count", float64(h.Count), labels...)
}

// pageOf is what there is to tell: the counts and, where it is known, the host's ledger at this moment.
func pageOf(c *counts, host *admission.Snapshot, version string) []byte {
	p := new(page)
	each(p, "counter", "jobs_total", "Attempts at jobs that ended, by result: success, script_failure, refused, cancelled, system_failure.", "result", c.Jobs)
	const prepare = "prepare_seconds"
	p.family("histogram", prepare, "Time of prepare without the wait for room, by start: cold (the VM was booted) or warm (it stood ready).")
	for _, start := range slices.Sorted(maps.Keys(c.Prepare)) {
		p.histogram(prepare, prepareBuckets, c.Prepare[start], label{"start", start})
	}
	p.family("histogram", "boot_seconds", "Time from power-on until the agent in the VM answered.")
	p.histogram("boot_seconds", bootBuckets, c.Boot)
	p.family("histogram", "admission_wait_seconds", "Time that jobs waited for room on the host.")
	p.histogram("admission_wait_seconds", waitBuckets, c.Wait)
	each(p, "counter", "reaped_total", "What the reaper took away because its job was over, by kind.", "kind", c.Reaped)
	p.single("gauge", "build_info", "The program's version; always 1.", 1, label{"version", version})
	if host != nil {
		p.host(*host)
	}
	return p.text
}

// each is a metric with a sample for each value of one label.
func each[K ~string](p *page, kind, name, help, labelName string, values map[K]int) {
	p.family(kind, name, help)
	for _, k := range slices.Sorted(maps.Keys(values)) {
		p.sample(name, float64(values[k]), label{labelName, string(k)})
	}
}

func (p *page) host(s admission.Snapshot) {
	p.single("gauge", "waiting_jobs", "Jobs that wait for room on the host.", float64(len(s.Waiting)))
	if len(s.Waiting) > 0 {
		p.single("gauge", "oldest_waiting_timestamp_seconds", "When the job that waits longest began to. Absent while none waits.", float64(s.Waiting[0].Since.Unix()))
	}
	vms := map[admission.Class]int{admission.Job: 0, admission.Warm: 0}
	for _, e := range s.Entries {
		vms[e.Class] += 1 + len(e.Siblings)
	}
	each(p, "gauge", "vms", "VMs that were admitted, by class: job, warm.", "class", vms)
	b, u := s.Budget, s.Used
	p.single("gauge", "cpus_budget", "Virtual processors that all VMs together may have.", float64(b.CPUs))
	p.single("gauge", "cpus_used", "Virtual processors of admitted VMs.", float64(u.CPUs))
	p.single("gauge", "memory_budget_bytes", "Memory that all VMs together may have.", float64(b.Memory))
	p.single("gauge", "memory_used_bytes", "Memory of admitted VMs.", float64(u.Memory))
	p.single("gauge", "disk_budget_bytes", "Disk that all VMs together may fill.", float64(b.Disk))
	p.single("gauge", "disk_used_bytes", "Disk that admitted VMs may fill.", float64(u.Disk))
}
