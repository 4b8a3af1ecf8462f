// Package vmimages holds, as data, which images exist and what is in them.
package vmimages

import "embed"

// Matrix holds matrix.jsonnet, the built-in ImageConfig document.
//
//go:embed matrix.jsonnet
var Matrix embed.FS
