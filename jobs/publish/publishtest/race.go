//go:build race

package publishtest

const raceDetector = true
