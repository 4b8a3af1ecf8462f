package metrics

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"salsa.debian.org/cloud-team/debcloud/executor/admission"
)

// lockLimit bounds the wait for the counts: an update takes milliseconds.
const lockLimit = time.Minute

// Upper bounds in seconds. A warm prepare takes under one, a boot under emulation minutes, a wait an hour.
var (
	prepareBuckets = []float64{0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600}
	bootBuckets    = []float64{2, 5, 10, 15, 20, 30, 45, 60, 120, 300, 600}
	waitBuckets    = []float64{0.1, 1, 10, 60, 300, 900, 1800, 3600}
)

// counts is the content of the file.
type counts struct {
	Jobs    map[Result]int       `json:"jobs"`
	Prepare map[string]histogram `json:"prepare"`
	Boot    histogram            `json:"boot"`
	Wait    histogram            `json:"wait"`
	Reaped  map[Kind]int         `json:"reaped"`
}

// fill makes every series there is, at zero where it never counted, so that the first event is seen as an increase.
func (c *counts) fill() {
	c.Jobs = withKeys(c.Jobs, Success, ScriptFailure, Refused, Cancelled, SystemFailure)
	c.Prepare = withKeys(c.Prepare, "cold", "warm")
	c.Reaped = withKeys(c.Reaped, Domain, Volume, Directory, Entry)
}

func withKeys[K comparable, V any](m map[K]V, keys ...K) map[K]V {
	if m == nil {
		m = make(map[K]V)
	}
	for _, k := range keys {
		if _, ok := m[k]; !ok {
			var zero V
			m[k] = zero
		}
	}
	return m
}

// boundName is a bound as a key of JSON.
func boundName(bound float64) string { return strconv.FormatFloat(bound, 'g', -1, 64) }

// histogram counts by upper bound, cumulatively, as Prometheus wants it.
type histogram struct {
	Count   uint64            `json:"count"`
	Sum     float64           `json:"sum"`
	Buckets map[string]uint64 `json:"buckets,omitempty"` // by upper bound
}

func (h histogram) observe(bounds []float64, v float64) histogram {
	buckets := maps.Clone(h.Buckets)
	if buckets == nil {
		buckets = make(map[string]uint64)
	}
	for _, b := range bounds {
		if v <= b {
			buckets[boundName(b)]++
		}
	}
	return histogram{Count: h.Count + 1, Sum: h.Sum + v, Buckets: buckets}
}

func (h histogram) metric(d *prometheus.Desc, bounds []float64, labels ...string) prometheus.Metric {
	buckets := make(map[float64]uint64)
	for _, b := range bounds {
		buckets[b] = h.Buckets[boundName(b)]
	}
	return prometheus.MustNewConstHistogram(d, h.Count, h.Sum, buckets, labels...)
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("debcloud_executor_"+name, help, labels, nil)
}

var (
	jobsDesc    = describe("jobs_total", "Attempts at jobs that ended, by result: success, script_failure, refused, cancelled, system_failure.", "result")
	prepareDesc = describe("prepare_seconds", "Time of prepare without the wait for room, by start: cold (the VM was booted) or warm (it stood ready).", "start")
	bootDesc    = describe("boot_seconds", "Time from power-on until the agent in the VM answered.")
	waitDesc    = describe("admission_wait_seconds", "Time that jobs waited for room on the host.")
	reapedDesc  = describe("reaped_total", "What the reaper took away because its job was over, by kind.", "kind")
	waitingDesc = describe("waiting_jobs", "Jobs that wait for room on the host.")
	oldestDesc  = describe("oldest_waiting_timestamp_seconds", "When the job that waits longest began to. Absent while none waits.")
	vmsDesc     = describe("vms", "VMs that were admitted, by class: job, warm.", "class")
	buildDesc   = describe("build_info", "The program's version; always 1.", "version")
)

// gauge is one resource of the host, once as the budget and once as what is used of it.
type gauge struct {
	budget, used *prometheus.Desc
	value        func(admission.Snapshot) (budget, used float64)
}

var hostGauges = []gauge{
	{describe("cpus_budget", "Virtual processors that all VMs together may have."), describe("cpus_used", "Virtual processors of admitted VMs."),
		func(s admission.Snapshot) (float64, float64) { return float64(s.Budget.CPUs), float64(s.Used.CPUs) }},
	{describe("memory_budget_bytes", "Memory that all VMs together may have."), describe("memory_used_bytes", "Memory of admitted VMs."),
		func(s admission.Snapshot) (float64, float64) { return float64(s.Budget.Memory), float64(s.Used.Memory) }},
	{describe("disk_budget_bytes", "Disk that all VMs together may fill."), describe("disk_used_bytes", "Disk that admitted VMs may fill."),
		func(s admission.Snapshot) (float64, float64) { return float64(s.Budget.Disk), float64(s.Used.Disk) }},
}

// collector turns the counts, and the host's ledger at this moment, into metrics.
type collector struct {
	counts  *counts
	host    *admission.Snapshot // nil: unknown
	version string
}

// Describe names no metric: they are checked when they are collected.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends all metrics.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	for _, result := range slices.Sorted(maps.Keys(c.counts.Jobs)) {
		out <- prometheus.MustNewConstMetric(jobsDesc, prometheus.CounterValue, float64(c.counts.Jobs[result]), string(result))
	}
	for _, start := range slices.Sorted(maps.Keys(c.counts.Prepare)) {
		out <- c.counts.Prepare[start].metric(prepareDesc, prepareBuckets, start)
	}
	out <- c.counts.Boot.metric(bootDesc, bootBuckets)
	out <- c.counts.Wait.metric(waitDesc, waitBuckets)
	for _, kind := range slices.Sorted(maps.Keys(c.counts.Reaped)) {
		out <- prometheus.MustNewConstMetric(reapedDesc, prometheus.CounterValue, float64(c.counts.Reaped[kind]), string(kind))
	}
	out <- prometheus.MustNewConstMetric(buildDesc, prometheus.GaugeValue, 1, c.version)
	if c.host != nil {
		c.collectHost(out)
	}
}

func (c *collector) collectHost(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(len(c.host.Waiting)))
	if len(c.host.Waiting) > 0 {
		out <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, float64(c.host.Waiting[0].Since.Unix()))
	}
	vms := map[admission.Class]int{admission.Job: 0, admission.Warm: 0}
	for _, e := range c.host.Entries {
		vms[e.Class] += 1 + len(e.Siblings)
	}
	for class, n := range vms {
		out <- prometheus.MustNewConstMetric(vmsDesc, prometheus.GaugeValue, float64(n), string(class))
	}
	for _, g := range hostGauges {
		budget, used := g.value(*c.host)
		out <- prometheus.MustNewConstMetric(g.budget, prometheus.GaugeValue, budget)
		out <- prometheus.MustNewConstMetric(g.used, prometheus.GaugeValue, used)
	}
}
