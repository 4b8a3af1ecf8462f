// report: tells the merge request what check and boot found, in one note and as commit statuses. It runs when they failed, too, and
// tells of an image that was not built, because it is told which ones there are.
//
// The note needs an access token, DEBCLOUD_SALSA_TOKEN; without one it is only printed. GitLab's own troubles do not make the
// pipeline fail.
//
// The documents of a pipeline that was split lie in the pipelines that it started, where no need reaches. They are downloaded, which
// needs the token too. The names of so many images would be no variable (Linux takes 128 KiB): they stand in the files of the parts.
function(lib) {
  base: lib.job('report', 'after') + lib.light + lib.telling + lib.documents() {
    artifacts+: { paths+: ['consoles/'] },
    allow_failure: { exit_codes: [3] },
    script: [
      'if [ -z "$DEBCLOUD_SALSA_TOKEN" ]; then set -- --dry-run; fi',
      // Of two reports on a cell the younger counts. Either folder may be missing, where all failed.
      'mkdir -p checked out',
      './debcloud salsa report checked --dir out --cells "$DEBCLOUD_CELLS" --baseline-ref "$CI_MERGE_REQUEST_TARGET_BRANCH_NAME" "$@"',
    ],
  },
  of(cells): {
    needs: ['check ' + c.name for c in cells] + ['boot ' + c.name for c in cells],
    variables: { DEBCLOUD_CELLS: std.join(',', [c.name for c in cells]) },
  },
  ofParts(parts): lib.minutes('report of parts') {
    needs: [lib.generated] + [lib.after(p.name) for p in parts],
    script: [
      'if [ -z "$DEBCLOUD_SALSA_TOKEN" ]; then echo "There is no note: the documents lie in the pipelines of the parts, which GitLab lists for an access token only; set DEBCLOUD_SALSA_TOKEN."; exit 0; fi',
      './debcloud salsa report --downstream ' + std.join(' ', ['--cells-of ' + std.escapeStringBash(p.file) for p in parts])
      + ' --baseline-ref "$CI_MERGE_REQUEST_TARGET_BRANCH_NAME"',
    ],
  },
}
