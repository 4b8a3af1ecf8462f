package raw

import (
	"context"
	"io"
)

const probe = 4 << 10 // bytes of a cluster that are read first: most that has data begins with some

// NonZero returns the clusters of extents that hold something else than zeros. Of those that do it reads little.
func NonZero(ctx context.Context, disk io.ReaderAt, extents []Extent) ([]Extent, error) {
	var data []Extent
	buf := make([]byte, Cluster)
	for _, e := range extents {
		for at, end := e.Offset, e.Offset+e.Length; at < end; at += Cluster {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			cluster := buf[:min(Cluster, end-at)]
			zero, err := isZero(disk, at, cluster)
			if err != nil {
				return nil, err
			}
			last := len(data) - 1
			switch {
			case zero:
			case last >= 0 && data[last].Offset+data[last].Length == at:
				data[last].Length += int64(len(cluster))
			default:
				data = append(data, Extent{Offset: at, Length: int64(len(cluster))})
			}
		}
	}
	return data, nil
}

// isZero tells whether the cluster at an offset has nothing but zeros. buf has its length.
func isZero(disk io.ReaderAt, at int64, buf []byte) (bool, error) {
	for first := min(probe, len(buf)); len(buf) > 0; first = len(buf) {
		if n, err := disk.ReadAt(buf[:first], at); n < first {
			return false, err
		}
		if !Zero(buf[:first]) {
			return false, nil
		}
		at, buf = at+int64(first), buf[first:]
	}
	return true, nil
}
