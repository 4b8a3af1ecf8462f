package runnertest

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
)

// CacheStore plays the object store of distributed caches: what is PUT under a name in a folder can be had by GET.
type CacheStore struct{ Dir string }

// ServeHTTP implements http.Handler.
func (c CacheStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file := filepath.Join(c.Dir, path.Base(r.URL.Path))
	switch r.Method {
	case http.MethodPut:
		f, err := os.Create(file)
		if err == nil {
			_, err = io.Copy(f, r.Body)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	case http.MethodGet:
		http.ServeFile(w, r, file)
	default:
		http.Error(w, r.Method, http.StatusMethodNotAllowed)
	}
}
