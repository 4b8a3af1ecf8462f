package check

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// debsums compares each file with the digest that its package brought, as debsums(1) does: configuration files are
// the administrator's, diverted files are looked for where they were moved to, and files that dpkg was told not to
// unpack, or that another package took over, are not missing.
func debsums(ctx context.Context, s *subject, f *findings) error {
	packages, err := s.packages()
	if err != nil {
		return err
	}
	r := sumReader{root: s.root}
	if r.diversions, err = readDiversions(s); err != nil {
		return err
	}
	if r.excluded, err = readExcludes(s); err != nil {
		return err
	}
	// Packages are the unit of work: each has its own few files of dpkg's to read. The largest go first, so that no
	// processor is left with the kernel's modules at the end.
	work := slices.Clone(packages.all)
	sizes := map[string]int64{}
	for _, p := range work {
		if i, err := fs.Stat(s.root, "var/lib/dpkg/info/"+p.qualified()+".md5sums"); err == nil {
			sizes[p.qualified()] = i.Size()
		}
	}
	slices.SortStableFunc(work, func(a, b pkg) int { return int(sizes[b.qualified()] - sizes[a.qualified()]) })

	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range work {
		g.Go(func() error { return r.verify(ctx, p) })
	}
	err = g.Wait()
	slices.Sort(r.wrong)
	f.wrong = append(f.wrong, r.wrong...)
	slices.Sort(r.without)
	f.sawf("%d files of %d packages, %d MiB", r.files.Load(), len(work), r.bytes.Load()>>20)
	if len(r.without) > 0 {
		f.sawf("without digests: %s", strings.Join(r.without, " "))
	}
	return err
}

// sumReader verifies packages, several at once.
type sumReader struct {
	root       fs.FS
	diversions map[string]diversion
	excluded   func(name string) bool
	files      atomic.Int64
	bytes      atomic.Int64

	mu      sync.Mutex
	wrong   []string
	without []string // packages that brought no digests
}

func (r *sumReader) wrongf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// verify compares the files of one package.
func (r *sumReader) verify(ctx context.Context, p pkg) error {
	if !strings.HasSuffix(p.status, " installed") {
		return nil // check 11 tells
	}
	info := "var/lib/dpkg/info/" + p.qualified()
	sums, err := fs.ReadFile(r.root, info+".md5sums")
	if errors.Is(err, fs.ErrNotExist) {
		r.mu.Lock()
		r.without = append(r.without, p.qualified())
		r.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	owned, err := r.owned(info + ".list")
	if err != nil {
		return err
	}
	h, buffer := md5.New(), make([]byte, 256<<10)
	for line := range strings.Lines(string(sums)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		want, name, ok := strings.Cut(strings.TrimRight(line, "\n"), "  ")
		if !ok || len(want) != 2*md5.Size {
			r.wrongf("%s: the digests of package %s have the line %q", info, p.name, line)
			continue
		}
		if slices.Contains(p.conffiles, name) || !owned["/"+name] || r.excluded("/"+name) {
			continue
		}
		if d, ok := r.diversions["/"+name]; ok && d.by != p.name {
			name = d.to
		}
		h.Reset()
		r.compare(p, name, want, h, buffer)
	}
	return nil
}

type hasher interface {
	io.Writer
	Sum([]byte) []byte
}

func (r *sumReader) compare(p pkg, name, want string, h hasher, buffer []byte) {
	file, err := r.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		r.wrongf("/%s of package %s is missing", name, p.qualified())
		return
	}
	if err != nil {
		r.wrongf("/%s of package %s cannot be read: %s", name, p.qualified(), err)
		return
	}
	defer file.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{file}, buffer)
	r.files.Add(1)
	r.bytes.Add(n)
	if err != nil {
		r.wrongf("/%s of package %s cannot be read: %s", name, p.qualified(), err)
	} else if hex.EncodeToString(h.Sum(nil)) != want {
		r.wrongf("/%s of package %s was changed", name, p.qualified())
	}
}

// owned reads what dpkg believes to be in a package: a file that another package replaced is no longer in it, but
// still in the digests.
func (r *sumReader) owned(name string) (map[string]bool, error) {
	text, err := fs.ReadFile(r.root, name)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		names[strings.TrimSuffix(line, "\n")] = true
	}
	return names, nil
}

// diversion is where dpkg puts a file that another package than by brings. to has no leading slash.
type diversion struct{ to, by string }

// readDiversions reads dpkg's database: three lines an entry, the package ":" for the administrator.
func readDiversions(s *subject) (map[string]diversion, error) {
	text, err := s.text("var/lib/dpkg/diversions")
	if err != nil {
		return nil, err
	}
	diversions := map[string]diversion{}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		diversions[lines[i]] = diversion{strings.TrimPrefix(lines[i+1], "/"), lines[i+2]}
	}
	return diversions, nil
}

// pathRule is path-exclude or path-include of dpkg(1).
type pathRule struct {
	exclude bool
	pattern *regexp.Regexp
}

// readExcludes returns whether dpkg's configuration keeps a path from being unpacked: the last rule that matches wins.
func readExcludes(s *subject) (func(name string) bool, error) {
	names, err := fs.Glob(s.root, "etc/dpkg/dpkg.cfg.d/*")
	if err != nil {
		return nil, err
	}
	var rules []pathRule
	for _, name := range append([]string{"etc/dpkg/dpkg.cfg"}, names...) {
		if !dpkgConfig.MatchString(path.Base(name)) {
			continue
		}
		text, err := s.text(name)
		if err != nil {
			return nil, err
		}
		for _, m := range pathOption.FindAllStringSubmatch(text, -1) {
			rules = append(rules, pathRule{m[1] == "exclude", glob(strings.Trim(m[2], `"'`))})
		}
	}
	return func(name string) bool {
		for _, r := range slices.Backward(rules) {
			if r.pattern.MatchString(name) {
				return r.exclude
			}
		}
		return false
	}, nil
}

var (
	dpkgConfig = lazyregexp.New(`^(dpkg\.cfg|[A-Za-z0-9_-]+)$`) // as dpkg(1) reads its configuration directory
	pathOption = lazyregexp.New(`(?m)^\s*path-(exclude|include)(?:\s*=\s*|\s+)(\S+)`)
)

// glob translates a pattern of dpkg's, in which "*" and "?" match a slash too.
func glob(pattern string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(pattern)
	quoted = strings.NewReplacer(`\*`, ".*", `\?`, ".", `\[`, "[", `\]`, "]").Replace(quoted)
	re, err := regexp.Compile("^" + quoted + "$")
	if err != nil {
		return regexp.MustCompile("^" + regexp.QuoteMeta(pattern) + "$")
	}
	return re
}
