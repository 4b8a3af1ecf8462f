package vmimages

import "embed"

// ConfigSpace holds, below config_space, the FAI config space of the published images.
//
//go:embed all:config_space
var ConfigSpace embed.FS
