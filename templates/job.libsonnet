// Words for writing job kinds: lib = (import 'job.libsonnet')(settings, context).
//
// A kind's file is a function of lib. It returns
//   base   what all jobs of the kind have; becomes the hidden job .KIND, which the others extend
//   of     what one of them has more: a function of what it is made for
// context is what the generator says of the pipeline: type (dev, daily, release), version and config.
function(settings, context) {
  settings: settings,
  context: context,
  local published = context.type != 'dev',

  // What every job has: image, tags, timeouts, retries.
  job(kind, stage=kind): {
    stage: stage,
    image: settings.image,
    tags: settings.tags.vm,
    variables: { GIT_DEPTH: '1' },
    // Only what the runner did wrong is tried again: an image that does not boot stays one.
    retry: { max: settings.retries, when: ['runner_system_failure'] },
    // A newer push to a merge request ends its older jobs. Half a publication helps no one.
    interruptible: !published,
    rules: [{ when: 'on_success' }],
    needs: [],
    before_script: settings.prepare,
  } + $.minutes(kind),

  // How long a job may take, and its script.
  minutes(kind): {
    timeout: settings.minutes[kind] + ' minutes',
    variables+: { RUNNER_SCRIPT_TIMEOUT: (settings.minutes[kind] - 5) + 'm' },
  },

  // A job that needs no machine of its own.
  light: { tags: settings.tags.light },

  // A job that changes what users see: only on a protected ref, where its credentials exist too.
  guarded: {
    rules: [{ 'if': '$CI_COMMIT_REF_PROTECTED == "true"', when: 'on_success' }],
    interruptible: false,
  },

  // A job that tells a merge request what was found, failures above all. GitLab gives a child pipeline its parent's merge request.
  telling: {
    rules: [{ 'if': '$CI_MERGE_REQUEST_IID', when: 'always' }],
  },

  // What a job needs to have ./debcloud: the job of the parent pipeline that built it, once for all. GitLab fetches its artifacts.
  program: if settings.program == null then [] else [{ pipeline: '$PARENT_PIPELINE_ID', job: settings.program }],

  // What a job needs to have the files of a pipeline that was split: the job of the parent pipeline that generated them.
  generated: { pipeline: '$PARENT_PIPELINE_ID', job: 'generate' },

  // What a command that reads the matrix is told where the pipeline was made of another one.
  config: if context.config == '' then '' else ' --config ' + std.escapeStringBash(context.config),

  // A need of another job's success without its artifacts; its name alone is a need with them.
  after(name): { job: name, artifacts: false },

  // Documents are kept whether the job failed or not; GitLab shows the JUnit files in the merge request.
  documents(junit=null): {
    artifacts: {
      name: '$CI_JOB_NAME_SLUG',
      when: 'always',
      expire_in: settings.expire.documents,
      paths: ['out/*.json', 'out/*.xml', 'out/*.log'],
      [if junit != null then 'reports']: { junit: junit },
    },
  },

  // The provider that a vendor's images are uploaded to beside the directory; those that take one upload at a time; what is set about one.
  uploads(cell): settings.steps.clouds && cell.upload,
  tests(cell): settings.steps.cloudTest && $.uploads(cell),
  cloud(vendor): std.get(settings.clouds, vendor, vendor),
  serial: [name for name in std.objectFields(settings.providers) if std.get(settings.providers[name], 'serial', false)],
  provider(name): std.get(settings.providers, name, { target: name }),

  // What a job that talks to a provider has more: its SDK and its login.
  login(name):
    local provider = $.provider(name);
    {
      [if name != 'directory' then 'before_script']: settings.prepare + settings.prepareCloud,
      [if std.objectHas(provider, 'credentials') then 'id_tokens']: provider.credentials,
    },
}
