// report: tells the merge request what check and boot found, in one note and as commit statuses. It runs when they failed, too, and
// tells of an image that was not built, because it is told which ones there are.
//
// The note needs an access token, DEBCLOUD_SALSA_TOKEN; without one it is only printed. GitLab's own troubles do not make the
// pipeline fail.
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
}
