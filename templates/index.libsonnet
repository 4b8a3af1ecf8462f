// index: writes index.json of the public tree, from which the finder and the listeners learn what there is.
function(lib) {
  base: lib.job('index', 'after') + lib.light + lib.guarded + lib.documents() {
    resource_group: 'index',
    script: ['./debcloud index "$DEBCLOUD_TREE" --uploads out'],
  },
  of(needs): { needs: needs },
}
