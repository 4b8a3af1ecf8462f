// gather: stands for up to 50 jobs, GitLab's limit of needs, and hands their documents on.
//
// In a pipeline of type dev only the report needs so many.
function(lib) {
  base: lib.job('gather', 'promote') + lib.light + lib.documents() + (if lib.context.type == 'dev' then lib.telling else {}) {
    variables+: { GIT_STRATEGY: 'none' },
    before_script: [],
    artifacts+: { paths+: ['checked/'] },
    script: ['ls out checked || true'],
  },
  // stage: of the job that needs it, because GitLab wants needs in the same or an earlier stage.
  of(needs, stage): { needs: needs, stage: stage },
}
