// cloud test: boots the image on the cloud that it was uploaded to.
function(lib) {
  base(provider): lib.job('cloud test') + lib.guarded + lib.documents('out/*.boot.xml') + lib.login(provider) {
    variables+: { DEBCLOUD_PROVIDER: provider },
    script: ['./debcloud boot out/*.build.json --on "' + lib.provider(provider).target + '"'],
  },
  of(cell, provider): {
    needs: lib.program + ['boot ' + cell.name, 'publish ' + cell.name + ' ' + provider],
    variables: cell.variables,
  },
}
