package salsa

import (
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// oneLine makes text from elsewhere one line without control and format characters (among these the ones that reverse the
// direction of writing).
func oneLine(text string) string {
	if isPlain(text) && !strings.Contains(text, "  ") && strings.TrimSpace(text) == text {
		return text
	}
	text = strings.ToValidUTF8(text, "\uFFFD")
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs):
			return -1
		}
		return r
	}, text)), " ")
}

// isPlain tells whether text is printable ASCII, which nearly all is.
func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// shorten cuts text to n characters, the last of which is then an ellipsis.
func shorten(text string, n int) string {
	if len(text) <= n || utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-1]) + "…"
}

var lookalikes = strings.NewReplacer("`", "ˋ", "|", "¦", `\`, "⧵")

// code quotes text from elsewhere as a Markdown code span that is safe in a table cell. GitLab looks for no mention, label or
// reference of any kind in code and renders no HTML or link there. The three characters that could end the span or the cell
// (a backslash is one because the cell is cut before the span is read) are replaced by lookalikes.
func code(text string, n int) string {
	text = lookalikes.Replace(shorten(oneLine(text), n))
	if text == "" {
		return "—"
	}
	return "`" + text + "`"
}

// block quotes text of several lines from elsewhere as a fenced code block. The fence is longer than any run of backticks inside, and every
// line is indented by a space: GitLab's search for quick actions knows no long fences, but wants the slash at the start of a line.
func block(text string, lines, width int) string {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%stext\n", fence)
	all := strings.Split(strings.TrimRight(strings.ReplaceAll(text, "\r", "\n"), "\n"), "\n")
	for i, line := range all {
		if i == lines {
			fmt.Fprintf(&b, " … %d more lines\n", len(all)-i)
			break
		}
		fmt.Fprintf(&b, " %s\n", shorten(printable(line), width))
	}
	return b.String() + fence
}

// printable keeps the blanks of a line, unlike oneLine.
func printable(line string) string {
	if isPlain(line) {
		return line
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp):
			return -1
		}
		return r
	}, strings.ToValidUTF8(line, "\uFFFD"))
}

// inLink encodes what would end a link or a table cell.
var inLink = strings.NewReplacer("(", "%28", ")", "%29", "|", "%7C", "<", "%3C", ">", "%3E", `\`, "%5C", "`", "%60")

// link is a Markdown link. text is ours; target is a checked http URL.
func link(text, target string) string {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return text
	}
	return "[" + text + "](" + inLink.Replace(u.String()) + ")"
}
