package metrics

import (
	"maps"
	"time"
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
			buckets[number(b)]++
		}
	}
	return histogram{Count: h.Count + 1, Sum: h.Sum + v, Buckets: buckets}
}
