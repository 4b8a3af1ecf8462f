// Package boot boots a built image as a throwaway VM, once a firmware, and tests it from inside and outside.
//
// Each VM runs on an overlay, so the image stays as it is, on a user-space network of its own, and is seeded by a NoCloud
// disk with a key made for this run. What the guest says of itself is collected by one shell script a phase
// (probes.sh), because under emulation every process and every round trip costs; the checks are functions of what
// was collected and of the console, numbered as in the project's catalogue of checks.
package boot
