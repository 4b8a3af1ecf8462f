package publishtest

import (
	"bytes"
	"io"
	"net/http"
	"sync"
)

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// Body reads at most that many bytes of a request into memory that a double lends to one request after the other, so that what a bench
// measures is not the double's allocation. done takes it back; a double that keeps the bytes does not call it.
func Body(r *http.Request, most int64) (body []byte, done func(), err error) {
	b := bodies.Get().(*bytes.Buffer)
	b.Reset()
	b.Grow(int(min(max(r.ContentLength, 0), most)) + bytes.MinRead) // so that no byte is moved
	_, err = b.ReadFrom(io.LimitReader(r.Body, most))
	return b.Bytes(), func() { bodies.Put(b) }, err
}
