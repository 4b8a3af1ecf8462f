// publish: puts a tested image where only the team sees it, the directory or a cloud.
function(lib) {
  base(provider): lib.job('publish') + lib.guarded + lib.documents() + lib.login(provider) {
    variables+: { DEBCLOUD_PROVIDER: provider },
    script: ['./debcloud publish out/*.build.json --to "' + lib.provider(provider).target + '" --upload-type ' + lib.context.type + ' --stage private'],
  },
  of(cell, provider): {
    needs: lib.program + ['build ' + cell.name, 'boot ' + cell.name],
    variables: cell.variables { [if cell.uploadGroup != '' then 'DEBCLOUD_UPLOAD_GROUP']: cell.uploadGroup },
    // A provider that takes one upload at a time takes it once a group.
    [if std.member(lib.serial, provider) then 'resource_group']: std.rstripChars('publish ' + provider + ' ' + cell.uploadGroup, ' '),
  },
}
