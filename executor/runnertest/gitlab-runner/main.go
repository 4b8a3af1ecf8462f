// Command gitlab-runner stands in for GitLab Runner inside the test guest: the verbs that Runner's scripts call to move
// artifacts, over the same requests to GitLab.
package main

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gitlab-runner:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 || args[0] == "--version" {
		fmt.Println("Version: 0.0 (stands in for gitlab-runner in tests)")
		return nil
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	url, token, id, path := f.String("url", "", ""), f.String("token", "", ""), f.String("id", "", ""), f.String("path", "", "")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	address := fmt.Sprintf("%s/api/v4/jobs/%s/artifacts", strings.TrimSuffix(*url, "/"), *id)
	switch args[0] {
	case "artifacts-uploader":
		return upload(address, *token, *path)
	case "artifacts-downloader":
		return download(address, *token)
	}
	return fmt.Errorf("no command %q", args[0])
}

func upload(address, token, path string) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", "artifacts.zip")
	if err != nil {
		return err
	}
	if err := pack(part, path); err != nil {
		return err
	}
	if err := form.Close(); err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, address, &body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
	_, err = send(request, token, http.StatusCreated)
	return err
}

func pack(out io.Writer, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	z := zip.NewWriter(out)
	w, err := z.Create(path)
	if err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	return z.Close()
}

func download(address, token string) error {
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	content, err := send(request, token, http.StatusOK)
	if err != nil {
		return err
	}
	z, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return err
	}
	for _, f := range z.File {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("the archive names %q", f.Name)
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if err == nil {
			err = os.WriteFile(f.Name, b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func send(request *http.Request, token string, want int) ([]byte, error) {
	request.Header.Set("JOB-TOKEN", token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != want {
		err = fmt.Errorf("%s: %s", response.Status, b)
	}
	return b, err
}
