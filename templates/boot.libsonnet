// boot: boots the image with every firmware that its architecture has and tests it from inside. It comes after check, because
// both write into one report.
//
// Where debcloud's executor runs it, the image's VMs are siblings of the job's own, not machines within it.
function(lib) {
  base: lib.job('boot') + lib.documents('out/*.boot.xml') {
    variables+: { DEBCLOUD_SIBLINGS: '1' },
    script: ['cp checked/*.report.json out/', './debcloud boot out/*.build.json'],
  },
  of(cell): {
    needs: lib.program + ['build ' + cell.name, 'check ' + cell.name],
    variables: cell.variables,
  },
}
