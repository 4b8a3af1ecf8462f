//go:build !amd64

package sha256pair

const pairs = false

func blocks(*[2]state, *byte, *byte, int) {}

func twice(*[2]state, *byte, int) {}
