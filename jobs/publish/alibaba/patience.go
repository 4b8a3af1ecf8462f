package alibaba

import (
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

// patience says how long Alibaba may take.
type patience struct {
	regions.Patience
	visible time.Duration // until what was just made is found
	pending time.Duration // until an image is done
	calls   int           // of one call
}

var patient = patience{Patience: regions.Patience{Poll: time.Second, PollMost: 20 * time.Second, Tries: 3}, visible: 5 * time.Minute, pending: 4 * time.Hour, calls: 10}
