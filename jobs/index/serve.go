package index

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// policy lets the pages load nothing but what lies beside them, and run no script but the finder's files. The pages carry the
// same policy themselves, for other web servers.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Serve shows the tree dir over HTTP until ctx ends, which is no error. It tells started its URL once it listens.
func Serve(ctx context.Context, dir, listen string, started func(url string)) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.Inputf("the tree %s cannot be served: %w", dir, err)
	}
	defer root.Close()
	if _, err := root.Stat(IndexName); err != nil {
		return fault.WithHint(fault.Inputf("the tree %s has no %s", dir, IndexName), "run debcloud index %s first", dir)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return fault.WithHint(fault.Inputf("--listen %q: %w", listen, err), "choose another address; port 0 takes a free one")
	}
	server := &http.Server{
		Handler:           Handler(root.FS()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	started("http://" + listener.Addr().String() + "/")
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return stop(server)
}

// stop lets short answers end and cuts long downloads, which can be resumed.
func stop(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}

// Handler serves a tree: reading only, nothing whose name begins with a dot, ranges of big files.
func Handler(tree fs.FS) http.Handler {
	files := http.FileServerFS(undotted{tree})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this server only shows files", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", policy)
		if t := contentType(r.URL.Path); t != "" {
			h.Set("Content-Type", t)
		}
		if path.Ext(r.URL.Path) == "" || strings.HasPrefix(r.URL.Path, "/finder/") || r.URL.Path == "/"+IndexName {
			h.Set("Cache-Control", "no-cache") // asks each time, and gets "not modified"
		}
		files.ServeHTTP(w, r)
	})
}

// contentType does not depend on what the machine's mime.types say.
func contentType(p string) string {
	if path.Base(p) == "SHA512SUMS" {
		return "text/plain; charset=utf-8"
	}
	return map[string]string{
		".json":  "application/json",
		".xz":    "application/x-xz",
		".raw":   "application/octet-stream",
		".qcow2": "application/x-qemu-disk",
		".html":  "text/html; charset=utf-8",
		".css":   "text/css; charset=utf-8",
		".js":    "text/javascript; charset=utf-8",
		".log":   "text/plain; charset=utf-8",
		".xml":   "application/xml",
	}[path.Ext(p)]
}

// undotted hides names that begin with a dot: staging, private images, what a web server should not show.
type undotted struct{ fs.FS }

func (u undotted) Open(name string) (fs.File, error) {
	for part := range strings.SplitSeq(name, "/") {
		if name != "." && strings.HasPrefix(part, ".") {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
	}
	f, err := u.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if file, ok := f.(*os.File); ok {
		return undottedFile{file}, nil
	}
	return f, nil
}

type undottedFile struct{ *os.File }

func (f undottedFile) ReadDir(n int) ([]fs.DirEntry, error) {
	entries, err := f.File.ReadDir(n)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }), err
}

func (f undottedFile) Readdir(n int) ([]fs.FileInfo, error) {
	entries, err := f.File.Readdir(n)
	return slices.DeleteFunc(entries, func(e fs.FileInfo) bool { return strings.HasPrefix(e.Name(), ".") }), err
}
