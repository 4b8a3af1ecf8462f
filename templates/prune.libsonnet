// prune: retires what is old at one provider.
function(lib) {
  base(provider): lib.job('prune', 'after') + lib.light + lib.guarded + lib.login(provider) {
    resource_group: 'promote ' + provider,
    variables+: { DEBCLOUD_PROVIDER: provider },
    script: ['./debcloud prune --to "' + lib.provider(provider).target + '" --tree "$DEBCLOUD_TREE"' + lib.config],
  },
  of(needs): { needs: needs },
}
