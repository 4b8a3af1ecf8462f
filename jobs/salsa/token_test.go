package salsa

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// TestTokensStaySecret makes every call fail in every way, with a server that repeats the request's headers in its answers, and
// looks for the tokens in errors, hints, results and the log, down to debug.
func TestTokensStaySecret(t *testing.T) {
	log := captureLog(t)
	echo := func(code int) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		return func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			w.Header().Set("Location", "http://"+r.Host+"/?private_token="+r.Header.Get("Private-Token"))
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"message": {"%s": ["%v"]}}`, r.Header.Get("Private-Token")+r.Header.Get("Job-Token"), r.Header)
		}
	}
	troubles := map[string]func(http.ResponseWriter, *http.Request, http.HandlerFunc){
		"400": echo(400), "401": echo(401), "403": echo(403), "404": echo(404), "409": echo(409), "422": echo(422), "429": echo(429),
		"500": echo(500), "302": echo(302), "418": echo(418), "cut": truncates, "hangs": hangs, "no JSON": func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			fmt.Fprintf(w, "%v", r.Header)
		},
	}
	calls := map[string]func(context.Context, *Client) error{
		"lint": func(ctx context.Context, c *Client) error { _, err := c.Lint(ctx, "a: b", LintOptions{}); return err },
		"schedules": func(ctx context.Context, c *Client) error {
			return c.ApplySchedules(ctx, []Schedule{daily()}, false, func(Action) {})
		},
		"note": func(ctx context.Context, c *Client) error { _, err := c.PostNote(ctx, "", 1, marker(1)); return err },
		"statuses": func(ctx context.Context, c *Client) error {
			_, err := c.SetStatuses(ctx, findings(tested("trixie", "ec2", "amd64")))
			return err
		},
		"latest": func(ctx context.Context, c *Client) error {
			_, err := c.Latest(ctx, wanted, filepath.Join(t.TempDir(), "last"))
			return err
		},
		"documents": func(ctx context.Context, c *Client) error {
			_, err := c.Documents(ctx, []Cell{tested("trixie", "genericcloud", "amd64")}, "main", bothSuites, anHour)
			return err
		},
	}
	var said strings.Builder
	for trouble, act := range troubles {
		for name, call := range calls {
			d := newDouble(t)
			d.lint = lintOK
			d.addPipeline(t, 1, "main", tested("trixie", "genericcloud", "amd64"))
			d.inject(".", 99, act)
			for _, token := range []string{doubleToken, ""} {
				c := d.client(func(o *Options) { o.Token = token })
				c.patience.answer, c.patience.silence, c.patience.attempts = 20*time.Millisecond, 20*time.Millisecond, 2
				err := call(t.Context(), c)
				if err == nil && trouble != "cut" {
					t.Errorf("%s, %s: no error", name, trouble)
				}
				fmt.Fprintf(&said, "%v %+v %#v %s\n", err, err, err, fault.HintOf(err))
			}
		}
	}
	for _, text := range []string{said.String(), log.String()} {
		for _, secret := range []string{doubleToken, doubleJobToken, "s3cr3t"} {
			if at := strings.Index(text, secret); at >= 0 {
				t.Fatalf("a token is in: %s", text[max(0, at-300):min(len(text), at+100)])
			}
		}
	}
	if !strings.Contains(log.String(), "level=DEBUG") {
		t.Error("the log is not the one down to debug")
	}
}

func TestBadOptions(t *testing.T) {
	good := Options{URL: "https://gitlab.example", Project: "a/b", Token: "x"}
	for _, row := range []struct {
		summary, want string
		change        func(*Options)
	}{
		{"no URL", "no GitLab is given", func(o *Options) { o.URL = "" }},
		{"no scheme", "https://HOST", func(o *Options) { o.URL = "gitlab.example" }},
		{"a file", "https://HOST", func(o *Options) { o.URL = "file:///etc/passwd" }},
		{"a password in the URL", "a user or a password", func(o *Options) { o.URL = "https://me:s3cr3t@gitlab.example" }},
		{"a token in the URL", "https://HOST", func(o *Options) { o.URL = "https://gitlab.example/?private_token=" }},
		{"in the clear", "in the clear", func(o *Options) { o.URL = "http://gitlab.example" }},
		{"no project", "no project", func(o *Options) { o.Project = "" }},
		{"a project of two words", "neither a number nor a path", func(o *Options) { o.Project = "a b" }},
		{"a token of two lines", "not one word", func(o *Options) { o.Token = "s3cr3t\nX-Header: 1" }},
		{"a job token that is long", "not one word", func(o *Options) { o.JobToken = strings.Repeat("s3cr3t", 1000) }},
	} {
		o := good
		row.change(&o)
		_, err := New(o)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	for _, url := range []string{"https://gitlab.example", "https://gitlab.example/", "https://gitlab.example/api/v4", "https://host.example/git/api/v4/"} {
		o := good
		o.URL = url
		c, err := New(o)
		if err != nil || !strings.HasSuffix(c.api.BaseURL().Path, "/api/v4/") || strings.Count(c.api.BaseURL().Path, "api") != 1 {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestReadToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, row := range []struct{ text, want string }{
		{"", "empty"}, {"\n", "empty"}, {"s3cr3t two", "not one word"}, {"s3cr3t\nx\n", "not one word"}, {strings.Repeat("s3cr3t", 10_000), "not one word"},
	} {
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadToken(path); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%.20q: %v", row.text, err)
		}
	}
	if err := os.WriteFile(path, []byte("glpat-x\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if token, err := ReadToken(path); token != "glpat-x" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
	if _, err := ReadToken(path + ".none"); fault.KindOf(err) != fault.Input {
		t.Errorf("no file: %v", err)
	}
}
