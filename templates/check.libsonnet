// check: looks into the file system of the image without booting it.
//
// Its report is handed on in a folder of its own: boot goes on with it, and a job that needs both must not get the older one over
// the newer.
function(lib) {
  base: lib.job('check') + lib.documents('out/*.check.xml') {
    script: [
      './debcloud check out/*.build.json || failed=$?',
      'mkdir -p checked && cp out/*.report.json checked/ || exit "${failed:-1}"',
      'exit "${failed:-0}"',
    ],
    artifacts+: { paths: ['checked/', 'out/*.check.xml'] },
  },
  of(cell): {
    needs: lib.program + ['build ' + cell.name],
    variables: cell.variables,
  },
}
