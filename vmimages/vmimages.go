// Package vmimages holds, as data, which images exist and what is in them.
package vmimages

import _ "embed"

// Matrix is the built-in ImageConfig document, as Jsonnet.
//
//go:embed matrix.jsonnet
var Matrix string
