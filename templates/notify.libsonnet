// notify: tells the listeners what is new.
function(lib) {
  base: lib.job('notify', 'after') + lib.light + lib.guarded {
    script: ['./debcloud notify "$DEBCLOUD_TREE"'],
  },
  of(needs): { needs: needs },
}
