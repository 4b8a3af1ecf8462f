// nothing to do: the only job of a pipeline without images, because GitLab refuses a pipeline without jobs. It says why.
function(lib) {
  base: lib.job('nothing to do', 'images') + lib.light {
    variables+: { GIT_STRATEGY: 'none' },
    before_script: [],
  },
  of(why): {
    variables: { DEBCLOUD_WHY: why },
    script: ['echo "$DEBCLOUD_WHY"'],
  },
}
