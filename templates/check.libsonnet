// check: looks into the file system of the image without booting it.
function(lib) {
  base: lib.job('check') + lib.documents('out/*.check.xml') {
    script: ['./debcloud check out/*.build.json'],
  },
  of(cell): {
    needs: ['build ' + cell.name],
    variables: cell.variables,
  },
}
