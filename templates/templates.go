// Package templates holds, as data, what a planned job looks like in GitLab: a Jsonnet library with one file a job kind.
package templates

import "embed"

// Files holds pipeline.jsonnet, which the generator evaluates, and what it imports.
//
//go:embed *.jsonnet *.libsonnet
var Files embed.FS
