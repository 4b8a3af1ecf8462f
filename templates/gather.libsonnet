// gather: stands for up to 50 jobs, GitLab's limit of needs, and hands their documents on.
//
// It exists where what it gathers does, because GitLab refuses a pipeline with a need of a job that is not there. In a pipeline of
// type dev only the report needs so many; in the others all that is gathered is guarded.
function(lib) {
  base: lib.job('gather', 'promote') + lib.light + lib.documents() + (if lib.context.type == 'dev' then lib.telling else lib.guarded) {
    variables+: { GIT_STRATEGY: 'none' },
    before_script: [],
    artifacts+: { paths+: ['checked/'] },
    script: ['ls out checked || true'],
  },
  // stage: of the job that needs it, because GitLab wants needs in the same or an earlier stage.
  of(needs, stage): { needs: needs, stage: stage },
}
