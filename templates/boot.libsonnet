// boot: boots the image with every firmware that its architecture has and tests it from inside. It comes after check, because
// both write into one report.
function(lib) {
  base: lib.job('boot') + lib.documents('out/*.boot.xml') {
    script: ['cp checked/*.report.json out/', './debcloud boot out/*.build.json'],
  },
  of(cell): {
    needs: ['build ' + cell.name, 'check ' + cell.name],
    variables: cell.variables,
  },
}
