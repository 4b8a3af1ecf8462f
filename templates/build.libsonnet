// build: makes the image of one cell with FAI, as root in the job's VM. All images of a pipeline have one version: the one that
// the generator was given, else the day and number of the pipeline, as upstream's.
function(lib) {
  base: lib.job('build') {
    [if lib.context.version != '' then 'variables']+: { DEBCLOUD_VERSION: lib.context.version },
    script: [
      'version="${DEBCLOUD_VERSION:-$(date -u -d "$CI_PIPELINE_CREATED_AT" +%Y%m%d)-$CI_PIPELINE_IID}"',
      './debcloud build "$DEBCLOUD_RELEASE" "$DEBCLOUD_VENDOR" "$DEBCLOUD_ARCH" --type "$DEBCLOUD_BUILD_TYPE" --version "$version" --build-id "$CI_PROJECT_PATH_SLUG-$CI_COMMIT_REF_SLUG" --output out' + lib.config,
    ],
    artifacts: {
      name: '$CI_JOB_NAME_SLUG',
      when: 'always',
      expire_in: lib.settings.expire.images,
      paths: ['out/'],
    },
  },
  of(cell): {
    needs: lib.program,
    variables: cell.variables { DEBCLOUD_BUILD_TYPE: cell.buildType },
  },
}
