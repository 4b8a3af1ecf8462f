// Command gitlab-runner stands in for GitLab Runner inside the test guest: the verbs that Runner's scripts call to move
// artifacts and caches, over the same requests to GitLab and to the object store of caches.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
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
	url, token, id := f.String("url", "", ""), f.String("token", "", ""), f.String("id", "", "")
	file := f.String("file", "", "")
	var paths []string
	f.Func("path", "", func(s string) error { paths = append(paths, s); return nil })
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	address := fmt.Sprintf("%s/api/v4/jobs/%s/artifacts", strings.TrimSuffix(*url, "/"), *id)
	switch args[0] {
	case "artifacts-uploader":
		return upload(address, *token, paths)
	case "artifacts-downloader":
		return download(address, *token)
	case "cache-archiver":
		return archiveCache(*url, *file, paths)
	case "cache-extractor":
		return extractCache(*url, *file)
	}
	return fmt.Errorf("no command %q", args[0])
}

// send makes a request and gives the body of the answer to use.
func send(request *http.Request, token string, want int, use func(io.Reader) error) error {
	request.Header.Set("JOB-TOKEN", token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != want {
		b, err := io.ReadAll(response.Body)
		return errors.Join(fmt.Errorf("%s: %s", response.Status, b), err)
	}
	return use(response.Body)
}
