package main

import (
	"archive/zip"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
)

// upload sends what the patterns name, folders with all that is in them, as one archive.
func upload(address, token string, patterns []string) error {
	body, in := io.Pipe()
	form := multipart.NewWriter(in)
	go func() { in.CloseWithError(fill(form, patterns)) }()
	request, err := http.NewRequest(http.MethodPost, address, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
	return send(request, token, http.StatusCreated, func(io.Reader) error { return nil })
}

func fill(form *multipart.Writer, patterns []string) error {
	part, err := form.CreateFormFile("file", "artifacts.zip")
	if err != nil {
		return err
	}
	if err := pack(part, patterns); err != nil {
		return err
	}
	return form.Close()
}

func pack(out io.Writer, patterns []string) error {
	z := zip.NewWriter(out)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	packed := make(map[string]bool)
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Clean(pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() || packed[path] {
					return err
				}
				packed[path] = true
				return packFile(z, path, entry)
			})
			if err != nil {
				return err
			}
		}
	}
	fmt.Printf("%d files\n", len(packed))
	return z.Close()
}

func packFile(z *zip.Writer, path string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	header, err := zip.FileInfoHeader(info)
	if err != nil {
		return err
	}
	header.Name, header.Method = filepath.ToSlash(path), zip.Deflate
	w, err := z.CreateHeader(header)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// download unpacks an archive here.
func download(address, token string) error {
	archive, err := os.CreateTemp(".", "artifacts-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(archive.Name())
	defer archive.Close()
	if err := fetch(address, token, archive); err != nil {
		return err
	}
	return unpack(archive.Name())
}

func fetch(address, token string, into io.Writer) error {
	request, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	return send(request, token, http.StatusOK, func(body io.Reader) error {
		_, err := io.Copy(into, body)
		return err
	})
}

func unpack(path string) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if err := unpackFile(f); err != nil {
			return err
		}
	}
	return nil
}

func unpackFile(f *zip.File) error {
	if !filepath.IsLocal(f.Name) {
		return fmt.Errorf("the archive names %q", f.Name)
	}
	if err := os.MkdirAll(filepath.Dir(f.Name), 0o755); err != nil {
		return err
	}
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(f.Name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, f.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
