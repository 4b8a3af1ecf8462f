// part: one of several files of a large pipeline. GitLab takes a child's file only from a job of the same pipeline, so a first
// job fetches it from the parent, whose job "generate" made it, and a second starts it.
function(lib) {
  base: lib.job('unpack', 'images') + lib.light {
    needs: [lib.generated],
    variables+: { GIT_STRATEGY: 'none' },
    before_script: [],
  },
  of(part): {
    script: ['ls -l ' + part.file],
    artifacts: { paths: [part.file], expire_in: '1 day' },
  },
  start(part): {
    stage: 'images',
    needs: ['unpack ' + part.name],
    trigger: {
      include: [{ artifact: part.file, job: 'unpack ' + part.name }],
      strategy: 'depend',
      forward: { pipeline_variables: true },
    },
  },
}
