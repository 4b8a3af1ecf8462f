package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// archiveCache packs what the patterns name into a file of the cache directory, which ends with the VM, and sends that to the store.
func archiveCache(address, file string, patterns []string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(pack(f, patterns), f.Close()); err != nil {
		return err
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return put(address, body)
}

// extractCache unpacks what the store has here.
func extractCache(address, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := errors.Join(fetch(address, "", f), f.Close()); err != nil {
		return fmt.Errorf("the cache is not there: %w", err)
	}
	return unpack(file)
}

func put(address string, body []byte) error {
	request, err := http.NewRequest(http.MethodPut, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	return send(request, "", http.StatusOK, func(io.Reader) error { return nil })
}
