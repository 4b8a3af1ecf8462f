package alibabatest

import (
	"crypto/sha512"
	"fmt"

	"salsa.debian.org/cloud-team/debcloud/internal/qcow2/qcow2test"
)

// disk returns the digest and size, in bytes, of the raw disk that an uncompressed qcow2 image holds.
func (s Settings) disk(image []byte) (string, int64, error) {
	if s.Discard {
		return "", 0, nil
	}
	raw, err := qcow2test.Raw(image)
	return fmt.Sprintf("%x", sha512.Sum512(raw)), int64(len(raw)), err
}
