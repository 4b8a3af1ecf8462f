// promote: makes the images of a release public at one provider, all or none. It needs every publication and every cloud test
// of the release, at every provider, so that no half of a release becomes public (Debian bug 1042367).
//
// The command is told which images that are, and refuses where one of them is missing, so nothing depends on needs alone.
//
// Where a provider cannot be reached, or not in every region, the job warns: the index tells what is public all the same.
//
// A pipeline of type release builds nothing: it promotes the daily version that it names, from the directory.
function(lib)
  local daily = lib.context.type == 'daily';
  local documents = if daily then 'out/*.build.json' else '"$DEBCLOUD_TREE/$DEBCLOUD_RELEASE/daily/$DEBCLOUD_VERSION"/debian-*-"$DEBCLOUD_VERSION".json';
  {
    base(provider): lib.job('promote') + lib.guarded + lib.documents() + lib.login(provider) {
      // One promotion at a time: "latest" has to end up at the newest.
      resource_group: 'promote ' + provider,
      allow_failure: { exit_codes: [3] },
      variables+: {
        DEBCLOUD_PROVIDER: provider,
        [if !daily then 'DEBCLOUD_VERSION']: lib.context.version,
      },
      script: [
        './debcloud publish ' + documents + ' --to "' + lib.provider(provider).target + '" --upload-type ' + lib.context.type
        + ' --stage public --plan matrix --cells "$DEBCLOUD_CELLS" --documents out' + lib.config,
      ],
    },
    // release: with the cells that the pipeline has of it, at any provider.
    of(release, provider, needs): {
      needs: needs,
      variables: { DEBCLOUD_RELEASE: release.name, DEBCLOUD_CELLS: std.join(',', [c.name for c in release.cells]) },
      environment: {
        name: lib.context.type + '/' + provider + '/' + release.name,
        url: lib.settings.publicURL + release.name,
        deployment_tier: if daily then 'staging' else 'production',
      },
    },
  }
