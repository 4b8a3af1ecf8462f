// promote: makes the images of a release public at one provider, all or none. It needs every publication and every cloud test
// of the release, at every provider, so that no half of a release becomes public (Debian bug 1042367).
//
// A pipeline of type release builds nothing: it promotes the daily version that it names, from the directory.
function(lib)
  local daily = lib.context.type == 'daily';
  local documents = if daily then 'out/*.build.json' else '"$DEBCLOUD_TREE/$DEBCLOUD_RELEASE/daily/$DEBCLOUD_VERSION"/*.build.json';
  {
    base(provider): lib.job('promote') + lib.guarded + lib.documents() + lib.login(provider) {
      // One promotion at a time: "latest" has to end up at the newest.
      resource_group: 'promote ' + provider,
      variables+: {
        DEBCLOUD_PROVIDER: provider,
        [if !daily then 'DEBCLOUD_VERSION']: lib.context.version,
      },
      script: [
        'for build in ' + documents + '; do ./debcloud publish "$build" --to "' + lib.provider(provider).target
        + '" --upload-type ' + lib.context.type + ' --stage public; done',
      ],
    },
    of(release, provider, needs): {
      needs: needs,
      variables: { DEBCLOUD_RELEASE: release },
      environment: {
        name: lib.context.type + '/' + provider + '/' + release,
        url: lib.settings.publicURL + release,
        deployment_tier: if daily then 'staging' else 'production',
      },
    },
  }
