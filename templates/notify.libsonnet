// notify: writes the feed of the public tree and tells the listeners what is new. DEBCLOUD_LISTENERS, a variable of type file,
// has the listeners; without it there is the feed alone. Who cannot be reached hears of it in the next pipeline: no reason for a
// pipeline to fail.
function(lib) {
  base: lib.job('notify', 'after') + lib.light + lib.guarded {
    resource_group: 'notify',
    allow_failure: { exit_codes: [3] },
    script: [
      './debcloud notify "$DEBCLOUD_TREE" ${DEBCLOUD_PUBLIC_HOST:+--url "' + lib.settings.publicURL + '"} ${DEBCLOUD_LISTENERS:+--listeners "$DEBCLOUD_LISTENERS"}',
    ],
  },
  of(needs): { needs: needs },
}
