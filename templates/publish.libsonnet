// publish: puts a tested image where only the team sees it, the directory or a cloud.
//
// Where some regions failed the image is in the others, and there is an upload document: the job warns then, by an exit code of its
// own, and the release becomes public where it is. An image that is nowhere fails the job, and keeps its release back everywhere.
function(lib) {
  base(provider): lib.job('publish') + lib.guarded + lib.documents() + lib.login(provider) {
    variables+: { DEBCLOUD_PROVIDER: provider },
    allow_failure: { exit_codes: [4] },
    script: [
      './debcloud publish out/*.build.json --to "' + lib.provider(provider).target + '" --upload-type ' + lib.context.type + ' --stage private' + lib.config
      + ' || { code=$?; if [ "$code" = 3 ] && ls out/*.upload-*.json; then exit 4; fi; exit "$code"; }',
    ],
  },
  of(cell, provider): {
    needs: lib.program + ['build ' + cell.name, 'boot ' + cell.name],
    variables: cell.variables { [if cell.uploadGroup != '' then 'DEBCLOUD_UPLOAD_GROUP']: cell.uploadGroup },
    // A provider that takes one upload at a time takes it once a group.
    [if std.member(lib.serial, provider) then 'resource_group']: std.rstripChars('publish ' + provider + ' ' + cell.uploadGroup, ' '),
  },
}
