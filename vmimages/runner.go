package vmimages

import "embed"

// Runner holds, below runner, what the FAI config space of the image has that the executor boots for a job, on top of
// ConfigSpace: class RUNNER stands in the place of a vendor's.
//
//go:embed all:runner
var Runner embed.FS
