// Package qcow2test reads qcow2 images for doubles of clouds, apart from the code that writes them.
package qcow2test

import (
	"encoding/binary"
	"errors"
)

// Raw returns the disk in an uncompressed qcow2 image with clusters of 64 KiB.
func Raw(image []byte) ([]byte, error) {
	if len(image) < 104 || string(image[:4]) != "QFI\xfb" || len(image)%65536 != 0 {
		return nil, errors.New("no whole qcow2 image")
	}
	be := binary.BigEndian
	size, l1Size, l1 := be.Uint64(image[24:]), be.Uint32(image[36:]), be.Uint64(image[40:])
	const offset = 0x00fffffffffffe00
	raw := make([]byte, size)
	for i := range uint64(l1Size) {
		l2 := be.Uint64(image[l1+8*i:]) & offset
		for j := uint64(0); l2 != 0 && j < 8192; j++ {
			if at := be.Uint64(image[l2+8*j:]) & offset; at != 0 {
				copy(raw[min(size, (i*8192+j)*65536):], image[at:at+65536])
			}
		}
	}
	return raw, nil
}
