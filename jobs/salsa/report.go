package salsa

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/atomicfile"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// marker begins every note of ours. It is an HTML comment, which GitLab does not show, and holds the pipeline that the note is on.
func marker(pipeline int64) string {
	return fmt.Sprintf("<!-- debcloud:report pipeline=%d -->", pipeline)
}

var markerForm = lazyregexp.New(`\A<!-- debcloud:report pipeline=([0-9]{1,18}) -->`)

// Posted says what became of a note: "created", "updated", "unchanged", or "outdated" where a later pipeline's note is already there.
type Posted string

// PostNote makes text the one note of ours in a merge request of project ("" means the Client's). Ours is what the token's own user
// wrote and what begins with the marker. Surplus ones, left by two jobs at once, are removed.
func (c *Client) PostNote(ctx context.Context, project string, mergeRequest int64, text string) (Posted, error) {
	if err := c.demandAccess("a note in a merge request"); err != nil {
		return "", err
	}
	if project == "" {
		project = c.project
	}
	me, err := c.currentUser(ctx)
	if err != nil {
		return "", err
	}
	n := &notes{c, ctx, project, mergeRequest, me.ID}
	ours, err := n.ours()
	if err != nil {
		return "", c.explain(ctx, err, "list the notes of merge request !%d", mergeRequest)
	}
	if len(ours) == 0 {
		err := c.createOnce(ctx, func() error { return n.create(text) }, func() (bool, error) {
			now, err := n.ours()
			return len(now) > 0, err
		})
		return "created", c.explain(ctx, err, "create the note in merge request !%d", mergeRequest)
	}
	posted := Posted("updated")
	switch first := ours[0]; {
	case pipelineOf(first.Body) > pipelineOf(text):
		posted = "outdated"
	case strings.TrimSpace(first.Body) == strings.TrimSpace(text):
		posted = "unchanged"
	default:
		err = n.update(first.ID, text)
	}
	for _, surplus := range ours[1:] {
		if err == nil {
			err = n.remove(surplus.ID)
		}
	}
	return posted, c.explain(ctx, err, "update the note in merge request !%d", mergeRequest)
}

func pipelineOf(body string) int64 {
	if m := markerForm.FindStringSubmatch(body); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64) // the form has at most 18 digits
		return n
	}
	return 0
}

// notes are those of one merge request.
type notes struct {
	c            *Client
	ctx          context.Context
	project      string
	mergeRequest int64
	me           int64
}

// ours lists our notes, the oldest first.
func (n *notes) ours() ([]*gitlab.Note, error) {
	order, sort := "created_at", "asc"
	all, err := collect(func(page gitlab.PaginationOptionFunc) ([]*gitlab.Note, *gitlab.Response, error) {
		o := &gitlab.ListMergeRequestNotesOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, OrderBy: &order, Sort: &sort}
		return n.c.api.Notes.ListMergeRequestNotes(n.project, n.mergeRequest, o, gitlab.WithContext(n.ctx), page)
	})
	all = slices.DeleteFunc(all, func(note *gitlab.Note) bool {
		return note.System || note.Author.ID != n.me || !markerForm.MatchString(note.Body)
	})
	slices.SortFunc(all, func(a, b *gitlab.Note) int { return int(a.ID - b.ID) })
	return slices.CompactFunc(all, func(a, b *gitlab.Note) bool { return a.ID == b.ID }), err
}

func (n *notes) create(text string) error {
	_, _, err := n.c.api.Notes.CreateMergeRequestNote(n.project, n.mergeRequest, &gitlab.CreateMergeRequestNoteOptions{Body: &text}, gitlab.WithContext(n.ctx))
	return err
}

func (n *notes) update(id int64, text string) error {
	_, _, err := n.c.api.Notes.UpdateMergeRequestNote(n.project, n.mergeRequest, id, &gitlab.UpdateMergeRequestNoteOptions{Body: &text}, gitlab.WithContext(n.ctx))
	return err
}

func (n *notes) remove(id int64) error {
	_, err := n.c.api.Notes.DeleteMergeRequestNote(n.project, n.mergeRequest, id, gitlab.WithContext(n.ctx))
	if isMissing(err) {
		return nil
	}
	return err
}

// consolePath is where the i-th boot's console log of a cell lies, with slashes.
func consolePath(dir string, c Cell, i int) string {
	return path.Join(filepath.ToSlash(dir), fmt.Sprintf("%s-%s-%s-boot%d.txt", c.Release, c.Vendor, c.Arch, i+1))
}

// maxConsoles bounds the console logs that a job keeps, in bytes: GitLab refuses artifacts of more than 100 MB unless it was told
// otherwise (max_artifacts_size), and the note has links to a few hundred only.
const maxConsoles = 64 << 20

// consoled are the cells whose console logs are kept, those that failed first.
func (f Findings) consoled() []Cell {
	var kept []Cell
	left := maxConsoles
	failed, passed := f.verdicts()
	for _, c := range append(failed, passed...) {
		size := 0
		for _, b := range boots(c) {
			size += len(b.Console)
		}
		if size > 0 && size <= left {
			left -= size
			kept = append(kept, c)
		}
	}
	return kept
}

// WriteConsoles writes the cells' console logs below f.Consoles, as text without escape sequences, so that the CI job can keep them as
// artifacts, to which the note links. The directory must be relative, and below the one that the job runs in.
func WriteConsoles(f Findings) error {
	if !filepath.IsLocal(f.Consoles) {
		return fault.Inputf("the directory %q of the console logs is not below the working directory, so they cannot become artifacts", f.Consoles)
	}
	for _, c := range f.consoled() {
		for i, b := range boots(c) {
			if err := os.MkdirAll(f.Consoles, 0o755); err != nil {
				return fmt.Errorf("console logs: %w", err)
			}
			var text strings.Builder
			for line := range strings.SplitSeq(strings.ReplaceAll(b.Console, "\r\n", "\n"), "\n") {
				text.WriteString(printable(line) + "\n")
			}
			if err := atomicfile.Write(filepath.FromSlash(consolePath(f.Consoles, c, i)), []byte(text.String()), 0o644); err != nil {
				return fmt.Errorf("console logs: %w", err)
			}
		}
	}
	return nil
}
