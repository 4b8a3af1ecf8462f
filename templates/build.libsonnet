// build: makes the image of one cell with FAI, as root in the job's VM.
function(lib) {
  base: lib.job('build') {
    script: ['./debcloud build "$DEBCLOUD_RELEASE" "$DEBCLOUD_VENDOR" "$DEBCLOUD_ARCH" --type "$DEBCLOUD_BUILD_TYPE" --output out'],
    artifacts: {
      name: '$CI_JOB_NAME_SLUG',
      when: 'always',
      expire_in: lib.settings.expire.images,
      paths: ['out/'],
    },
  },
  of(cell): {
    variables: cell.variables { DEBCLOUD_BUILD_TYPE: cell.buildType },
  },
}
