package index

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestServer(t *testing.T) {
	dir := tree(t, trixie)
	mustWrite(t, dir)
	write(t, filepath.Join(dir, ".private/secret"), []byte("secret"))
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, []byte("outside"))
	os.Symlink(outside, filepath.Join(dir, "escape"))
	os.Symlink("20260814-1", filepath.Join(dir, "trixie/latest"))
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	server := httptest.NewServer(Handler(root.FS()))
	defer server.Close()
	const raw = "/trixie/20260814-1/debian-13-genericcloud-amd64-20260814-1.raw"
	for _, row := range []struct {
		summary, method, path, ranges string
		status                        int
		contentType, body             string
	}{
		{"the page", "GET", "/", "", 200, "text/html; charset=utf-8", "Debian cloud images"},
		{"its script", "GET", "/finder/finder.js", "", 200, "text/javascript; charset=utf-8", ""},
		{"its style", "GET", "/finder/finder.css", "", 200, "text/css; charset=utf-8", ""},
		{"the index", "GET", "/index.json", "", 200, "application/json", `"kind": "Index"`},
		{"an image", "GET", raw, "", 200, "application/octet-stream", "contents of"},
		{"a part of an image", "GET", raw, "bytes=0-7", 206, "application/octet-stream", "contents"},
		{"by way of a link", "GET", strings.Replace(raw, "20260814-1/", "latest/", 1), "", 200, "application/octet-stream", ""},
		{"a directory", "GET", "/trixie/20260814-1/", "", 200, "text/html; charset=utf-8", ".qcow2"},
		{"only the head", "HEAD", raw, "", 200, "application/octet-stream", ""},
		{"nothing can be written", "PUT", raw, "", 405, "", ""},
		{"nor deleted", "DELETE", raw, "", 405, "", ""},
		{"a hidden directory", "GET", "/.private/", "", 404, "", ""},
		{"a hidden file", "GET", "/.private/secret", "", 404, "", ""},
		{"up and out", "GET", "/../../etc/passwd", "", 404, "", ""},
		{"up and out, encoded", "GET", "/trixie/%2e%2e/%2e%2e/etc/passwd", "", 404, "", ""},
		{"a link that leads out", "GET", "/escape", "", 500, "", ""},
		{"what is not there", "GET", "/none.json", "", 404, "", ""},
	} {
		t.Run(row.summary, func(t *testing.T) {
			request, err := http.NewRequest(row.method, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.URL.Opaque = row.path // as it is, not cleaned by the client
			if row.ranges != "" {
				request.Header.Set("Range", row.ranges)
			}
			answer, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, _ := io.ReadAll(answer.Body)
			if answer.StatusCode != row.status {
				t.Errorf("status %d, want %d\n%s", answer.StatusCode, row.status, body)
			}
			if row.contentType != "" && answer.Header.Get("Content-Type") != row.contentType {
				t.Errorf("content type %q, want %q", answer.Header.Get("Content-Type"), row.contentType)
			}
			if !strings.Contains(string(body), row.body) || strings.Contains(string(body), "secret") || strings.Contains(string(body), "root:") {
				t.Errorf("body is %.300q", body)
			}
			if row.status == 200 && !strings.Contains(answer.Header.Get("Content-Security-Policy"), "script-src 'self'") {
				t.Error("no policy")
			}
		})
	}
}

func TestListingHidesDots(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "trixie/.staging-1/x"), nil)
	write(t, filepath.Join(dir, "trixie/seen"), nil)
	recorder := httptest.NewRecorder()
	root, _ := os.OpenRoot(dir)
	defer root.Close()
	Handler(root.FS()).ServeHTTP(recorder, httptest.NewRequest("GET", "/trixie/", nil))
	if body := recorder.Body.String(); !strings.Contains(body, "seen") || strings.Contains(body, "staging") {
		t.Errorf("listing is %s", body)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	dir := tree(t, trixie)
	if err := Serve(t.Context(), dir, "127.0.0.1:0", func(string) {}); fault.KindOf(err) != fault.Input || !strings.Contains(fault.HintOf(err), "debcloud index") {
		t.Errorf("a tree without index: %v", err)
	}
	mustWrite(t, dir)
	if err := Serve(t.Context(), dir, "no address", func(string) {}); fault.KindOf(err) != fault.Input {
		t.Errorf("no address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	url, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- Serve(ctx, dir, "127.0.0.1:0", func(u string) { url <- u }) }()
	answer, err := http.Get(<-url)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("still serving")
	}
}
